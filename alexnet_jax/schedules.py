"""Learning rates: by epoch, by plateaus (§5), or up and then down."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from alexnet_jax.errors import InputError
from alexnet_jax.values import one_of

LAST_DROP = 0.9  # of a run, where its last drop is suggested

# One learning rate a kernel and a bias: {'conv1': {'kernel': 0.01, 'bias': 0.02}, …}.
Rates = Mapping[str, Mapping[str, float]]


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
class PolynomialSchedule:
    """Learning rates that rise to their height and fall to 0, for large batches.

    They rise in proportion to the epoch, then fall with a power of the share that is
    left (You et al., 2017: 2).
    """

    rate: float  # the highest, of the weights
    bias_rate: float
    power: float
    warmup: float  # epochs until the highest
    epochs: float  # of the training
    finished: ClassVar[bool] = False

    def rates(self, epoch: float, names: Sequence[str]) -> Rates:
        """The learning rates of every layer at a (fractional) epoch."""
        if epoch < self.warmup:
            share = epoch / self.warmup
        else:
            left = max(0.0, self.epochs - epoch) / (self.epochs - self.warmup)
            share = left**self.power
        own = {"kernel": self.rate * share, "bias": self.bias_rate * share}
        return dict.fromkeys(names, own)


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


def late_drops(
    schedule: str,
    drops: Sequence[Sequence[float]],
    layer_drops: Sequence[Sequence[Any]],
    end: float,
) -> str:
    """Lines about drops of the learning rate that a run never comes to; '' if none.

    A run with fewer epochs keeps the epochs of its drops; the lines have them scaled.

    Args:
        schedule: the config's, as are the two lists of rows.
        drops: see `read_drops`.
        layer_drops: see `read_layer_drops`.
        end: epochs of the run.
    """
    if schedule != "epochs" and (drops or layer_drops):
        how = "at plateaus" if schedule == "plateau" else "with every step"
        return (
            f"learning rate: falls {how}; optimizer.drops and layer_drops are for "
            "optimizer.schedule='epochs', and not used"
        )
    late = [f"{epoch:g}" for epoch, *_ in drops if epoch >= end]
    if schedule != "epochs" or not late:
        return ""
    scale = LAST_DROP * end / drops[-1][0]

    def scaled(epoch: float) -> float:
        return float(f"{epoch * scale:.3g}")

    lines = [
        f"learning rate: falls {len(drops) - len(late)} of {len(drops)} times; "
        f"the run ends at epoch {end:.4g}, optimizer.drops has {', '.join(late)}. "
        "To scale them:"
    ]
    sooner: Any = tuple((scaled(epoch), *rates) for epoch, *rates in drops)
    lines.append(f"  --config.optimizer.drops='{sooner}'")
    if layer_drops:
        sooner = tuple((name, scaled(e), *rates) for name, e, *rates in layer_drops)
        lines.append(f"  --config.optimizer.layer_drops='{sooner}'")
    return "\n".join(lines)
