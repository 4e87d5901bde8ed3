"""Plain tars, read in place: members are located once and then read by position."""

import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.files import OpenFile
from alexnet_jax.data.images import Record
from alexnet_jax.errors import InputError

PADDING = 1 << 24  # most bytes of zeros after the last member
HEADER = 1 << 20  # most bytes of a long name or of the records of POSIX
NAMES = (  # types of the headers that hold them
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
UNZIPPED = 1 << 26  # most bytes of an image that is compressed in a tar
GZIP = b"\x1f\x8b"
COMPRESSED = (GZIP, b"BZh", b"\xfd7zXZ\0")  # first bytes of gzip, bzip2 and xz files


# What tarfile raises at a damaged header.
_NO_TAR = tarfile.TarError, OSError, ValueError, OverflowError, RecursionError


class Member(NamedTuple):
    """An image in a tar."""

    name: str  # inside the tar
    tar: str
    offset: int  # of its first byte, from the start of the file
    size: int  # bytes

    @classmethod
    def of(cls, name: str, tar: str | Path, info: tarfile.TarInfo) -> "Member":
        """A member from `walk`, under a name of the caller's choice."""
        return cls(name, str(tar), info.offset_data, info.size)


class _Checked(tarfile.TarInfo):
    """A header whose size leads forward, and not into gigabytes of a name.

    tarfile of Python 3.11.7 neither ends at a negative size nor bounds the others.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # The method that tarfile lets subclasses override.
        if self.size < 0 or (self.type in NAMES and self.size > HEADER):
            raise tarfile.HeaderError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def walk(
    path: str | Path, given: str, wanted: str, start: int = 0, stop: int | None = None
) -> Iterator[tarfile.TarInfo]:
    """The members of a whole, uncompressed tar.

    Args:
        path: the file.
        given: names the tar in messages.
        wanted: what to give instead, for messages.
        start: the first byte of the tar, if it lies inside of another one.
        stop: the byte behind it.

    Yields:
        Members, with `offset_data` counted from the start of the file.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{given}: no such file or folder; {wanted}")
    try:
        with open(path, "rb") as file:
            file.seek(start)
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Checked) as tar:
                for info in tar:
                    if info.size < 0 or info.issparse():  # by records of POSIX
                        raise tarfile.ReadError(f"{info.name!r} is sparse or damaged")
                    yield info
                end = tar.offset
            # tarfile stops without an error at a damaged header. A whole tar ends with
            # a block of zeros, followed by zeros only.
            rest = max((stop or os.path.getsize(path)) - end, 0)
            file.seek(end)
            ended = tarfile.BLOCKSIZE <= rest <= PADDING and not any(file.read(rest))
    except _NO_TAR as error:
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
    """Images of one or several tars, which are opened when they are first read."""

    def __init__(
        self, classes: tuple[str, ...], members: Sequence[Member], labels: Sequence[int]
    ):
        """List the records: members and their labels, in order."""
        self.classes = classes
        self.names: Sequence[str] = [member.name for member in members]
        tars = sorted({member.tar for member in members})
        number = {tar: i for i, tar in enumerate(tars)}
        self._files = [OpenFile(tar) for tar in tars]
        spans = [(number[tar], offset, size) for _, tar, offset, size in members]
        self._spans = np.array(spans, np.int64).reshape(-1, 3)
        self.labels = np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def only(self, rows: np.ndarray) -> "TarImages":
        """These records, without the memory of the others."""
        members = [
            Member(self.names[i], self._files[number].path, offset, size)
            for i, (number, offset, size) in zip(
                rows, self._spans[rows].tolist(), strict=True
            )
        ]
        return TarImages(self.classes, members, self.labels[rows].tolist())

    def __getitem__(self, i: int) -> Record:
        number, offset, size = self._spans[i].tolist()
        file = self._files[number]
        try:
            data = os.pread(file.descriptor, size, offset)
        except OSError as error:
            raise InputError(f"{file.path}: cannot be read: {error.strerror}") from None
        if data.startswith(GZIP):  # some images of ILSVRC2010 are compressed
            data = _unzipped(data)
        return Record(f"{file.path}:{self.names[i]}", data, int(self.labels[i]))


def _unzipped(data: bytes) -> bytes:
    """The content of a gzip; the gzip, where it is damaged or no image's size."""
    gzip = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unzipped = gzip.decompress(data, UNZIPPED)
    except zlib.error:
        return data
    return unzipped if gzip.eof else data
