"""What every storage of pictures looks like: a random-access list of records."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True, eq=False)
class Unread:
    """Pixels that are still in their file.

    Attributes:
        shape: height, width and 3.
        read: puts their bytes into as much memory.
    """

    shape: tuple[int, int, int]
    read: Callable[[memoryview], None]

    def into(self, out: np.ndarray) -> np.ndarray:
        """Reads them to where they are wanted, uint8, and gives that back."""
        self.read(out.reshape(-1).data)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.into(np.empty(self.shape, np.uint8))


Stored = bytes | np.ndarray | Unread  # a whole image file, or height×width×3 uint8


class Record(NamedTuple):
    """One labelled picture."""

    name: str  # for messages, such as 'train/n01440764/n01440764_18.JPEG'
    image: Stored
    label: int


class Source(Protocol):
    """A random-access list of records; `classes[label]` names a record's class."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[str, Stored, int]: ...


class Divisible(Source, Protocol):
    """A source of which a part can be sent to a worker."""

    @property
    def names(self) -> Sequence[str]:
        """Of the records, in order; none where only reading them would tell."""

    def part(self, start: int, stop: int) -> Source:
        """The records from start to stop − 1."""


class Subset:
    """Some records of a source: those that can be decoded, say."""

    def __init__(self, source: Source, keep: np.ndarray):
        """Keep the records with the given indices, in the given order."""
        self.classes = source.classes
        self._source, self._keep = source, np.asarray(keep)

    def __len__(self) -> int:
        return len(self._keep)

    def __getitem__(self, i: int) -> tuple[str, Stored, int]:
        return self._source[int(self._keep[i])]
