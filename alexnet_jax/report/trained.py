"""The network of a run, on this machine's devices."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import experiment, inputs
from alexnet_jax.inference import Model
from alexnet_jax.predictor import Predictor


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
    ) -> "Trained":
        """The network of a config, with a model read from the checkpoint of a step."""
        network = experiment.make_network(config, len(classes))
        square, crop = inputs.make_square(config), config.augment.crop
        predictor = Predictor([model], network, classes, square, crop, mesh)
        return cls(step, predictor, ("", *network.weighted)[-2])

    def first_layer(self) -> np.ndarray:
        """The kernels of the first layer, float32."""
        name, (model,) = self.predictor.network.weighted[0], self.predictor.models
        return np.asarray(model.params[name]["kernel"], np.float32)
