"""A folder that is written belongs to one process at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alexnet_jax.errors import InputError


@contextmanager
def locked(folder: Path, key: str, who: str) -> Iterator[None]:
    """Makes a folder, and keeps others out of it who ask likewise.

    The lock is the system's, and ends with the process however that ends. A disk that
    knows no locks, as some that are shared, keeps nobody out.

    Args:
        folder: to be made.
        key: the flag that named it, for messages.
        who: may be at work in it, for messages.

    Raises:
        InputError: it cannot be made, or another one is at work in it.
    """
    given = f"{key}={str(folder)!r}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"{given}: cannot be made: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{given}: another {who} is at work in it; wait for it or give another "
                "folder"
            ) from None
        except OSError:
            pass  # a disk without locks
        yield
    finally:
        os.close(descriptor)
