"""Plain tars, read in place: members are found once, then read by their position."""

import contextlib
import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.descriptors import Descriptors
from alexnet_jax.data.images import Record
from alexnet_jax.errors import InputError

PADDING = 1 << 24  # bytes of zeros behind the last member, at most
GZIP = b"\x1f\x8b"
COMPRESSED = (GZIP, b"BZh", b"\xfd7zXZ\0")  # how gzip, bzip2 and xz begin


class Member(NamedTuple):
    """A picture in a tar."""

    name: str  # inside the tar
    tar: str
    offset: int  # of its first byte, from the start of the file
    size: int  # bytes

    @classmethod
    def of(cls, name: str, tar: str | Path, info: tarfile.TarInfo) -> "Member":
        """A member that `walk` gave, by a name of one's own."""
        return cls(name, str(tar), info.offset_data, info.size)


def walk(
    path: str | Path, given: str, wanted: str, start: int = 0, stop: int | None = None
) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, with `offset_data` counted from the start of the file.

    Args:
        path: the file.
        given: what names the tar in messages.
        wanted: what to give instead, for messages.
        start: the first byte of a tar that lies inside of another one.
        stop: the byte behind it.

    Raises:
        InputError: not a whole, uncompressed tar.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                yield from tar
                end = tar.offset
            # tarfile takes a damaged header for the end, and so it does a hole: a whole
            # tar ends in a block of zeros, and nothing but zeros follows.
            rest = max((stop or os.path.getsize(path)) - end, 0)
            file.seek(end)
            ended = tarfile.BLOCKSIZE <= rest <= PADDING and not any(file.read(rest))
    except FileNotFoundError:
        raise InputError(f"{given}: no such file or folder; {wanted}") from None
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{given}: {_why_no_tar(path, error, wanted)}") from None
    if not ended:
        raise InputError(
            f"{given}: damaged or cut short at byte {end - start}; copy or make it "
            "again"
        )


def _why_no_tar(path: str | Path, error: Exception, wanted: str) -> str:
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(6).startswith(COMPRESSED):
                return (
                    "a compressed tar has no random access; decompress it once "
                    "(gunzip, bunzip2, unxz)"
                )
    return f"not a whole tar ({error}); {wanted}"


class TarImages:
    """Pictures of one tar, or of a few."""

    def __init__(
        self, classes: tuple[str, ...], members: Sequence[Member], labels: Sequence[int]
    ):
        """The members and their labels give the order; a tar is opened when read.

        `prepare` holds a thousand parts of a source before it reads any of them, and a
        process may commonly have 1,024 files open.
        """
        self.classes = classes
        self._tars = sorted({member.tar for member in members})
        number = {tar: i for i, tar in enumerate(self._tars)}
        spans = [(number[tar], offset, size) for _, tar, offset, size in members]
        self.names = [member.name for member in members]
        self._spans = np.array(spans).reshape(-1, 3)
        self._labels = np.array(labels)
        self._files = Descriptors()

    def __len__(self) -> int:
        return len(self.names)

    def only(self, rows: np.ndarray) -> "TarImages":
        """These records, without the memory of the others."""
        members = [
            Member(self.names[i], self._tars[number], offset, size)
            for i, (number, offset, size) in zip(
                rows, self._spans[rows].tolist(), strict=True
            )
        ]
        return TarImages(self.classes, members, self._labels[rows].tolist())

    def __getitem__(self, i: int) -> Record:
        number, offset, size = self._spans[i].tolist()
        # pread keeps no position, so that threads share the one descriptor.
        try:
            data = os.pread(self._files.of(self._tars[number]), size, offset)
        except OSError as error:
            raise InputError(
                f"{self._tars[number]}: cannot be read: {error.strerror}"
            ) from None
        if data.startswith(GZIP):  # as some pictures of ILSVRC2010 are
            with contextlib.suppress(OSError, EOFError, zlib.error):
                data = gzip.decompress(data)
        name = f"{self._tars[number]}:{self.names[i]}"
        return Record(name, data, int(self._labels[i]))
