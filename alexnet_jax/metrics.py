"""Sums over examples, the error rates made of them, and metrics.jsonl."""

import json
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from alexnet_jax.data.files import replaced, set_aside


@flax.struct.dataclass
class Sums:
    """Sums over examples, scalars; in float32 counts are exact below 2²⁴ examples."""

    images: jax.Array  # number of examples
    loss: jax.Array  # of −log p(label), in nats
    top1: jax.Array  # examples whose likeliest class is wrong
    top5: jax.Array  # examples whose label is not among the five likeliest classes

    @classmethod
    def zero(cls, dtype: jnp.dtype = jnp.float32) -> "Sums":
        """The sums over no examples."""
        return cls(*[jnp.zeros((), dtype) for _ in range(4)])

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)

    def rates(self) -> dict[str, float]:
        """Means over the examples: loss in nats, error rates from 0 to 1."""
        images = max(float(self.images), 1.0)
        return {
            "loss": float(self.loss) / images,
            "top1_error": float(self.top1) / images,
            "top5_error": float(self.top5) / images,
        }


def score(log_probs: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    """Sum loss and errors over the examples whose weight is 1.

    Args:
        log_probs: (B, classes), log of the predicted distribution.
        labels: int32 (B,).
        weights: float32 (B,), 1 for an example, 0 for padding.
    """
    own = jnp.take_along_axis(log_probs, labels[:, None], axis=1)
    classes = jnp.arange(log_probs.shape[1])
    # Equal probabilities rank by label, so that constant logits are wrong about most
    # examples; NaN ranks last.
    ahead = (log_probs > own) | ((log_probs == own) & (classes < labels[:, None]))
    rank = jnp.where(jnp.isnan(own[:, 0]), jnp.inf, ahead.sum(axis=1))
    real = weights > 0
    return Sums(
        images=weights.sum(dtype=own.dtype),
        loss=-jnp.where(real, own[:, 0], 0).sum(),
        top1=jnp.sum(real & (rank >= 1), dtype=own.dtype),
        top5=jnp.sum(real & (rank >= 5), dtype=own.dtype),
    )


def errors_in_words(rates: Mapping[str, float], classes: int) -> list[str]:
    """Error rates in words; the top-5 error of five classes or fewer is always 0."""
    words = [f"top-1 error {rates['top1_error']:.2%}"]
    if classes > 5:
        words.append(f"top-5 error {rates['top5_error']:.2%}")
    return words


class Logger(Protocol):
    """Takes the lines of a training."""

    def write(self, line: dict[str, Any]) -> None:
        """Take one line, with its step."""

    def close(self) -> None:
        """Take no more."""


class MetricsFile(Logger):
    """metrics.jsonl: one JSON object a line, each with its step."""

    def __init__(self, path: Path, resumed_step: int):
        """Open the file; lines after the step that the run resumes from are dropped.

        A file with damaged lines is kept beside it, and a line on stderr says so.
        """
        lines, damage = read_log(path)
        if damage:
            kept = set_aside(path, shutil.copyfile)
            print(f"{path}: {damage}; kept as {kept}", file=sys.stderr)
        with replaced(path) as temporary, temporary.open("w") as file:
            for line in lines:
                if line["step"] <= resumed_step:
                    file.write(json.dumps(line) + "\n")
        self._file = path.open("a", buffering=1)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and pass it to the operating system at once."""
        self._file.write(json.dumps(line) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_log(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The lines of a metrics file that can be read, and in words which cannot.

    A last line that a kill cut short is left out and not named.
    """
    texts = path.read_bytes().split(b"\n") if path.exists() else []
    lines = [_line(text) for text in texts]
    numbers = [str(number) for number, line in enumerate(lines[:-1], 1) if not line]
    more = f" and {len(numbers) - 3:,} more" if len(numbers) > 3 else ""
    damage = f"damaged in line {', '.join(numbers[:3])}{more}" if numbers else ""
    return [line for line in lines if line], damage


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that can be read."""
    return read_log(path)[0]


def _line(text: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        line = json.loads(text, parse_int=_int64)
        return line if isinstance(line["step"], int) else None
    return None


def _int64(digits: str) -> int:
    """A whole number that is a finite float too."""
    if len(digits) > 18:
        raise ValueError(digits)
    return int(digits)
