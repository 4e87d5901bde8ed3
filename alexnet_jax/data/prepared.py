"""The folder that `prepare` makes: its manifest, and the reader of its records.

manifest.json     settings, counts, and the SHA-256 of every other file
statistics.npz    mean image and colour covariance of the training images
classes.txt       class names, a line each, in label order
unreadable.txt    the images that cannot be decoded, and why
dataset_info.json, features.json, label.labels.txt    the description for TFDS
*.index.npy       place, size, label and hash of each record of a shard
unfinished.npz    the finished shards, until all are finished
"""

import bisect
import errno
import functools
import json
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data import files, index
from alexnet_jax.data.images import Record, StoredPixels
from alexnet_jax.errors import InputError

MANIFEST = "manifest.json"
STATISTICS = "statistics.npz"
CLASSES = "classes.txt"
UNREADABLE = "unreadable.txt"
UNFINISHED = "unfinished.npz"
SHARD = {"sha256": str, "index": str, "bytes": int, "records": int}
AGAIN = "run `python -m alexnet_jax.prepare` again with the same flags"


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        dataset: 'ILSVRC2012', 'ILSVRC2010' or 'pictures'.
        settings: of `prepare`, among them its flags by name.
        splits: the counts of each split.
        files: SHA-256 of each file that is no shard.
        shards: by file name, its 'sha256', 'bytes', 'records', and 'index', the SHA-256
            of its index, which folders of earlier versions lack.
    """

    dataset: str
    settings: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    files: dict[str, str]
    shards: dict[str, dict[str, Any]]

    @classmethod
    def read(
        cls, folder: str | Path, *, unfinished_too: bool = False
    ) -> "Manifest | None":
        """The manifest of a folder, None if `prepare` did not make it.

        Args:
            folder: any folder.
            unfinished_too: does not refuse one that `prepare` has not finished.
        """
        path = Path(folder) / MANIFEST
        if not unfinished_too and path.with_name(UNFINISHED).exists():
            raise InputError(f"{folder}: is not prepared to the end; {AGAIN}")
        try:
            tree = json.loads(path.read_text())
            manifest = cls(*(tree[field] for field in cls.__dataclass_fields__))
            manifest._check()
            return manifest
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{path}: damaged; remove its folder's contents and prepare it again"
            ) from None

    def _check(self) -> None:
        """Raise where a reader would meet another value than it expects."""
        texts = self.dataset, self.settings["--encoding"]
        if (
            not all(isinstance(t, str) for t in texts)
            or type(self.image_size) is not int
        ):
            raise ValueError(f"{texts}, {self.image_size}")
        for table in (self.splits, self.files):
            table.keys()
        for name, shard in self.shards.items():
            kinds = {key: type(value) for key, value in shard.items()}
            if {"index": str, **kinds} != SHARD or "/" in name:
                raise ValueError(f"{name!r}: {shard}")

    def write(self, path: Path) -> None:
        """Write the file as a whole or not at all."""
        with files.replaced(path) as temporary:
            temporary.write_text(json.dumps(vars(self), indent=1) + "\n")

    @property
    def image_size(self) -> int:
        """Side of the stored squares in pixels."""
        return self.settings["--image_size"]

    @property
    def raw(self) -> bool:
        """Whether pixels are stored, not image files."""
        return self.settings["--encoding"] == "raw"

    @property
    def indexed(self) -> bool:
        """Whether every shard has an index; earlier versions wrote none."""
        return all("index" in shard for shard in self.shards.values())

    def split_for(self, role: str, given: str) -> str:
        """The split to open for 'train', 'validation' or 'test'.

        Without validation images, any data set but ImageNet is validated on its test
        images. `given` names the folder in messages.
        """
        stands_in = role == "validation" and not self.dataset.startswith("ILSVRC")
        for split in (role, "test") if stands_in else (role,):
            if split in self.splits:
                return split
        raise InputError(
            f"{given}: has no {role} images, only {', '.join(self.splits)}; prepare "
            "them too"
        )

    def refuse_test_images(self, split: str, given: str) -> None:
        """Refuse a TFDS split that has test images of ImageNet: 'train+test[:10%]'."""
        named = {part.partition("[")[0].strip() for part in split.split("+")}
        if named & {"test", "all"} and self.dataset.startswith("ILSVRC"):
            raise InputError(
                f"{given}: the test images of {self.dataset} are for a last word "
                "(evaluate --split=test), never for training or validation; prepare "
                "its validation images too"
            )

    def require_size(self, image_size: int, given: str) -> None:
        """Refuse another size than that of the stored squares."""
        if self.image_size != image_size:
            raise InputError(
                f"dataset.image_size={image_size}: the images of {given} were prepared "
                f"with {self.image_size} pixels; set dataset.image_size="
                f"{self.image_size}, or prepare them again with "
                f"--image_size={image_size}"
            )

    def whole(self, folder: str | Path, name: str) -> Path:
        """The path of a file that is no shard, after checking its SHA-256."""
        path = Path(folder) / name
        if not path.is_file() or files.sha256(path) != self.files.get(name):
            raise damaged(path, "not what it was")
        return path


def statistics_of(folder: str | Path) -> Path | None:
    """The statistics of the training images; None if the folder has none."""
    manifest = Manifest.read(folder)
    if manifest is None or STATISTICS not in manifest.files:
        return None
    return manifest.whole(folder, STATISTICS)


def damaged(file: str | Path, why: str | None) -> InputError:
    """The error that names a damaged file."""
    return InputError(f"{file}: damaged ({why}); {AGAIN}")


class Prepared:
    """One split of a folder that `prepare` made.

    A record is checked against its hash when this process reads it for the first time.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, split: str):
        """Open a split of the folder; its shards and their indices must be whole."""
        folder = Path(folder)
        self.classes = tuple(files.read_lines(manifest.whole(folder, CLASSES)))
        self.names: Sequence[str] = ()
        self._split = split
        self._shape = (manifest.image_size,) * 2 + (3,) if manifest.raw else None
        shards = {
            folder / name: shard
            for name, shard in manifest.shards.items()
            if f"-{split}.array_record-" in name
        }
        _allow_open_files(len(shards))
        self._files = [files.OpenFile(path) for path in shards]
        self._starts = [0, *accumulate(shard["records"] for shard in shards.values())]
        entries = [_entries(path, shard) for path, shard in shards.items()]
        self._entries = np.concatenate([np.empty(0, index.ENTRY), *entries])
        known = (self.labels >= 0) & (self.labels < len(self.classes))
        if not known.all() or not known.size:
            raise damaged(folder / MANIFEST, f"no {split} images of its classes")
        self._checked = np.zeros(len(self), bool)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def labels(self) -> np.ndarray:
        """Integers, one a record."""
        return self._entries["label"]

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
            whole = index.read(file.descriptor, at, out)
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise InputError(
                    f"{file.path}: this process may not have so many files open; allow "
                    f"it {len(self._files) + 1024:,} (ulimit -n)"
                ) from None
            raise damaged(file.path, error.strerror) from None
        if whole and not self._checked[i]:
            whole = self._checked[i] = index.hash_of(out) == expected
        if not whole:
            raise damaged(file.path, f"{self._split}[{i}] is not what it was")


def _entries(shard: Path, facts: dict[str, Any]) -> np.ndarray:
    """The index of a shard, whose size is checked."""
    path = index.file_of(shard)
    try:
        if shard.stat().st_size != facts["bytes"]:
            raise damaged(shard, f"not of {facts['bytes']:,} bytes")
        if files.sha256(path) != facts["index"]:
            raise damaged(path, "not what it was")
        data = path.read_bytes()
    except OSError as error:
        raise damaged(error.filename, error.strerror) from None
    try:
        entries = files.array_of(data)
    except ValueError as error:
        raise damaged(path, str(error)) from None
    if entries.shape != (facts["records"],) or entries.dtype != index.ENTRY:
        raise damaged(path, f"not {facts['records']:,} records")
    at, size = entries["at"], entries["size"]
    if not np.all((at >= 0) & (size >= 0) & (size <= facts["bytes"] - at)):
        raise damaged(path, "records outside of their shard")
    return entries


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [n for n in (count + 1024, hard) if n != resource.RLIM_INFINITY]
    if soft != resource.RLIM_INFINITY and soft < min(limits):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits), hard))
