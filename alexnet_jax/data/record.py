"""What every storage of pictures looks like: a random-access list of records."""

from typing import NamedTuple, Protocol

import numpy as np


class Record(NamedTuple):
    """One labelled picture."""

    name: str  # for messages, such as 'train/n01440764/n01440764_18.JPEG'
    image: bytes | np.ndarray  # a whole image file, or height×width×3 uint8
    label: int


class Source(Protocol):
    """A random-access list of records; `classes[label]` names a record's class."""

    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[str, bytes | np.ndarray, int]: ...


class Divisible(Source, Protocol):
    """A source of which a part can be sent to a worker."""

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

    def __getitem__(self, i: int) -> tuple[str, bytes | np.ndarray, int]:
        return self._source[int(self._keep[i])]
