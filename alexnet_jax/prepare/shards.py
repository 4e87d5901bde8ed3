"""One file of prepared pictures: written whole or not at all, and found whole again."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data import index
from alexnet_jax.data.files import UNFINISHED, flush, sha256
from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.data.images import Source
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import InputError, PictureError
from alexnet_jax.prepare.crew import looked_at
from alexnet_jax.prepare.records import encode, example

# Each record alone, as random access needs it; JPEGs do not get smaller, and raw pixels
# are to be read fast.
OPTIONS = "group_size:1,uncompressed"


class DiskError(InputError):
    """A file cannot be written: no space, no right, no disk."""


@dataclass(frozen=True)
class Shard:
    """Some consecutive pictures of a split, and the file that they go to."""

    file: str
    split: Split
    start: int
    stop: int


@dataclass(frozen=True)
class Job:
    """A shard to be written, with all that a worker must know."""

    shard: Shard
    pictures: Source
    folder: Path
    below: str  # the start of the pictures' names, not to be told
    image_size: int
    encoding: str
    before: str | None  # the checksum of the one that it may replace


@dataclass(frozen=True)
class Written:
    """What there is to know of a finished shard."""

    shard: Shard
    sha256: str
    index_sha256: str
    size: int  # bytes
    records: int
    classes: frozenset[int]
    unreadable: tuple[str, ...]
    sums: Sums | None  # of the training pictures


def plan(dataset: str, split: Split, pictures: int, shards: int) -> list[Shard]:
    """Divide a split into shards.

    Args:
        dataset: begins the names of the files.
        split: which.
        pictures: how many it has.
        shards: how many files; 0: as suits so many pictures, 1,024 for ImageNet's.
    """
    if not shards:
        shards = max(min(-(-pictures // 128), 64), -(-pictures // 1252))
    shards = min(shards, pictures)
    bounds = [pictures * i // shards for i in range(shards + 1)]
    return [
        Shard(
            f"{dataset.lower()}-{split}.array_record-{i:05}-of-{shards:05}",
            split,
            bounds[i],
            bounds[i + 1],
        )
        for i in range(shards)
    ]


def write(job: Job) -> Written:
    """Write a shard and its index under other names; rename what is on the disk.

    Raises:
        DiskError: it cannot be written; nothing is left of it.
    """
    path = job.folder / job.shard.file
    index_path = index.beside(path)
    ending = f".{os.getpid()}{UNFINISHED}"
    temporary = path.with_name(path.name + ending)
    temporary_index = path.with_name(index_path.name + ending)
    sums = Sums.none(job.image_size) if job.shard.split == Split.TRAIN else None
    unreadable, marks = [], []
    try:
        try:
            writer = ArrayRecordWriter(str(temporary), OPTIONS)
            for i in range(len(job.pictures)):
                looked_at(1)
                try:
                    name, image, label = job.pictures[i]
                    name = name.removeprefix(job.below)
                    data, seen = encode(
                        (name, image, label), job.image_size, job.encoding
                    )
                except PictureError as error:
                    unreadable.append(str(error).removeprefix(job.below))
                    continue
                writer.write(example(data, label, re.split("[/:]", name)[-1]))
                marks.append(index.Mark.of(data, label))
                if sums is not None:
                    sums.add(seen)
            writer.close()
        except RuntimeError as error:  # of the writer
            reason = str(error).split(";")[0].removeprefix("write() failed: ")
            raise DiskError(f"{path}: cannot be written: {reason}") from None
        try:
            with temporary_index.open("wb") as file:
                np.save(file, index.find(temporary, marks))
            for written in (temporary, temporary_index):
                flush(written)
            digests = sha256(temporary), sha256(temporary_index)
            size = temporary.stat().st_size
            if job.before in (None, digests[0]):
                os.replace(temporary_index, index_path)
                os.replace(temporary, path)
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
        except ValueError as error:
            raise DiskError(f"{path}: cannot be written: {error}") from None
    finally:
        temporary.unlink(missing_ok=True)
        temporary_index.unlink(missing_ok=True)
    classes = frozenset(mark.label for mark in marks)
    return Written(
        job.shard, *digests, size, len(marks), classes, tuple(unreadable), sums
    )


@dataclass(frozen=True)
class Check:
    """A finished shard to be looked at once more."""

    shard: Shard
    folder: Path
    written: dict[str, Any]  # of `Unfinished` or the manifest

    def __call__(self) -> tuple[Shard, bool]:
        """The shard, and whether its files are still what they were."""
        path = self.folder / self.shard.file
        checksums = {path: self.written["sha256"]}
        if "index" in self.written:  # shards had none before
            checksums[index.beside(path)] = self.written["index"]
        whole = all(p.is_file() and sha256(p) == c for p, c in checksums.items())
        looked_at(self.shard.stop - self.shard.start)
        return self.shard, whole
