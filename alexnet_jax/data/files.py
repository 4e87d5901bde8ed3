"""Files: replaced as a whole, kept open, checked, read as lines or arrays, locked."""

import errno
import functools
import glob
import hashlib
import io
import math
import os
import stat
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import numpy as np
import psutil

from alexnet_jax.errors import InputError

UNFINISHED = ".unfinished"  # suffix of a file that is being written
NO_LOCKS = errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS  # some network disks
UNPACKED = 1 << 28  # bytes that a compressed .npz file may grow to


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Write a file as a whole or not at all.

    Yields a temporary path in the same folder. When the block ends without an
    exception, its content is flushed to the disk and takes the place of `path`;
    otherwise it is deleted and `path` stays as it was. What a process that was killed
    here has left is deleted.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*{UNFINISHED}"):
        process = left.name[len(path.name) + 1 : -len(UNFINISHED)]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, path)
        flush(path.parent)
    except OSError as error:  # of a write, which knows its descriptor only
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


class OpenFile:
    """A file that is opened when it is first needed, and closed with this object.

    Threads share its descriptor and read by position (`os.pread`); a process to which
    it is pickled opens its own.
    """

    def __init__(self, path: str | os.PathLike):
        """Name the file, which is not opened yet."""
        self.path = os.fspath(path)

    @functools.cached_property
    def descriptor(self) -> int:
        """The descriptor; OSError if the file cannot be opened."""
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def __reduce__(self):
        return OpenFile, (self.path,)


def set_aside(path: Path, keep: Callable[[Path, Path], object] = os.rename) -> str:
    """Keep what is damaged under a free name, X.damaged, and return that name."""
    aside = path.with_name(f"{path.name}.damaged")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}.damaged")
    keep(path, aside)
    return aside.name


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, one line an entry; bytes that are not UTF-8 are kept."""
    text = "".join(line.replace("\n", " ") + "\n" for line in lines)
    with replaced(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def read_lines(path: Path) -> list[str]:
    """The entries that `write_lines` wrote."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []


def read_file(path: str | os.PathLike) -> bytes:
    """The bytes of a plain file; OSError for a pipe or a device, which may not end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", os.fspath(path))
        return file.read()


def array_of(data: bytes) -> np.ndarray:
    """The array of an .npy file; ValueError where the bytes are none.

    Pickled objects are refused, and memory is taken for numbers that are there.
    """
    file = io.BytesIO(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that Python 2 wrote
            if np.lib.format.read_magic(file) == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            there = len(data) - file.tell()
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != there:
                raise ValueError(f"{there:,} bytes are no {shape} of {dtype}")
            return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy's parser of headers raises many kinds
        raise ValueError(str(error)) from None


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name; ValueError where the bytes are none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = file.infolist()
            unpacked = sum(member.file_size for member in members)
            if unpacked > max(UNPACKED, len(data)):
                raise ValueError(f"{len(data):,} bytes that grow to {unpacked:,}")
            return {
                member.filename.removesuffix(".npy"): array_of(file.read(member))
                for member in members
            }
    except Exception as error:  # zipfile and its decompressors raise many kinds
        raise ValueError(str(error)) from None


@contextmanager
def locked(folder: Path, key: str, who: str) -> Iterator[None]:
    """Make a folder and keep other processes out of it while the block runs.

    The lock is the operating system's and ends with the process, however it ends. On a
    disk that knows no locks it is a file with the process and its machine; one that a
    killed process of the same machine left does not count.

    `key`, the flag that named it, and `who`, the program that may be using it, are for
    messages.
    """
    given = f"{key}={str(folder)!r}"
    held = f"{given}: another {who} is using it; wait for it or give another folder"
    lock: filelock.BaseFileLock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with warnings.catch_warnings():  # of a file in its place
                warnings.simplefilter("ignore", UserWarning)
                lock.acquire()
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise
            lock = filelock.SoftFileLock(folder / ".running", timeout=0)
            held += f"; if it was killed on another machine, delete {lock.lock_file}"
            lock.acquire()
    except filelock.Timeout:
        raise InputError(held) from None
    except OSError as error:
        raise InputError(f"{given}: cannot be made: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()
