"""Predictions averaged over views (§4.1) and networks (§6), and their error rates."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import parallel
from alexnet_jax.metrics import Sums, score
from alexnet_jax.network.alexnet import AlexNet


class Model(NamedTuple):
    """One network, ready to predict."""

    probabilities: Callable[..., jax.Array]  # of `make_probabilities`, compiled
    params: Any  # {layer: {'kernel', 'bias'}}
    mean_image: jax.Array  # float32 (S, S, 3), of the training images
    weight: float = 1.0  # of its predictions in an ensemble's average


def make_probabilities(
    network: AlexNet, mesh: Mesh, side: int, views: int, mean_at: str
) -> Callable[..., jax.Array]:
    """Build the prediction of one network, averaged over views (§4.1).

    Args:
        network: the network.
        mesh: `parallel.make_mesh`.
        side: of a view, in pixels.
        views: 1, the centre; 10, the corners and the centre with their reflections; or
            9, a grid of three by three without (CIFAR-10 in 2012: convdata.py).
        mean_at: as in `step.training_pixels`.

    Returns:
        probabilities(params, image uint8 (B, S, S, 3), mean_image (S, S, 3)) →
        (B, classes), the average of the views' softmax outputs (2012 layer.cu).
    """
    forward = parallel.evaluation_forward(network, mesh)

    def probabilities(params, image: jax.Array, mean_image: jax.Array) -> jax.Array:
        margin = image.shape[1] - side
        centre = (margin // 2, margin // 2)
        corners: list[tuple[int, ...]] = [centre]
        flips = [False]
        if views == 10:
            corners += [(0, 0), (0, margin), (margin, 0), (margin, margin)]
            flips += [True]
        elif views == 9:
            corners = list(itertools.product((0, margin // 2, margin), repeat=2))

        def view(corner_and_flip):
            (y, x), flip = corner_and_flip
            pixels = jax.lax.dynamic_slice(
                image, (0, y, x, 0), (image.shape[0], side, side, 3)
            )
            pixels = pixels.astype(mean_image.dtype)
            at = (y, x) if mean_at == "crop" else centre
            mean = jax.lax.dynamic_slice(mean_image, (*at, 0), (side, side, 3))
            if mean_at == "crop":  # reflected along with its pixels
                mean = jnp.where(flip, mean[:, ::-1], mean)
            pixels = jnp.where(flip, pixels[:, :, ::-1], pixels) - mean
            return jax.nn.softmax(forward(params, pixels))

        pairs = [(corner, flip) for flip in flips for corner in corners]
        corner, flip = (jnp.array(column) for column in zip(*pairs, strict=True))
        # A loop, so that ten views compile in the time of one.
        return jax.lax.map(view, ((corner[:, 0], corner[:, 1]), flip)).mean(axis=0)

    return probabilities


def make_features(
    network: AlexNet, mesh: Mesh, side: int, layer: str
) -> Callable[..., jax.Array]:
    """Build the activations of a layer for the centre views of images.

    Args:
        network: the network.
        mesh: `parallel.make_mesh` with one device along 'tower'.
        side: of a view, in pixels.
        layer: of `AlexNet.weighted`; its activations are those behind its unit.

    Returns:
        features(params, image uint8 (B, S, S, 3), mean_image (S, S, 3)) → (B, n).
    """
    forward = parallel.evaluation_forward(network, mesh, until=layer)

    def features(params, image: jax.Array, mean_image: jax.Array) -> jax.Array:
        margin = (image.shape[1] - side) // 2
        centre = slice(margin, margin + side)
        mean = mean_image[centre, centre]
        pixels = image[:, centre, centre].astype(mean.dtype) - mean
        return forward(params, pixels).reshape(len(image), -1)

    return features


def ensemble(models: Sequence[Model], image: jax.Array) -> jax.Array:
    """The average (§6; 2012 avg-test.py) of the models' softmax outputs.

    Args:
        models: with their weights.
        image: uint8 (B, S, S, 3).
    """
    answers = [m.probabilities(m.params, image, m.mean_image) for m in models]
    weights = jnp.array([model.weight for model in models], answers[0].dtype)
    return jnp.tensordot(weights / weights.sum(), jnp.stack(answers), axes=1)


def likeliest(p: np.ndarray, count: int) -> list[int]:
    """Labels of the likeliest classes of a distribution (classes,), likeliest first."""
    return np.argsort(-p, kind="stable")[:count].tolist()


@jax.jit
def _score(probabilities: jax.Array, labels: jax.Array, weights: jax.Array) -> Sums:
    # A probability that underflows to 0 counts as the smallest float, 87 nats: infinity
    # is not JSON, and would hide the loss of all other images.
    least = jnp.finfo(probabilities.dtype).tiny
    return score(jnp.log(jnp.maximum(probabilities, least)), labels, weights)


def error_rates(
    models: Sequence[Model], batches: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> tuple[dict[str, float], list[int]]:
    """Loss and error rates over a whole split, each image counted once.

    Args:
        models: one, or an ensemble.
        batches: of `data.loader.evaluation_batches`.
        mesh: `parallel.make_mesh`.

    Returns:
        {'images', 'loss' in nats of the averaged distribution, 'top1_error',
        'top5_error' from 0 to 1}, and the indices of images that were left out because
        they cannot be decoded.
    """
    totals = np.zeros(4)  # float64 on the host: the same for any batch size
    before, unreadable = Sums.zero(), []
    for batch in batches:
        unreadable += batch["unreadable"][batch["unreadable"] >= 0].tolist()
        on_devices = parallel.to_mesh(
            mesh, {name: batch[name] for name in ("image", "label", "weight")}
        )
        answers = ensemble(models, on_devices["image"])
        sums = _score(answers, on_devices["label"], on_devices["weight"])
        totals += _on_host(before)  # while the devices compute this batch
        before = sums
    totals += _on_host(before)
    rates = Sums(*totals).rates()
    return {"images": round(totals[0]), **rates}, unreadable


def _on_host(sums: Sums) -> np.ndarray:
    return np.array(jax.tree.leaves(jax.device_get(sums)))
