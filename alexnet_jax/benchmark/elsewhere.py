"""What is compared with us runs in a process of its own, as it would for its users.

Two libraries in one process share its memory and its cores in ways that neither has
alone: with PyTorch beside it, JAX trained a quarter more slowly on a CPU.
"""

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

Runs = Mapping[str, Callable[[int], None]]


@contextmanager
def running(make: Callable[..., Runs], *arguments: Any) -> Iterator[Runs]:
    """What `make(*arguments)` gives in another process, to be called from this one.

    Args:
        make: gives run(times) by name; pickled, as its arguments are.
        arguments: for it.

    Raises:
        EOFError: the process died.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make), daemon=True)
    process.start()
    theirs.close()
    ours.send(arguments)
    try:
        yield {name: functools.partial(_call, ours, name) for name in ours.recv()}
    finally:
        ours.close()
        process.join()


def _call(connection: Connection, name: str, times: int) -> None:
    connection.send((name, times))
    connection.recv()


def _serve(connection: Connection, make: Callable[..., Runs]) -> None:
    runs = make(*connection.recv())
    connection.send(list(runs))
    while True:
        try:
            name, times = connection.recv()
        except EOFError:
            return
        runs[name](times)
        connection.send(None)
