"""The network of a run, on this machine's devices."""

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import experiment
from alexnet_jax.data.images import Source
from alexnet_jax.data.preprocess import Square
from alexnet_jax.inference import Model
from alexnet_jax.predictor import Block, Predictor


class Trained(NamedTuple):
    """A network with the weights of a checkpoint."""

    step: int  # of the checkpoint
    predictor: Predictor
    layer: str  # the last hidden one; '': there is none

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        classes: Sequence[str],
        mesh: Mesh,
        model: Model,
        step: int,
        square: Square,
    ) -> "Trained":
        """The network of a config, with a model read from the checkpoint of a step."""
        network = experiment.make_network(config, len(classes))
        crop = config.augment.crop
        predictor = Predictor([model], network, classes, square, crop, mesh)
        return cls(step, predictor, ("", *network.weighted)[-2])

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
        name, (model,) = self.predictor.network.weighted[0], self.predictor.models
        return np.asarray(model.params[name]["kernel"], np.float32)
