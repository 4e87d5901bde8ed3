"""Host batches → global arrays on the mesh, one ahead of the training; and rates."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import parallel
from alexnet_jax.data.background import Elements


class Feed:
    """Takes the next batch to the devices while they compute on this one.

    Attributes:
        waited: seconds for which the devices had nothing to do but wait for data.
    """

    def __init__(self, batches: Elements, mesh: Mesh):
        """Starts on the first batch.

        Args:
            batches: of `data.loader.training_batches`; endless.
            mesh: where they go.
        """
        self.waited = 0.0
        self._batches, self._mesh = batches, mesh
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._next = self._thread.submit(self._take)

    def _take(self) -> dict[str, jax.Array]:
        return parallel.to_mesh(self._mesh, next(self._batches))

    def take(self, busy_with: jax.Array) -> dict[str, jax.Array]:
        """The next batch.

        Args:
            busy_with: what the devices computed last. Where the batch is not there
                yet, waiting begins to count when this is done.
        """
        if not self._next.done():
            busy_with.block_until_ready()
            start = time.perf_counter()
            self._next.exception()
            self.waited += time.perf_counter() - start
        batch = self._next.result()
        self._next = self._thread.submit(self._take)
        return batch

    def close(self) -> None:
        """Ends the thread, then the workers behind the batches."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._batches.close()


class SeldomChanging:
    """Numbers that are sent to the devices only when they are others than before.

    Given to a compiled function as Python's, each of them would be sent anew each time.
    """

    def __init__(self, mesh: Mesh):
        """Has sent nothing yet.

        Args:
            mesh: where they go.
        """
        self._mesh, self._sent, self._there = mesh, None, None

    def there(self, numbers: Any) -> Any:
        """A tree of numbers as float32 on every device."""
        if numbers != self._sent:
            arrays = jax.tree.map(lambda x: np.asarray(x, np.float32), numbers)
            self._sent, self._there = numbers, parallel.everywhere(self._mesh, arrays)
        return self._there
