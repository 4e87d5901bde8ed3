"""The update rule of §5 as an optax chain, and the schedules of its rates."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from alexnet_jax.device import on_cpu

# A rate for every kernel and bias: {'conv1': {'kernel': 0.01, 'bias': 0.02}, …}.
Rates = Mapping[str, Mapping[str, float]]


def momentum_with_decay(
    momentum: float, weight_decay: float
) -> optax.GradientTransformationExtraArgs:
    """The paper's update: the rate is inside the velocity (§5).

        v ← 0.9 · v − 0.0005 · ε · w − ε · ∂L/∂w
        w ← w + v

    Biases do not decay (2012 layer.py hard-wires 0). A layer whose rate is 0 is
    frozen: neither it nor its velocity moves (2012 weights.cu skips it). `optax.sgd`
    has the rate outside: there a tenfold drop shrinks the next step tenfold, here the
    velocity keeps its size and decays over the next ten steps.

    Args:
        momentum: 0.9 in the paper.
        weight_decay: 0.0005 in the paper.

    Returns:
        A transformation whose `update` takes the keyword `rates`.
    """

    def kernels_only(params):
        return {layer: {"kernel": True, "bias": False} for layer in params}

    return _freezing(
        optax.chain(
            optax.add_decayed_weights(weight_decay, mask=kernels_only),
            _scale_by_rates(),
            optax.trace(momentum),
        )
    )


def _scale_by_rates() -> optax.GradientTransformationExtraArgs:
    def update(updates, state, params=None, *, rates):
        del params
        return jax.tree.map(lambda u, rate: -rate * u, updates, dict(rates)), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def _freezing(
    inner: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """`inner`, whose velocities, the updates, stand still at a rate of 0."""

    def update(updates, state, params=None, *, rates):
        _, new_state = inner.update(updates, state, params, rates=rates)
        old, new = velocities(state), velocities(new_state)
        kept = jax.tree.map(
            lambda v, v_new, rate: jnp.where(rate == 0, v, v_new), old, new, dict(rates)
        )
        kept = jax.tree.map(_made_once, kept)
        moved = jax.tree.map(
            lambda v, rate: jnp.where(rate == 0, 0, v), kept, dict(rates)
        )
        return moved, optax.tree.set(new_state, trace=kept)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _made_once(velocity: jax.Array) -> jax.Array:
    """Keeps a CPU from computing the velocity twice, for itself and for the weights.

    Each computation would need the weights and velocities as they were, so all of them
    were copied first: for fc6, 107 ms in place of 15.
    """
    return jax.lax.optimization_barrier(velocity) if on_cpu() else velocity


def velocities(state: optax.OptState):
    """The velocity of every parameter, as a tree like the parameters."""
    return optax.tree.get(state, "trace")


@dataclasses.dataclass(frozen=True)
class Drop:
    """From this epoch on, these rates."""

    epoch: float
    rate: float
    bias_rate: float


@dataclasses.dataclass(frozen=True)
class EpochSchedule:
    """Rates by epoch, the same in every run: how the 2012 runs were scripted.

    Attributes:
        drops: of all layers, by rising epoch; the first is at epoch 0.
        layers: {'conv1': drops that go before `drops` from their epoch on}.
    """

    drops: Sequence[Drop]
    layers: Mapping[str, Sequence[Drop]] = dataclasses.field(default_factory=dict)

    def rates(self, epoch: float, names: Sequence[str]) -> Rates:
        """The rates of every layer at an epoch, which may be fractional."""
        common = [drop for drop in self.drops if drop.epoch <= epoch]
        rates = {}
        for name in names:
            own = [d for d in self.layers.get(name, ()) if d.epoch <= epoch]
            drop = (own or common)[-1]
            rates[name] = {"kernel": drop.rate, "bias": drop.bias_rate}
        return rates


@dataclasses.dataclass(frozen=True)
class Plateau:
    """§5's heuristic and its memory, saved with every checkpoint.

    The rate is divided by `factor` when the validation error has not improved for
    `patience` validations in a row; after `drops` divisions, the next such stop ends
    the training. Immutable: each validation gives the next one.

    Attributes:
        rate: of the weights at the start.
        bias_rate: of the biases at the start; divided along.
        factor: 10 in the paper.
        drops: 3 in the paper.
        patience: validations without improvement that count as 'stopped improving'.
        best: lowest validation top-1 error so far, from 0 to 1.
        waited: validations since then.
        dropped: divisions so far.
    """

    rate: float
    bias_rate: float
    factor: float
    drops: int
    patience: int
    best: float = float("inf")
    waited: int = 0
    dropped: int = 0

    def rates(self, epoch: float, names: Sequence[str]) -> Rates:
        """The rates now; the epoch plays no part."""
        del epoch
        divisor = self.factor ** min(self.dropped, self.drops)
        own = {"kernel": self.rate / divisor, "bias": self.bias_rate / divisor}
        return dict.fromkeys(names, own)

    def after_validation(self, error: float) -> "Plateau":
        """The plateau that has seen one more validation error."""
        if error < self.best:
            return dataclasses.replace(self, best=error, waited=0)
        if self.waited + 1 < self.patience:
            return dataclasses.replace(self, waited=self.waited + 1)
        return dataclasses.replace(self, waited=0, dropped=self.dropped + 1)

    @property
    def finished(self) -> bool:
        """Whether the error stopped improving at the lowest rate too."""
        return self.dropped > self.drops

    def memory(self) -> dict[str, float]:
        """What a checkpoint keeps of it."""
        return {"best": self.best, "waited": self.waited, "dropped": self.dropped}

    def with_memory(self, memory: Mapping[str, float]) -> "Plateau":
        """This plateau, remembering what a checkpoint kept."""
        return dataclasses.replace(
            self,
            best=float(memory["best"]),
            waited=int(memory["waited"]),
            dropped=int(memory["dropped"]),
        )
