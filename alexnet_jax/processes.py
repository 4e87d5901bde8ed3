"""Several processes that train one network, and the signals that stop them.

Each runs the same program on its own devices (`jax.distributed`). The first writes all
files and the console, but for the checkpoints: all write their parts of those.
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
import threading
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
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEARTBEAT = 30  # seconds without a heartbeat after which a process counts as dead
RESTART = "nothing saved is lost: start all of them again to continue"
# In the errors that jaxlib raises where another process is gone.
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "coordination service")

meet = multihost_utils.sync_global_devices  # meet(where) waits for all processes


def first() -> bool:
    """Whether this process writes the files and the console."""
    return jax.process_index() == 0


@contextmanager
def joined(coordinator: str | None, count: int, index: int) -> Iterator[None]:
    """Make this process one of several, until it ends.

    Args:
        coordinator: 'host:port' of the first process; 'auto' under Slurm, Open MPI
            and on TPU VMs, which know the other two; None for a single process.
        count: processes in all.
        index: of this one, from 0.
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
        # Exit without a barrier: the others may be blocked on us. The first process
        # leaves them the time to find the same mistake, since they end with it.
        own = error.status if isinstance(error, InputError) else InputError.status
        atexit.register(os._exit, own if isinstance(error, Exception) else 130)
        if isinstance(error, InputError) and first():
            time.sleep(2)
        reason = str(error)
        # Gloo's are ValueErrors where they come through multihost_utils.
        of_jax = isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        mistake = isinstance(error, InputError)
        if mistake or not of_jax or not any(word in reason for word in LOST):
            raise
        raise InputError(
            f"process {jax.process_index()} of {jax.process_count()} has lost another "
            f"one ({reason.splitlines()[0][:150]}); {RESTART}"
        ) from error
    finally:
        watcher.communicate(b"goodbye\n")


def _initialise(coordinator: str, count: int, index: int) -> None:
    initialise = functools.partial(
        jax.distributed.initialize,
        heartbeat_timeout_seconds=HEARTBEAT,
        initialization_timeout=round(PATIENCE),
    )
    if coordinator == "auto":
        try:
            initialise()
        except (ValueError, RuntimeError) as error:
            raise InputError(
                "--coordinator=auto: found neither Slurm nor Open MPI nor a TPU VM "
                f"({error}); give host:port, --processes and --process"
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
    # Where all processes are of this machine, no other one can connect.
    own = coordinator if host.strip("[]") in LOOPBACK else None
    initialise(coordinator, count, index, coordinator_bind_address=own)


def _wait_for(host: str, port: int) -> None:
    """Wait until the first process listens: jaxlib would abort this one otherwise."""
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
    """A shell that prints a line if jaxlib aborts this process, as it does silently."""
    name = "this process" if index is None else f"process {index}"
    line = (
        f"error: {name} ended: it was killed, or another process died, never came or "
        f"cannot be reached; {RESTART}"
    )
    return subprocess.Popen(
        ["sh", "-c", 'read -r goodbye || echo "$0" >&2', line],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C must not end it
    )


def agree(facts: dict[str, Any]) -> None:
    """Check that all processes have the same facts: values by name, as in JSON."""
    if jax.process_count() == 1:
        return
    own = json.dumps(facts).encode()
    longest = multihost_utils.process_allgather(np.int32(len(own))).max()
    padded = np.frombuffer(own.ljust(longest), np.uint8)
    everyones = multihost_utils.process_allgather(padded)
    ours, *others = (json.loads(row.tobytes()) for row in everyones)
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
    """The sorted union of the indices (below `size`) of all processes."""
    has = np.zeros(size, np.uint8)
    has[list(indices)] = 1
    return np.flatnonzero(multihost_utils.process_allgather(has).max(axis=0)).tolist()


@dataclasses.dataclass
class Stop:
    """The signal that asked to stop the training, if there was one."""

    signal: int | None = None
    noted: int | None = None  # where several processes stop together

    def asked(self, step: int) -> bool:
        """Whether to stop after this step; several processes stop after the same."""
        if reached_preemption_sync_point(step):  # False for a single process
            self.signal = self.noted or signal.SIGTERM
        return self.signal is not None


@contextmanager
def stop_signal() -> Iterator[Stop]:
    """Record SIGTERM, SIGINT and Slurm's SIGUSR1 instead of ending the process.

    A second SIGINT ends it. JAX passes a SIGTERM on to all of several processes; the
    others are turned into one. Outside of the main thread Python allows no handlers,
    and signals keep their effect.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    alone = jax.process_count() == 1

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, before[number])
        if alone:
            stop.signal = number
        else:
            if number == signal.SIGUSR1:  # sent to each of them
                stop.noted = number
            signal.raise_signal(signal.SIGTERM)

    numbers = [signal.SIGINT, signal.SIGUSR1, *([signal.SIGTERM] if alone else [])]
    before = {int(n): signal.signal(n, note) for n in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
