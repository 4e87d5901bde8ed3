"""Trained networks on a mesh, applied to any number of images."""

import functools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from alexnet_jax import device, inference, parallel
from alexnet_jax.data.images import Source
from alexnet_jax.data.loader import Batch, evaluation_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import InputError
from alexnet_jax.inference import Model, feature_names
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.values import one_of

BATCH = 64  # images that each device computes at once

Compute = Callable[[jax.Array], Any]  # uint8 (B, S, S, 3) → a tree of arrays (B, …)


class Block(NamedTuple):
    """Consecutive images of a source, n of which could be decoded."""

    rows: np.ndarray  # their indices in the source (n,)
    labels: np.ndarray  # int32 (n,)
    results: Any  # a tree of arrays (n, …)
    unreadable: list[int]  # the indices of the others


@dataclass(frozen=True)
class Predictor:
    """Networks with their weights, ready for images.

    Attributes:
        models: one, or an ensemble, for as many views as they were made for.
        network: of the first model, whose features can be read.
        classes: names in label order.
        square: brings image files to the S×S pixels that the networks take.
        crop: side of a view, in pixels.
        mesh: of the devices that compute.
    """

    models: Sequence[Model]
    network: AlexNet
    classes: Sequence[str]
    square: Square
    crop: int
    mesh: Mesh

    @property
    def params(self) -> dict[str, dict[str, jax.Array]]:
        """The parameters of the first model: {layer: {'kernel', 'bias'}}."""
        return self.models[0].params

    def images(
        self, source: Source, rows: Iterable[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Decode images of a source.

        Args:
            source: of `inputs.open_images` or `data.folders.files_named`.
            rows: indices in it; None: all.

        Returns:
            uint8 (N, S, S, 3), and labels int32 (N,).
        """
        records = [source[i] for i in (range(len(source)) if rows is None else rows)]
        squares = np.zeros((len(records), *[self.square.size] * 2, 3), np.uint8)
        for record, square in zip(records, squares, strict=True):
            self.square.pixels(record, square)
        return squares, np.array([label for _, _, label in records], np.int32)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """The distributions, float32 (N, classes), for images uint8 (N, S, S, 3)."""
        return self._of_arrays(self.predict, images)

    def features(
        self, images: np.ndarray, names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Activations of the centre views, as `inference.make_features` describes them.

        Args:
            images: uint8 (N, S, S, 3).
            names: such as 'fc7', 'conv1' or 'pool5'.
        """
        return self._of_arrays(self.reader(names), images)

    def predict(self, images: jax.Array) -> jax.Array:
        """The distributions (B, classes) for images uint8 (B, S, S, 3) on the mesh."""
        return inference.ensemble(self.models, images)

    def reader(self, names: Sequence[str]) -> Compute:
        """The computation of `features`, for images on the mesh."""
        for name in names:
            one_of(name, tuple(feature_names(self.network)), "--features")
        if len(self.models) > 1:
            raise InputError(
                f"--checkpoint: {len(self.models)} networks; features are those of one"
            )
        compiled = _features(self.network, self.mesh, self.crop, tuple(names))
        (model,) = self.models
        return lambda images: compiled(model.params, images, model.mean_image)

    def over(
        self, source: Source, compute: Compute, progress: bool = False
    ) -> Generator[Block, None, None]:
        """Apply a computation to all images of a source, in order.

        Threads decode the next images while the devices compute; only a few batches are
        in memory.

        Args:
            source: the images.
            compute: `predict`, or a `reader`.
            progress: shows a bar on stderr.
        """
        batches = evaluation_batches(
            source,
            self.square,
            batch_size=self._rows(len(source)),
            threads=len(os.sched_getaffinity(0)),
            allow_unreadable=True,
        )
        bar = tqdm(
            total=len(source),
            unit=" images",
            delay=1,
            leave=False,
            disable=not progress,
        )
        start = 0
        with closing(batches), bar:
            for batch, results in self._results(compute, batches):
                there = np.flatnonzero(batch["weight"])
                unreadable = batch["unreadable"][batch["unreadable"] >= 0].tolist()
                yield Block(
                    rows=start + there,
                    labels=batch["label"][there],
                    results=jax.tree.map(lambda x, at=there: x[at], results),
                    unreadable=unreadable,
                )
                bar.update(len(there) + len(unreadable))
                start += len(batch["weight"])

    def _results(
        self, compute: Compute, batches: Iterable[Batch]
    ) -> Iterator[tuple[Batch, Any]]:
        before: tuple[Batch, Any] | None = None
        for batch in batches:
            image = parallel.to_mesh(self.mesh, {"image": batch.pop("image")})["image"]
            results = compute(image)
            if before:  # while the devices compute this batch
                yield before[0], jax.device_get(before[1])
            before = batch, results
        if before:
            yield before[0], jax.device_get(before[1])

    def _of_arrays(self, compute: Compute, images: np.ndarray) -> Any:
        rows = self._rows(len(images))

        def batches() -> Iterator[Batch]:
            for start in range(0, max(len(images), 1), rows):
                some = images[start : start + rows]
                black = [(0, rows - len(some)), *[(0, 0)] * 3]
                yield {"image": np.pad(some, black)}

        results = [result for _, result in self._results(compute, batches())]
        return jax.tree.map(
            lambda *parts: np.concatenate(parts, dtype=np.float32)[: len(images)],
            *results,
        )

    def _rows(self, images: int) -> int:
        """A batch size for so many images: a power of two on each device.

        Compiled programs are kept, so that few sizes serve any number of images.
        """
        each = -(-max(images, 1) // self.mesh.size)
        return self.mesh.size * min(BATCH, 1 << (each - 1).bit_length())


@functools.lru_cache(maxsize=8)
def _features(
    network: AlexNet, mesh: Mesh, side: int, names: tuple[str, ...]
) -> jax.stages.Wrapped:
    return device.jit(inference.make_features(network, mesh, side, names), mesh)
