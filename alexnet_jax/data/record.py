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
