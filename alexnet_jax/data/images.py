"""The common form of every storage of images: a random-access list of records."""

import hashlib
import os.path
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from alexnet_jax.errors import ImageError

SAMPLED = 64  # images whose content goes into a fingerprint


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Unencoded pixels that are still in their file."""

    shape: tuple[int, int, int]  # height, width and 3
    read: Callable[[memoryview], None]  # fills a buffer of that many bytes

    def into(self, out: np.ndarray) -> np.ndarray:
        """Read them into a uint8 array of the same shape, and return it."""
        self.read(out.reshape(-1).data)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.into(np.empty(self.shape, np.uint8))


# The bytes of an image file, or height×width×3 uint8.
StoredImage = bytes | np.ndarray | StoredPixels


class Record(NamedTuple):
    """One labelled image."""

    name: str  # for messages, such as 'train/n01440764/n01440764_18.JPEG'
    image: StoredImage
    label: int


class Source(Protocol):
    """A random-access list of records, pickled for `prepare`'s processes."""

    classes: tuple[str, ...]  # names in label order

    @property
    def names(self) -> Sequence[str]:
        """Of the records; empty where only reading a record gives its name."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[str, StoredImage, int]: ...


@runtime_checkable
class Listed(Source, Protocol):
    """A source that keeps something of every record in memory."""

    def only(self, rows: np.ndarray) -> Source:
        """A source of these records, without the memory of the others."""


@runtime_checkable
class Labelled(Source, Protocol):
    """A source that knows the labels without reading the records."""

    @property
    def labels(self) -> np.ndarray:
        """Integers, one a record."""


class View:
    """Some records of a source, or all of them with labels of other classes."""

    source: Source
    rows: np.ndarray | None

    def __init__(
        self,
        source: Source,
        rows: Sequence[int] | np.ndarray | None = None,
        classes: tuple[str, ...] = (),
    ):
        """Choose records and classes.

        Args:
            source: where the records are.
            rows: their indices in the order wanted; None takes all.
            classes: other classes, among them those of the source, whose labels are
                renumbered by name; () keeps classes and labels.
        """
        if isinstance(source, View):
            if source.rows is not None:
                rows = source.rows if rows is None else source.rows[rows]
            source, classes = source.source, classes or source.classes
        self.source = source
        self.rows = None if rows is None else np.asarray(rows, np.int64)
        self.classes = classes or source.classes
        self._labels: list[int] = []
        if self.classes != source.classes:
            label_of = {name: label for label, name in enumerate(classes)}
            self._labels = [label_of[name] for name in source.classes]

    @property
    def names(self) -> Sequence[str]:
        """Of the records, if the source knows them."""
        names = self.source.names
        if not names or self.rows is None:
            return names
        return [names[i] for i in self.rows]

    def __len__(self) -> int:
        return len(self.source) if self.rows is None else len(self.rows)

    def __getitem__(self, i: int) -> Record:
        name, image, label = self.source[i if self.rows is None else int(self.rows[i])]
        return Record(name, image, self._labels[label] if self._labels else label)

    def __reduce__(self):
        source, rows = self.source, self.rows
        if rows is not None and isinstance(source, Listed):
            source, rows = source.only(rows), None
        return View, (source, rows, self.classes)


def relative_names(source: Source) -> list[str]:
    """The names of the records without the folders that all of them lie in."""
    if not source.names:
        return []
    ends = min(source.names), max(source.names)  # what these share, all share
    common = os.path.commonpath([os.path.dirname(name) for name in ends])
    return [name[len(common) :].removeprefix("/") for name in source.names]


def fingerprint(source: Source) -> dict[str, Any]:
    """What a set of images is known by, wherever it lies.

    Args:
        source: the images.

    Returns:
        {'images', 'classes', 'sha256'}; the last is of the class names, the names below
        the common folder, and the content of `SAMPLED` images.
    """
    digest = hashlib.sha256()
    for name in (*source.classes, *relative_names(source)):
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    for i in np.linspace(0, len(source) - 1, SAMPLED).astype(int).tolist():
        try:
            _, image, label = source[i]
        except ImageError:  # an unreadable file
            image, label = b"", -1
        data = image if isinstance(image, bytes) else np.asarray(image).tobytes()
        digest.update(f"{label} {len(data)} ".encode() + data)
    return {
        "images": len(source),
        "classes": len(source.classes),
        "sha256": digest.hexdigest(),
    }
