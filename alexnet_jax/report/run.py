"""A run as its folder describes it: config, log and newest checkpoint."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax.config import FIELDS, Change
from alexnet_jax.errors import printable
from alexnet_jax.values import flat

ERROR, VALIDATION_ERROR = "train/top1_error", "validation/top1_error"


@dataclass(frozen=True)
class Run:
    """What is known of a run without its images."""

    name: str
    folder: Path
    config: ConfigDict
    classes: list[str]  # in label order; empty where they are not known yet
    log: list[dict[str, Any]]  # the lines of metrics.jsonl
    images: int | None  # in the training set
    total: int | None  # steps of the whole run; a plateau may end it before
    checkpoint: int | None  # steps done in the newest one
    damage: str = ""  # the lines of the log that cannot be read, in words

    def series(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """A key's values (n,) in the log, and the epochs (n,) that they end."""
        rows = [(line["epoch"], line[key]) for line in self._lines("epoch", key)]
        epochs, values = np.array(rows, float).reshape(-1, 2).T
        return epochs, values

    def _lines(self, *keys: str) -> Iterator[dict[str, Any]]:
        """The lines that have these keys as finite numbers."""
        for line in self.log:
            values = [line.get(key) for key in keys]
            if all(isinstance(v, int | float) and abs(v) < math.inf for v in values):
                yield line

    def last(self, key: str) -> float | None:
        """The last value of a key in the log."""
        values = self.series(key)[1]
        return values[-1] if len(values) else None

    @property
    def steps(self) -> int:
        """Steps done, as far as log and checkpoint show."""
        return max([line["step"] for line in self.log] + [self.checkpoint or 0])

    @property
    def complete(self) -> bool:
        """Whether the training has ended."""
        return self._plateau_ended() or bool(self.total and self.steps >= self.total)

    def _plateau_ended(self) -> bool:
        """Whether no validation improved for long enough at the lowest rate (§5)."""
        c = self.config.optimizer
        lines = list(self._lines(VALIDATION_ERROR, "train/learning_rate"))
        last, before = lines[-c.patience :], lines[: -c.patience]
        if c.schedule != "plateau" or not before:
            return False
        best = min(line[VALIDATION_ERROR] for line in before)
        lowest = c.rate / c.plateau_factor**c.plateau_drops
        return all(
            line[VALIDATION_ERROR] >= best
            and math.isclose(line["train/learning_rate"], lowest, rel_tol=1e-6)
            for line in last
        )

    @property
    def images_per_second(self) -> float | None:
        """The median speed of training."""
        speeds = self.series("train/images_per_second")[1]
        return float(np.median(speeds)) if len(speeds) else None

    @property
    def seconds(self) -> float | None:
        """Time of the logged steps, without validations."""
        if not self.images_per_second:
            return None
        seconds, before = 0.0, 0
        for line in self.log:
            speed = line.get("train/images_per_second")
            if not isinstance(speed, int | float) or not 0 < speed < math.inf:
                speed = self.images_per_second
            seconds += (line["step"] - before) * self.config.batch_size / speed
            before = line["step"]
        return seconds

    def rate_changes(self) -> list[tuple[float, float]]:
        """(epoch, new learning rate), in order."""
        epochs, rates = self.series("train/learning_rate")
        at = np.flatnonzero(~np.isclose(rates[1:], rates[:-1], rtol=1e-6, atol=0))
        return [(float(epochs[i]), float(rates[i + 1])) for i in at]


def training_images(log: Sequence[dict[str, Any]], batch_size: int) -> int | None:
    """The number of training images, as the epochs of a log show it."""
    for line in reversed(log):
        epoch = line.get("epoch")
        if isinstance(epoch, int | float) and 1e-9 < epoch < math.inf:
            return round(line["step"] * batch_size / epoch)
    return None


def names_of(folders: Sequence[Path]) -> list[str]:
    """The last parts of their paths, as many as tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = [printable("/".join(own[-count:])) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def differences(run: Run, first: Run) -> dict[str, str]:
    """The config keys, but the seed, whose values could change a result and differ."""
    own, others = flat(run.config), flat(first.config)
    return {
        key: _change(others[key], own[key])
        for key, field in FIELDS.items()
        if own[key] != others[key] and field.change != Change.ANY_TIME and key != "seed"
    }


def _change(before: Any, now: Any) -> str:
    """A value; of a list of names those that were replaced."""
    if isinstance(now, list) and now and all(isinstance(item, str) for item in now):
        gone, new = Counter(before) - Counter(now), Counter(now) - Counter(before)
        if gone or new:
            return f"{_counted(new) or 'none'} for {_counted(gone) or 'none'}"
    return printable(f"{now}")


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{name} ×{n}" if n > 1 else name for name, n in names.items())
