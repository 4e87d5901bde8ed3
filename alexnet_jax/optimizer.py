"""The update rule of §5 and the schedules of its learning rates."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from alexnet_jax import device
from alexnet_jax.errors import InputError
from alexnet_jax.values import one_of

# One learning rate a kernel and a bias: {'conv1': {'kernel': 0.01, 'bias': 0.02}, …}.
Rates = Mapping[str, Mapping[str, float]]


def momentum_with_decay(
    momentum: float, weight_decay: float, by_layer: Mapping[str, float] | None = None
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

    Returns:
        A transformation whose `update` takes the keyword `rates`; its state is an
        `optax.TraceState` of the velocities.
    """

    def init(params):
        return optax.TraceState(trace=jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params, *, rates):
        def velocity(path, v, w, gradient, rate):
            own = (by_layer or {}).get(path[0].key, weight_decay)
            decay = own if path[-1].key == "kernel" else 0.0
            moving = momentum * v - rate * (gradient + decay * w)
            v = jnp.where(rate == 0, v, moving)
            # XLA:CPU would compute it twice, here and for the weights, and so copy all
            # old weights and velocities first: for fc6, 107 ms in place of 15.
            barrier = jax.lax.optimization_barrier
            return device.by_target(v, cpu=barrier, default=lambda v: v)

        velocities = jax.tree_util.tree_map_with_path(
            velocity, state.trace, params, gradients, dict(rates)
        )
        steps = jax.tree.map(
            lambda v, rate: jnp.where(rate == 0, 0, v), velocities, dict(rates)
        )
        return steps, optax.TraceState(trace=velocities)

    return optax.GradientTransformationExtraArgs(init, update)


class Drop(NamedTuple):
    """The learning rates from an epoch on."""

    epoch: float
    rate: float
    bias_rate: float


def read_drops(rows: Sequence[Sequence[float]], key: str) -> list[Drop]:
    """Rows of (epoch, weight rate, bias rate) of a config key, by rising epoch."""
    drops: list[Drop] = []
    for row in rows:
        try:
            drop = Drop(*map(float, row))
        except (TypeError, ValueError):
            raise InputError(
                f"{key}={row}: must be rows of (epoch, weight rate, bias rate)"
            ) from None
        if not all(0 <= number < math.inf for number in drop):
            raise InputError(f"{key}={row}: epoch and rates must be 0 or more")
        if drops and drop.epoch <= drops[-1].epoch:
            raise InputError(
                f"{key}={row}: comes after epoch {drops[-1].epoch:g}; put the rows in "
                "order of their epochs"
            )
        drops.append(drop)
    return drops


def read_layer_drops(
    rows: Sequence[Sequence[Any]], layers: Sequence[str], key: str
) -> dict[str, list[Drop]]:
    """Rows of (layer, epoch, weight rate, bias rate), as {layer: drops}."""
    by_layer: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        if not isinstance(row, list | tuple) or len(row) != 4:
            raise InputError(
                f"{key}={row}: must be rows of (layer, epoch, weight rate, bias rate)"
            )
        by_layer.setdefault(one_of(row[0], layers, key), []).append(row[1:])
    return {layer: read_drops(own, key) for layer, own in by_layer.items()}


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


@dataclasses.dataclass(frozen=True)
class EpochSchedule:
    """Learning rates by epoch, as the 2012 runs were scripted."""

    drops: Sequence[Drop]  # of all layers, by rising epoch; the first is at epoch 0
    # By layer: those that override `drops` from their epoch on.
    layers: Mapping[str, Sequence[Drop]] = dataclasses.field(default_factory=dict)
    finished: ClassVar[bool] = False  # such a training ends with its last step

    def rates(self, epoch: float, names: Sequence[str]) -> Rates:
        """The learning rates of every layer at a (fractional) epoch."""
        common = [drop for drop in self.drops if drop.epoch <= epoch]
        rates = {}
        for name in names:
            own = [d for d in self.layers.get(name, ()) if d.epoch <= epoch]
            drop = (own or common)[-1]
            rates[name] = {"kernel": drop.rate, "bias": drop.bias_rate}
        return rates


@dataclasses.dataclass(frozen=True)
class Plateau:
    """§5's heuristic: lower the learning rate when the error stops improving.

    The rate is divided by `factor` when the validation error has not improved for
    `patience` validations in a row; after `drops` divisions, the next such stop ends
    the training. An error that has never been better than chance does not count: it has
    not begun to improve.
    """

    rate: float  # learning rate of the weights at the start
    bias_rate: float
    factor: float  # 10 in the paper
    drops: int  # 3 in the paper
    patience: int  # validations
    chance: float = 1.0  # top-1 error below which the network learns (`chance_error`)
    best: float = float("inf")  # lowest validation top-1 error so far, from 0 to 1
    waited: int = 0  # validations without improvement
    dropped: int = 0  # divisions so far

    def rates(self, epoch: float, names: Sequence[str]) -> Rates:
        """The learning rates now, whatever the epoch."""
        divisor = self.factor ** min(self.dropped, self.drops)
        own = {"kernel": self.rate / divisor, "bias": self.bias_rate / divisor}
        return dict.fromkeys(names, own)

    def after_validation(self, error: float) -> "Plateau":
        """The plateau after one more validation error."""
        if error < self.best:
            return dataclasses.replace(self, best=error, waited=0)
        if self.best >= self.chance:
            return self
        if self.waited + 1 < self.patience:
            return dataclasses.replace(self, waited=self.waited + 1)
        return dataclasses.replace(self, waited=0, dropped=self.dropped + 1)

    @property
    def finished(self) -> bool:
        """Whether the error stopped improving at the lowest learning rate too."""
        return self.dropped > self.drops

    def memory(self) -> dict[str, float]:
        """The part that changes, for a checkpoint."""
        return {"best": self.best, "waited": self.waited, "dropped": self.dropped}

    def with_memory(self, memory: Mapping[str, Any]) -> "Plateau":
        """This plateau with the part that a checkpoint kept."""
        return dataclasses.replace(self, **memory)


def chance_error(classes: int, images: int) -> float:
    """The top-1 error of guessing, less three standard deviations of its estimate.

    The classes are equally frequent, and the error is measured on so many images.
    """
    error = 1 - 1 / classes
    return error - 3 * (error * (1 - error) / images) ** 0.5
