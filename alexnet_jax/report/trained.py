"""The network of a run, on this machine's devices."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import device, experiment, parallel
from alexnet_jax.inference import Model, make_features
from alexnet_jax.network.alexnet import AlexNet


class Trained(NamedTuple):
    """A network, its weights, and the activations of its last hidden layer."""

    step: int  # of the checkpoint
    network: AlexNet
    mesh: Mesh
    model: Model
    batch_size: int
    layer: str  # the last hidden one; '': there is none
    features: Callable[..., jax.Array]  # of `make_features`, compiled

    @classmethod
    def of(
        cls, config: ConfigDict, classes: int, mesh: Mesh, model: Model, step: int
    ) -> "Trained":
        """The network of a config, with a model read from the checkpoint of a step."""
        network = experiment.make_network(config, classes)
        layer = ("", *network.weighted)[-2]
        features = make_features(network, mesh, config.augment.crop, layer)
        features, batch_size = device.jit(features), config.batch_size
        return cls(step, network, mesh, model, batch_size, layer, features)

    def first_layer(self) -> np.ndarray:
        """The kernels of the first layer, float32."""
        name = self.network.weighted[0]
        return np.asarray(self.model.params[name]["kernel"], np.float32)

    def predictions(self, pixels: np.ndarray) -> np.ndarray:
        """The distributions, float32 (N, classes), for images uint8 (N, S, S, 3)."""
        return self._apply(self.model.probabilities, pixels, self.mesh.size)

    def activations(self, pixels: np.ndarray) -> np.ndarray:
        """Those of `layer`, float32 (N, units), for images uint8 (N, S, S, 3)."""
        return self._apply(self.features, pixels, self.batch_size)

    def _apply(
        self, function: Callable, pixels: np.ndarray, multiple: int
    ) -> np.ndarray:
        """Images, with black ones up to a multiple of so many, through a function."""
        filled = np.pad(pixels, [(0, -len(pixels) % multiple), *[(0, 0)] * 3])
        images = parallel.to_mesh(self.mesh, {"image": filled})["image"]
        result = function(self.model.params, images, self.model.mean_image)
        return np.asarray(result, np.float32)[: len(pixels)]
