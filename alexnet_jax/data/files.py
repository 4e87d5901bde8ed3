"""Files: replaced as a whole, kept open, checked, read as lines, locked by folder."""

import errno
import functools
import glob
import hashlib
import os
import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import psutil

from alexnet_jax.errors import InputError

UNFINISHED = ".unfinished"  # suffix of a file that is being written
NO_LOCKS = errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS  # some network disks


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
