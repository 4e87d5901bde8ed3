"""Operations on maps in the form of the target that is compiled for.

The formulas stand in `ops`, the other forms under the name of their target.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from alexnet_jax import device
from alexnet_jax.errors import InputError
from alexnet_jax.network import cpu, gpu, ops, tpu


def response_normalisation(
    x: jax.Array,
    *,
    depth: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    towers: int,
) -> jax.Array:
    """Local response normalisation across maps (§3.3).

        b_i = a_i / (k + α Σ_j a_j²)^β,   j from i − n/2 to i + n/2 in i's own tower

    The sum is not divided by n: the 2012 code's scale 1e-4 over n = 5 is α = 2e-5.

    Args:
        x: (B, H, W, towers · C).
        depth: n, the number of adjacent maps summed over; odd.
        k: added to the sum.
        alpha: factor of the sum.
        beta: exponent.
        towers: windows are cut where one tower's maps end.
    """
    _require_odd("response_depth", depth)
    with jax.named_scope("normalisation"):
        return _across_maps(x, depth, k, alpha, beta, towers)


def spatial_normalisation(
    x: jax.Array,
    *,
    size: int = 5,
    k: float = 1.0,
    alpha: float = 4e-5,
    beta: float = 0.75,
) -> jax.Array:
    """Response normalisation within each map, `rnorm` over conv2 in config 145.

        b_yx = a_yx / (k + α Σ a²)^β   over the size×size neighbourhood, cut at edges

    The paper does not mention it. The code's scale 0.001 over 25 is α = 4e-5.

    Args:
        x: (B, H, W, C).
        size: side of the neighbourhood in pixels; odd.
        k: added to the sum.
        alpha: factor of the sum.
        beta: exponent.
    """
    _require_odd("size of the neighbourhood", size)

    def neighbourhood(squares: jax.Array) -> jax.Array:
        return ops.window_sums(squares, size, stride=1, before=size // 2)

    with jax.named_scope("spatial_normalisation"):
        return ops.normalise(neighbourhood, k, alpha, beta, x)


def overlapping_pooling(x: jax.Array, size: int = 3, stride: int = 2) -> jax.Array:
    """Max pooling with windows larger than their stride (§3.4).

    The grid covers the image, 1 + ceil((side − size) / stride) a side, and a window
    that overhangs is cut at the edge (2012 layer.py). In the backward pass every
    position equal to the maximum takes the full gradient, as in the 2012 kernels.

    Args:
        x: (B, H, W, C).
        size: side of a window, in pixels.
        stride: pixels between neighbouring windows.
    """
    with jax.named_scope("pooling"):
        return _largest(x, size, stride)


def _require_odd(name: str, size: int) -> None:
    # An even window is not symmetric, and its transpose would be another window.
    if size % 2 == 0:
        raise InputError(f"{name}={size}: must be odd")


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4, 5))
def _across_maps(x, *how):
    return _across_maps_forward(x, *how)[0]


def _across_maps_forward(x, *how):
    return _of_target(ops.normalise, how, x), x


def _across_maps_backward(*args):
    *how, x, gradient = args
    with jax.named_scope("normalisation"):
        return (_of_target(ops.normalise_gradient, how, x, gradient),)


_across_maps.defvjp(_across_maps_forward, _across_maps_backward)


def _of_target(formula: Callable, how: Sequence, *arrays: jax.Array) -> jax.Array:
    """Response normalisation, or its gradient, in the target's form."""
    depth, k, alpha, beta, towers = how

    def plain(window_sum):
        own = partial(window_sum, depth=depth, towers=towers)
        return partial(formula, own, k, alpha, beta)

    forms = {"default": plain(ops.adjacent_maps), "cuda": plain(gpu.adjacent_maps)}
    forms["cpu"] = cpu.apart(plain(cpu.adjacent_maps))
    if arrays[0].dtype == jnp.bfloat16:
        own = {"depth": depth, "k": k, "alpha": alpha, "beta": beta, "towers": towers}
        forms["cuda"] = partial(gpu.response_normalisation, **own)
        forms["tpu"] = partial(tpu.response_normalisation, **own)
    return device.by_target(*arrays, **forms)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _largest(x: jax.Array, size: int, stride: int) -> jax.Array:
    return ops.largest(x, size, stride)


def _largest_forward(x, size, stride):
    # XLA for TPUs would compute them again for the backward pass, at 0.5 ms a step.
    once = jax.lax.optimization_barrier
    maxima = _largest(x, size, stride)
    maxima = device.by_target(maxima, tpu=once, default=lambda same: same)
    return maxima, (x, maxima)


def _largest_backward(size, stride, saved, gradient):
    x, maxima = saved
    plain = partial(ops.pooling_gradient, size=size, stride=stride)
    forms = {"cpu": cpu.apart(plain)}
    if (size, stride) == (3, 2):
        forms["tpu"] = tpu.pooling_gradient
    with jax.named_scope("pooling"):
        return (device.by_target(x, maxima, gradient, default=plain, **forms),)


_largest.defvjp(_largest_forward, _largest_backward)
