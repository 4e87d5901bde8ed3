"""Processes that compute a data set ahead of its reader, and hand it over in memory.

grain has such workers (`mp_prefetch`), which make new shared memory for each element.
To find that took 156 µs a picture of a batch here, where to copy it takes 11 and to
decode a JPEG 360. So each worker has pieces of memory which go round: it fills one, the
reader looks at the arrays where they lie, and when nobody does any more the piece goes
back.
"""

import contextlib
import mmap
import multiprocessing
import os
import pickle
import queue
import signal
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.parent import follow_parent

AHEAD = 2  # elements of a worker that wait for the reader
ALIGNMENT = 64  # bytes, so that JAX can take an array as it lies


class _Message(NamedTuple):
    """From a worker: an element, as pickle protocol 5 takes it apart."""

    pickled: bytes
    piece: int
    new: bool  # whether the reader has yet to open it: its descriptor follows
    spans: list[tuple[int, int]]  # of the arrays' bytes in the piece


class _Failure(NamedTuple):
    """From a worker: what went wrong."""

    error: Exception


class Workers(Iterator[Any]):
    """The elements of a data set in order, element i from worker i % workers."""

    def __init__(self, elements: Callable[[int], Iterable[Any]], workers: int):
        """Start the processes.

        Args:
            elements: called in worker i with i, gives every workers-th element from the
                i-th one on; pickled.
            workers: how many.
        """
        context = multiprocessing.get_context("spawn")
        self._next = 0
        self._workers: list[tuple[Any, Connection]] = []
        self._pieces: list[dict[int, mmap.mmap]] = [{} for _ in range(workers)]
        # A piece is done with in whatever thread drops its last array.
        self._done_with: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        for worker in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(elements, worker, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._workers.append((process, ours))

    def __next__(self) -> Any:
        """The next element.

        Raises:
            Exception: whatever a worker raised.
            RuntimeError: a worker was killed.
        """
        if not self._workers:
            raise StopIteration
        self._give_back()
        worker = self._next % len(self._workers)
        process, connection = self._workers[worker]
        try:
            message = connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            raise RuntimeError(
                f"a process that reads pictures ended (exit status {process.exitcode})"
                ", as happens where memory is short; start again, perhaps with a lower "
                "dataset.workers"
            ) from None
        if not isinstance(message, _Message):  # after which there is nothing more
            self.close()
            raise message.error if message else StopIteration
        self._next += 1
        element = self._opened(worker, message)
        self._say(worker, None)  # taken
        return element

    def _opened(self, worker: int, message: _Message) -> Any:
        pieces = self._pieces[worker]
        if message.new:
            descriptor = reduction.recv_handle(self._workers[worker][1])
            pieces[message.piece] = mmap.mmap(descriptor, 0)
            os.close(descriptor)
        whole = np.frombuffer(pieces[message.piece], np.uint8)
        release = weakref.finalize(whole, self._done_with.put, (worker, message.piece))
        release.atexit = False
        arrays = [whole[start:stop] for start, stop in message.spans]
        return pickle.loads(message.pickled, buffers=arrays)

    def _give_back(self) -> None:
        while True:
            try:
                worker, piece = self._done_with.get_nowait()
            except queue.Empty:
                return
            self._say(worker, piece)

    def _say(self, worker: int, what: int | None) -> None:
        with contextlib.suppress(OSError):  # it has come to its end
            self._workers[worker][1].send(what)

    def close(self) -> None:
        """End the processes; the arrays that are still looked at stay."""
        workers, self._workers = self._workers, []
        for process, connection in workers:
            connection.close()
            process.terminate()
        for process, _ in workers:
            process.join()


def _work(
    elements: Callable[[int], Iterable[Any]], worker: int, connection: Connection
) -> None:
    """What a worker does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    follow_parent()
    try:
        pieces: dict[int, mmap.mmap] = {}
        free: list[int] = []
        ahead = 0
        for element in elements(worker):
            while ahead == AHEAD or connection.poll():
                heard = connection.recv()
                if heard is None:
                    ahead -= 1
                else:
                    free.append(heard)
            piece = free.pop() if free else len(pieces)
            _send(element, piece, pieces, connection)
            ahead += 1
        connection.send(None)
    except (EOFError, ConnectionError):
        return  # nobody reads any more
    except Exception as error:
        connection.send(_Failure(error))


def _send(
    element: Any, piece: int, pieces: dict[int, mmap.mmap], connection: Connection
) -> None:
    """Puts an element into a piece of memory, and tells the reader."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(element, protocol=5, buffer_callback=buffers.append)
    arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
    spans, end = [], 0
    for array in arrays:
        spans.append((end, end + array.size))
        end += -(-array.size // ALIGNMENT) * ALIGNMENT
    new = piece not in pieces or len(pieces[piece]) < end
    if new:
        descriptor = _new_piece(max(end, 1))
        pieces[piece] = mmap.mmap(descriptor, 0)
    memory = np.frombuffer(pieces[piece], np.uint8)
    for array, (start, stop) in zip(arrays, spans, strict=True):
        memory[start:stop] = array
    connection.send(_Message(pickled, piece, new, spans))
    if new:
        reduction.send_handle(connection, descriptor, None)
        os.close(descriptor)


def _new_piece(size: int) -> int:
    """The descriptor of memory that goes with the last process that has it."""
    for folder in ("/dev/shm", None):  # in a container the first may be small
        try:
            descriptor, file = tempfile.mkstemp(dir=folder)
        except FileNotFoundError:
            continue
        os.unlink(file)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
            return descriptor
        except OSError:
            os.close(descriptor)
            if folder is None:
                raise
    raise AssertionError("there is always a folder for temporary files")
