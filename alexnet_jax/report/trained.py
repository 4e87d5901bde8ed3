"""The network of a run, on this machine's devices."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from alexnet_jax.data.images import Source
from alexnet_jax.predictor import Block, Predictor


class Trained(NamedTuple):
    """A network with the weights of a checkpoint."""

    step: int  # of the checkpoint
    predictor: Predictor

    @property
    def layer(self) -> str:
        """The last hidden one; '' where there is none."""
        return ("", *self.predictor.network.weighted)[-2]

    def activations(self, images: np.ndarray) -> np.ndarray:
        """Those of `layer`, float32 (N, units), for images uint8 (N, S, S, 3)."""
        return self._hidden(self.predictor.features(images, self._names))

    def centre_view(self, images: np.ndarray) -> np.ndarray:
        """The distributions (N, classes) for the centre views of such images."""
        return self._softmax(self.predictor.features(images, self._names))

    def over(self, source: Source) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
        """The images of a source, in blocks, with `activations` and `centre_view`."""
        read = self.predictor.reader(self._names)
        for block in self.predictor.over(source, read, progress=sys.stderr.isatty()):
            yield block, self._hidden(block.results), self._softmax(block.results)

    @property
    def _names(self) -> list[str]:
        return list(self.predictor.network.weighted[-2:])

    def _hidden(self, features: dict[str, np.ndarray]) -> np.ndarray:
        found = features[self._names[0]]
        return found.reshape(len(found), found[:1].size)

    def _softmax(self, features: dict[str, np.ndarray]) -> np.ndarray:
        logits = features[self._names[-1]].astype(np.float64)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def first_layer(self) -> np.ndarray:
        """The kernels of the first layer, float32."""
        name = self.predictor.network.weighted[0]
        return np.asarray(self.predictor.params[name]["kernel"], np.float32)
