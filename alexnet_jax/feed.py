"""Host arrays → global arrays on the mesh: batches, two ahead, and learning rates."""

import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import parallel
from alexnet_jax.data.loader import Batches

AHEAD = 2  # batches: one is on the devices when they ask for it, one on its way


class Feed:
    """Transfers the next batches to the devices while they compute on this one.

    Attributes:
        waited: seconds in which the devices were idle for lack of data.
    """

    def __init__(self, batches: Batches, mesh: Mesh):
        """Start with the first of `data.loader.training_batches`, which are endless."""
        self.waited = 0.0
        self._batches, self._mesh = batches, mesh
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ahead = deque(self._thread.submit(self._take) for _ in range(AHEAD))

    def _take(self) -> dict[str, jax.Array]:
        return parallel.to_mesh(self._mesh, next(self._batches))

    def take(self, busy_with: jax.Array) -> dict[str, jax.Array]:
        """The next batch; if it is not ready, waiting begins when `busy_with` is done.

        Args:
            busy_with: the last result of the devices.
        """
        due = self._ahead[0]
        if not due.done():
            busy_with.block_until_ready()
            start = time.perf_counter()
            due.exception()
            self.waited += time.perf_counter() - start
        batch = due.result()
        self._ahead.popleft()
        self._ahead.append(self._thread.submit(self._take))
        return batch

    def close(self) -> None:
        """End the thread, then the threads behind the batches."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._batches.close()


class CachedTransfer:
    """Sends numbers to the devices only when they differ from the last ones.

    Passed to a compiled function as Python numbers, each would be sent in every step.
    """

    def __init__(self, mesh: Mesh):
        """Nothing has been sent to the devices of the mesh."""
        self._mesh, self._sent, self._arrays = mesh, None, None

    def put(self, numbers: Any) -> Any:
        """A tree of numbers as float32 arrays on every device."""
        if numbers != self._sent:
            arrays = jax.tree.map(lambda x: np.asarray(x, np.float32), numbers)
            self._sent, self._arrays = numbers, parallel.replicate(self._mesh, arrays)
        return self._arrays
