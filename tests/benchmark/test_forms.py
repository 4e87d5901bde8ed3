"""What each form of normalisation and pooling costs, by the accelerators' compilers.

`pytest -n0 -s -m slow tests/benchmark/test_forms.py` prints the table of
docs/machines.md, in an environment with the extra `aot`.
"""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import SingleDeviceSharding

from alexnet_jax.benchmark import targets
from alexnet_jax.benchmark.instructions import Instructions
from alexnet_jax.benchmark.kernels import read_kernels
from alexnet_jax.network import gpu, ops, tpu
from alexnet_jax.network.convolutions import in_groups_gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))),
        reason="the extra 'aot' is not installed",
    ),
]

PAPER = {"depth": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75}
MAPS = ((55, 27, 96), (27, 13, 256))  # of conv1 and conv2, and pooled


def convolved(squares, depth, towers):
    """Sums over adjacent maps as a convolution of 1×1 bfloat16 kernels."""
    places = jnp.arange(squares.shape[-1])
    tower = places * towers // len(places)
    near = abs(places[:, None] - places) <= depth // 2
    band = (near & (tower[:, None] == tower)).astype(jnp.bfloat16)
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        *(squares.astype(jnp.bfloat16), band[None, None], (1, 1), "VALID"),
        dimension_numbers=axes,
        preferred_element_type=jnp.float32,
    )


def by_sums(sums):
    own = partial(sums, depth=PAPER["depth"], towers=2)
    how = (own, PAPER["k"], PAPER["alpha"], PAPER["beta"])
    return lambda x, g, *_: (
        ops.normalise(*how, x),
        ops.normalise_gradient(*how, x, g),
    )


def by_kernel(module):
    kernel = partial(module.response_normalisation, towers=2, **PAPER)
    return lambda x, g, *_: (kernel(x), kernel(x, g))


def scattered(x, g, largest, share):
    def windows(x):
        window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")

    return jax.vjp(windows, x)[1](share)


NORMALISATION = {
    "banded product, float32": by_sums(ops.adjacent_maps),
    "masked shifts": by_sums(gpu.adjacent_maps),
    "1×1 convolution, bfloat16": by_sums(convolved),
}
POOLING = {
    "nine slices": lambda x, g, *of: ops.pooling_gradient(x, *of, 3, 2),
    "select and scatter": scattered,
}
FORMS = {
    ("h200-1", 512, "normalisation"): NORMALISATION | {"kernel": by_kernel(gpu)},
    ("h200-1", 512, "pooling's gradient"): POOLING,
    ("tpu-v5e-1", 128, "normalisation"): NORMALISATION | {"kernel": by_kernel(tpu)},
    ("tpu-v5e-1", 128, "pooling's gradient"): POOLING
    | {"kernel": lambda x, g, *of: tpu.pooling_gradient(x, *of)},
}
CHOSEN = {"pooling's gradient": {"h200-1": "nine slices"}}


def cost(target, form, *shapes):
    """(bytes between kernels, milliseconds) of a function of bfloat16 arrays."""
    aim = targets.find(target)
    here = SingleDeviceSharding(aim.devices[0])
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes]
    lowered = jax.jit(form, in_shardings=here, out_shardings=here).lower(*arrays)
    program = Instructions(lowered.compile(aim.options or None).as_text())
    found = read_kernels(program, aim.chip)
    return sum(k.bytes for k in found), 1e3 * sum(k.seconds for k in found)


@pytest.mark.parametrize(("target", "images", "operation"), FORMS)
def test_the_chosen_form_moves_the_fewest_bytes(target, images, operation):
    costs = {}
    for name, form in FORMS[target, images, operation].items():
        total, milliseconds = 0, 0.0
        for side, pooled, channels in MAPS:
            sides = (side, side, pooled, pooled)
            shapes = [(images, own, own, channels) for own in sides]
            moved, own = cost(target, form, *shapes)
            total, milliseconds = total + moved, milliseconds + own
        costs[name] = total
        figures = f"{total / 1e9:.2f} GB, {milliseconds:.2f} ms"
        print(f"\n{target} {operation}: {name}: {figures}")
    chosen = CHOSEN.get(operation, {}).get(target, "kernel")
    costs.pop("select and scatter", 0)  # gives all to one of several maxima
    assert costs[chosen] == min(costs.values())


def test_unrounded_gradients_of_kernels_cost_a_gpu_half_as_much_again():
    layers = {  # x, kernel, gradient; margins and towers
        "conv2": ((27, 27, 96), (5, 5, 48, 256), (27, 27, 256), ((2, 2),) * 2, 2),
        "conv3": ((13, 13, 256), (3, 3, 256, 384), (13, 13, 384), ((1, 1),) * 2, 1),
        "conv4": ((13, 13, 384), (3, 3, 192, 384), (13, 13, 384), ((1, 1),) * 2, 2),
        "conv5": ((13, 13, 384), (3, 3, 192, 256), (13, 13, 256), ((1, 1),) * 2, 2),
    }
    costs = {}
    for sums in (jnp.bfloat16, jnp.float32):
        found = []
        for x, kernel, gradient, margins, towers in layers.values():
            how = {"stride": 1, "margins": margins, "towers": towers, "sums": sums}
            both = partial(in_groups_gradients, **how)
            found.append(cost("h200-1", both, (512, *x), kernel, (512, *gradient)))
        total, milliseconds = map(sum, zip(*found, strict=True))
        costs[sums] = milliseconds
        figures = f"{total / 1e9:.2f} GB, {milliseconds:.2f} ms"
        print(f"\nh200-1 gradients of conv2 to conv5: {sums.__name__}: {figures}")
    assert costs[jnp.float32] > 1.4 * costs[jnp.bfloat16]
