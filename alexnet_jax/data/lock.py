"""A folder to be made belongs to one process at a time."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.errors import InputError

KEY = "--destination"


@contextmanager
def locked(folder: Path, read: Sequence[Path]) -> Iterator[None]:
    """Makes a folder, and keeps any other `prepare` out of it.

    The lock is the system's, and ends with the process however that ends.

    Args:
        folder: to be made.
        read: folders that are read meanwhile: nothing may be written into them.

    Raises:
        InputError: it cannot be made, another one is at work in it, or it lies in one
            that is read.
    """
    given = f"{KEY}={str(folder)!r}"
    for place in map(Path.resolve, read):
        if place in (folder.resolve(), *folder.resolve().parents):
            raise InputError(
                f"{given}: lies in {str(place)!r}, which is to be read; give a folder "
                "elsewhere"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{given}: cannot be made: {error.strerror}") from None
    try:
        _lock(descriptor, given)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, given: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{given}: another `prepare` is at work in it; wait for it or give another "
            "folder"
        ) from None
    except OSError as error:
        raise InputError(f"{given}: cannot be locked: {error.strerror}") from None
