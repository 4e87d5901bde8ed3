"""The update rule of §5, and with the rates by layer of LARS."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from alexnet_jax import device
from alexnet_jax.errors import InputError
from alexnet_jax.values import one_of

# Which learning rate a parameter has; averages of batch normalisation have none.
RATE = {"kernel": "kernel", "bias": "bias", "scale": "bias"}


def momentum_with_decay(
    momentum: float,
    weight_decay: float,
    by_layer: Mapping[str, float] | None = None,
    trust: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """The paper's update, with the learning rate ε inside the velocity (§5).

        v ← 0.9 · v − 0.0005 · ε · w − ε · ∂L/∂w
        w ← w + v

    Biases do not decay (hard-wired in 2012 layer.cu). A layer whose ε is 0 is frozen:
    neither its weights nor its velocity move (2012 weights.cu skips it). In `optax.sgd`
    ε is outside: there a tenfold drop shrinks the next step tenfold, here the velocity
    keeps its size and decays over the next ten steps.

    Args:
        momentum: 0.9 in the paper.
        weight_decay: 0.0005 in the paper.
        by_layer: weight decays of layers that have their own, as the CIFAR-10 networks.
        trust: η of LARS (You et al., 2017): ε of a kernel is multiplied by
            η · |w| / |∂L/∂w + 0.0005 · w|, as in `optax.lars`; 0: it is not.

    Returns:
        A transformation whose `update` takes the keyword `rates`; its state is an
        `optax.TraceState` of the velocities.
    """

    def init(params):
        return optax.TraceState(trace=jax.tree.map(jnp.zeros_like, params))

    in_proportion = optax.scale_by_trust_ratio(trust_coefficient=trust)

    def update(gradients, state, params, *, rates):
        def velocity(path, v, w, gradient):
            rate = rate_of(path, rates)
            own = (by_layer or {}).get(path[0].key, weight_decay)
            decay = own if path[-1].key == "kernel" else 0.0
            change = gradient + decay * w
            if trust and path[-1].key == "kernel":
                change, _ = in_proportion.update(change, in_proportion.init(w), w)
            moving = momentum * v - rate * change
            v = jnp.where(rate == 0, v, moving)
            # XLA:CPU would compute it twice, here and for the weights, and so copy all
            # old weights and velocities first: for fc6, 107 ms in place of 15.
            barrier = jax.lax.optimization_barrier
            return device.by_target(v, cpu=barrier, default=lambda v: v)

        velocities = jax.tree_util.tree_map_with_path(
            velocity, state.trace, params, gradients
        )
        return moves(velocities, rates), optax.TraceState(trace=velocities)

    return optax.GradientTransformationExtraArgs(init, update)


def moves(velocities: Any, rates: Any) -> Any:
    """What §5 adds to the weights: the velocities, and 0 where the rate is 0."""

    def move(path, v):
        return jnp.where(rate_of(path, rates) == 0, 0, v)

    return jax.tree_util.tree_map_with_path(move, velocities)


def rate_of(path: Any, rates: Any) -> Any:
    """The learning rate of a parameter; 0 for those that are not learnt.

    Args:
        path: of the parameter in {layer: {'kernel', 'bias', …}}.
        rates: {layer: {'kernel', 'bias'}}.
    """
    own = RATE.get(path[-1].key)
    return rates[path[0].key][own] if own else 0.0


def read_layer_decays(
    rows: Sequence[Sequence[Any]], layers: Sequence[str]
) -> dict[str, float]:
    """Rows of (layer, weight decay) of optimizer.layer_decays, as {layer: decay}."""
    key, decays = "optimizer.layer_decays", {}
    for row in rows:
        try:
            layer, decay = row[0], float(row[1])
        except (TypeError, ValueError, LookupError):
            raise InputError(f"{key}={row}: must be rows of (layer, decay)") from None
        if not 0 <= decay < math.inf:
            raise InputError(f"{key}={row}: the decay must be 0 or more")
        decays[one_of(layer, layers, key)] = decay
    return decays
