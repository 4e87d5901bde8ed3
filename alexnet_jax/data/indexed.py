"""Pictures that `prepare` wrote, read from where they lie in its files."""

import bisect
import errno
import functools
import resource
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data import files, index, prepared
from alexnet_jax.data.descriptors import Descriptors
from alexnet_jax.data.images import Record, StoredPixels
from alexnet_jax.errors import InputError


class Indexed:
    """One split of a folder that `prepare` made.

    A picture is checked against its hash the first time that a process reads it.
    """

    def __init__(self, split: str, key: str, directory: str):
        """Open the split.

        Args:
            split: 'train' or 'validation'; where there is no such one, see
                `prepared.stand_in`.
            key: the config key or flag that named the folder, for messages.
            directory: the folder.

        Raises:
            InputError: no such split, or a shard is not there or damaged.
        """
        self._descriptors = Descriptors()
        self.names: Sequence[str] = ()
        given = f"{key}={directory!r}"
        folder, manifest = Path(directory), prepared.read_manifest(directory)
        assert manifest is not None
        splits = list(manifest["splits"])
        split = prepared.stand_in(directory, split, splits, given)
        if split not in splits:
            raise InputError(
                f"{given}: has no {split} pictures, only {', '.join(splits)}; prepare "
                "them too"
            )
        prepared.require_no_test(directory, split, given)
        self.classes = prepared.classes_of(folder)
        self._split = split
        size = manifest["settings"]["--image_size"]
        raw = manifest["settings"]["--encoding"] == "raw"
        self._shape = (size, size, 3) if raw else None
        written = {
            folder / file: shard
            for file, shard in manifest["shards"].items()
            if f"-{split}.array_record-" in file
        }
        self._files = list(written)
        _allow_open_files(len(self._files))
        self._starts = [0, *accumulate(shard["records"] for shard in written.values())]
        entries = [_entries(file, shard) for file, shard in written.items()]
        self._entries = np.concatenate(entries)
        self._checked = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, i: int) -> Record:
        if not 0 <= i < len(self):
            raise IndexError(i)
        at, size, label, expected = self._entries[i].item()
        read = functools.partial(self._read, i, at, expected)
        name = f"{self._split}[{i}]"
        if self._shape:
            return Record(name, StoredPixels(self._shape, read), label)
        encoded = bytearray(size)
        read(memoryview(encoded))
        return Record(name, bytes(encoded), label)

    def _read(self, i: int, at: int, expected: int, out: memoryview) -> None:
        file = self._files[bisect.bisect_right(self._starts, i) - 1]
        try:
            whole = index.read(self._descriptors.of(file), at, out)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise InputError(
                    f"{file}: this process may not have so many files open; allow it "
                    f"{len(self._files) + 1024:,} (ulimit -n)"
                ) from None
            raise _damaged(file, error.strerror) from None
        if whole and not self._checked[i]:
            whole = self._checked[i] = index.hash_of(out) == expected
        if not whole:
            raise _damaged(file, f"{self._split}[{i}] is not what it was")


def is_indexed(directory: str) -> bool:
    """Whether `prepare` made a folder, with an index of each shard.

    Raises:
        InputError: it is not finished, or its manifest is damaged.
    """
    manifest = prepared.read_manifest(directory)
    return manifest is not None and all(
        "index" in shard for shard in manifest["shards"].values()
    )


def _entries(file: Path, shard: dict[str, Any]) -> np.ndarray:
    """The index of a shard, whose files are whole so far as a glance can tell."""
    index_file = index.beside(file)
    try:
        if file.stat().st_size != shard["bytes"]:
            raise _damaged(file, f"not of {shard['bytes']:,} bytes")
        if files.sha256(index_file) != shard["index"]:
            raise _damaged(index_file, "not what it was")
        return np.load(index_file)
    except OSError as error:
        raise _damaged(error.filename, error.strerror) from None


def _allow_open_files(count: int) -> None:
    """Lets this process, and those it starts, have so many more files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1024
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _damaged(file: Any, why: str | None) -> InputError:
    return InputError(f"{file}: damaged ({why}); {prepared.AGAIN}")
