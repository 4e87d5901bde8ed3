"""Several processes that train one network: how they meet, agree and part.

Each runs the same program on its own devices (`jax.distributed`). The first writes
what there is one of: config, statistics, metrics, lines for people; all write their
parts of the checkpoints.
"""

import atexit
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.multihost_utils import reached_preemption_sync_point

from alexnet_jax.errors import InputError

PATIENCE = 60.0  # seconds to wait for the first process
SILENCE = 30  # seconds without a sign of life after which a process counts as dead
GO_ON = "nothing saved is lost: start all of them again and they go on"
# In what jaxlib says where another process has gone.
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service")


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


@contextmanager
def joined(coordinator: str | None, count: int, index: int) -> Iterator[None]:
    """Makes this process one of several, until it ends.

    Args:
        coordinator: 'host:port' of the first process; 'auto' where Slurm, a TPU VM or
            Open MPI tell; None for a process that is alone.
        count: processes in all; not needed with 'auto'.
        index: of this one, from 0; not needed with 'auto'.

    Raises:
        InputError: the flags make no sense, the first process cannot be reached, or
            another process died.
    """
    if coordinator is None:
        if (count, index) != (1, 0):
            raise InputError(
                f"--processes={count}, --process={index}: several processes meet at a "
                "--coordinator; give its host:port to all of them"
            )
        yield
        return
    watcher = _watcher(index if coordinator != "auto" else None)
    try:
        _initialise(coordinator, count, index)
        if not first():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        yield
    except BaseException as error:
        # Leave without waiting for the others, which may wait for this one; the first
        # gives them the time to meet the same mistake, for they end with it.
        atexit.register(os._exit, 2 if isinstance(error, Exception) else 130)
        lost = isinstance(error, jax.errors.JaxRuntimeError) and any(
            word in str(error) for word in LOST
        )
        if isinstance(error, InputError) and jax.process_index() == 0:
            time.sleep(2)
        if lost:
            raise InputError(
                f"process {jax.process_index()} of {jax.process_count()} has lost "
                f"another one ({str(error).splitlines()[0][:150]}); {GO_ON}"
            ) from error
        raise
    finally:
        watcher.communicate(b"goodbye\n")


def _initialise(coordinator: str, count: int, index: int) -> None:
    initialise = functools.partial(
        jax.distributed.initialize,
        heartbeat_timeout_seconds=SILENCE,
        initialization_timeout=round(PATIENCE),
    )
    if coordinator == "auto":
        try:
            initialise()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                "--coordinator=auto: neither Slurm nor a TPU VM nor Open MPI tells of "
                f"other processes ({error}); give host:port, --processes and --process"
            ) from None
        return
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(
            f"--coordinator={coordinator}: must be host:port of the first process, or "
            "auto"
        )
    if count < 1 or not 0 <= index < count:
        raise InputError(
            f"--process={index}: must be from 0 to one less than --processes={count}"
        )
    if index > 0:
        _wait_for(host.strip("[]"), int(port))
    initialise(coordinator, count, index)


def _wait_for(host: str, port: int) -> None:
    """Returns once the first process listens: jaxlib would end this one otherwise."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if isinstance(error, socket.gaierror) or time.monotonic() > deadline:
                raise InputError(
                    f"--coordinator={host}:{port}: cannot be reached "
                    f"({error.strerror or error}); start the process with --process=0 "
                    "there, and open the port"
                ) from None
            time.sleep(0.2)


def _watcher(index: int | None) -> subprocess.Popen:
    """Says a line for a process that ends without a word.

    So jaxlib ends those whose fellows died, with pages about where in it that was.
    """
    name = "this process" if index is None else f"process {index}"
    line = (
        f"error: {name} ended: it was killed, or another process died, never came or "
        f"cannot be reached; {GO_ON}"
    )
    return subprocess.Popen(
        ["sh", "-c", 'read -r goodbye || echo "$0" >&2', line],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is not for it
    )


def meet(where: str) -> None:
    """Returns once all processes are here."""
    multihost_utils.sync_global_devices(where)


def agree(facts: dict[str, Any]) -> None:
    """Checks that all processes have the same facts.

    Args:
        facts: values by name, as JSON can hold them.

    Raises:
        InputError: in every process, naming what differs.
    """
    if jax.process_count() == 1:
        return
    own = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    longest = multihost_utils.process_allgather(np.int32(own.size)).max()
    padded = np.full(longest, ord(" "), np.uint8)
    padded[: own.size] = own
    everyones = multihost_utils.process_allgather(padded)
    ours, *others = [json.loads(row.tobytes()) for row in everyones]
    for index, theirs in enumerate(others, 1):
        differing = [
            f"{key} ({ours.get(key, 'absent')} in process 0, "
            f"{theirs.get(key, 'absent')} in process {index})"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]
        if differing:
            raise InputError(
                f"the processes disagree about {'; '.join(differing)}; start all of "
                "them with the same"
            )


def of_all(indices: Iterable[int], size: int) -> list[int]:
    """The indices, below `size`, that any process has, in order."""
    has = np.zeros(size, np.uint8)
    has[list(indices)] = 1
    return np.flatnonzero(multihost_utils.process_allgather(has).max(axis=0)).tolist()


@dataclasses.dataclass
class Stop:
    """The signal that asked for the end of the training, if one did."""

    signal: int | None = None

    def asked(self, step: int) -> bool:
        """Whether to end after this update; several processes end after the same."""
        if reached_preemption_sync_point(step):  # False where there is one process
            self.signal = signal.SIGTERM
        return self.signal is not None


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """Notes SIGTERM and SIGINT, in place of what they do otherwise.

    A second SIGINT (Ctrl-C) does what it always does. Of several processes, JAX tells
    all about the SIGTERM that one has got; SIGINT becomes one.
    """
    stop = Stop()
    alone = jax.process_count() == 1

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        if alone:
            stop.signal = number
        else:
            signal.raise_signal(signal.SIGTERM)

    numbers = (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,)
    before = {int(n): signal.signal(n, note) for n in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
