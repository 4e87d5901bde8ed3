"""Processes that compute a data set ahead of its reader, and hand it over in memory.

grain has such workers (`mp_prefetch`), which make new shared memory for each element.
To find that took 156 µs a picture of a batch here, where to copy it takes 11 and to
decode a JPEG 360. So each worker has pieces of memory which go round: it fills the
arrays that `empty` gives, the reader looks at them where they lie, and when nobody does
any more the piece goes back.
"""

import contextlib
import math
import mmap
import multiprocessing
import os
import pickle
import queue
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import reduction
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.parent import begin_worker
from alexnet_jax.errors import InputError

AHEAD = 2  # elements of a worker that wait for the reader


def empty(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """As np.empty: but in a worker, an array that its reader sees without a copy."""
    if _lent is None:
        return np.empty(shape, dtype)
    count = math.prod(shape)
    memory = _lent.take(count * np.dtype(dtype).itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


class _Message(NamedTuple):
    """From a worker: an element, as pickle protocol 5 takes it apart."""

    pickled: bytes
    arrays: list[tuple[int, int]]  # those of `empty`: each one's piece and size
    new: list[int]  # pieces that the reader has yet to open: their descriptors follow


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
            InputError: a worker was killed.
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
            raise InputError(
                f"dataset.workers={len(self._workers)}: one of these processes ended "
                f"(exit status {process.exitcode}), as happens where memory is short; "
                "start again, perhaps with fewer"
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
        for piece in message.new:
            descriptor = reduction.recv_handle(self._workers[worker][1])
            pieces[piece] = mmap.mmap(descriptor, 0)
            os.close(descriptor)
        arrays = []
        for piece, size in message.arrays:
            array = np.frombuffer(pieces[piece], np.uint8, size)
            release = weakref.finalize(array, self._done_with.put, (worker, piece))
            release.atexit = False
            arrays.append(array)
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


class _Lent:
    """In a worker: the pieces of memory that go round."""

    def __init__(self):
        self._lock = threading.Lock()
        self._pieces: list[mmap.mmap] = []
        self._descriptors: dict[int, int] = {}  # of pieces that the reader has not seen
        self._free: list[int] = []
        self._at: dict[int, int] = {}  # the piece that begins at an address

    def take(self, size: int) -> mmap.mmap:
        """A piece that nobody looks at."""
        with self._lock:
            for piece in self._free:
                if len(self._pieces[piece]) >= size:
                    self._free.remove(piece)
                    return self._pieces[piece]
            piece, descriptor = len(self._pieces), _new_piece(max(size, 1))
            self._pieces.append(mmap.mmap(descriptor, 0))
            self._descriptors[piece] = descriptor
            self._at[_address(self._pieces[piece])] = piece
            return self._pieces[piece]

    def back(self, piece: int) -> None:
        """Nobody looks at a piece any more."""
        with self._lock:
            self._free.append(piece)

    def send(self, element: Any, connection: Connection) -> None:
        """Tell the reader of an element."""
        arrays: list[tuple[int, int]] = []

        def is_small(buffer: pickle.PickleBuffer) -> bool:
            """Whether it goes with the message, not having come from `take`."""
            memory = buffer.raw()
            piece = self._at.get(_address(memory))
            if piece is not None:
                arrays.append((piece, memory.nbytes))
            return piece is None

        pickled = pickle.dumps(element, protocol=5, buffer_callback=is_small)
        new = [piece for piece, _ in arrays if piece in self._descriptors]
        connection.send(_Message(pickled, arrays, new))
        for piece in new:
            descriptor = self._descriptors.pop(piece)
            reduction.send_handle(connection, descriptor, None)
            os.close(descriptor)


_lent: _Lent | None = None  # in a worker


def _address(memory: Any) -> int:
    return np.frombuffer(memory, np.uint8).ctypes.data


def _work(
    elements: Callable[[int], Iterable[Any]], worker: int, connection: Connection
) -> None:
    """What a worker does."""
    global _lent
    begin_worker()
    _lent = _Lent()
    try:
        ahead = 0
        for element in elements(worker):
            while ahead == AHEAD or connection.poll():
                heard = connection.recv()
                if heard is None:
                    ahead -= 1
                else:
                    _lent.back(heard)
            _lent.send(element, connection)
            ahead += 1
        connection.send(None)
    except (EOFError, ConnectionError):
        return  # nobody reads any more
    except Exception as error:
        connection.send(_Failure(error))


def _new_piece(size: int) -> int:
    """The descriptor of memory that goes with the last process that has it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pictures")  # /dev/shm may be small in a container
    else:
        descriptor, file = tempfile.mkstemp()
        os.unlink(file)
    os.ftruncate(descriptor, size)
    return descriptor
