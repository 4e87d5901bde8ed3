"""Locks of folders, also on disks that know none."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from alexnet_jax.data.files import NO_LOCKS, locked
from alexnet_jax.errors import InputError

# A process that is gone while it holds the lock.
KILLED = """
import fcntl, os, pathlib
from alexnet_jax.data.files import locked

def flock(*_):
    raise OSError({number}, os.strerror({number}))

fcntl.flock = flock
with locked(pathlib.Path({folder!r}), "--workdir", "run"):
    os._exit(0)
"""


@pytest.fixture(params=NO_LOCKS, ids=lambda number: errno.errorcode[number])
def no_locks(request, monkeypatch):
    """A disk that knows no locks; the number of its error."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return request.param


def lock_twice(folder) -> str:
    """The line with which a folder that is locked is refused."""
    with (
        locked(folder, "--workdir", "run"),
        pytest.raises(InputError) as refused,
        locked(folder, "--workdir", "run"),
    ):
        pass
    return str(refused.value)


def test_a_folder_is_locked_for_the_others_and_free_afterwards(tmp_path):
    for _ in range(2):
        assert lock_twice(tmp_path / "run") == (
            f"--workdir='{tmp_path}/run': another run is using it; wait for it or give "
            "another folder"
        )


@pytest.mark.usefixtures("no_locks")
def test_a_disk_without_locks_gets_a_file_instead(tmp_path):
    for _ in range(2):
        line = lock_twice(tmp_path)
        assert "another run is using it" in line
    assert not (tmp_path / ".running").exists()


def test_what_a_killed_process_left_there_does_not_count(tmp_path, no_locks):
    killed = KILLED.format(number=no_locks, folder=str(tmp_path))
    subprocess.run([sys.executable, "-c", killed], check=True)
    names = [path.name for path in tmp_path.iterdir() if path.read_bytes()]
    assert names, "the lock is gone with its process"
    with locked(tmp_path, "--workdir", "run"):
        pass


def test_another_error_of_the_lock_is_named(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(InputError, match="cannot be made: Input/output error"),
        locked(tmp_path, "--workdir", "run"),
    ):
        pass
