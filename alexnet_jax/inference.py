"""Predictions averaged over views (§4.1) and networks (§6), and their error rates."""

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


def make_probabilities(
    network: AlexNet, mesh: Mesh, side: int, views: int, mean_at: str
) -> Callable[..., jax.Array]:
    """Build the prediction of one network, averaged over views (§4.1).

    Args:
        network: the network.
        mesh: `parallel.make_mesh`.
        side: of a view, in pixels.
        views: 1, the centre; or 10, the corners and the centre with their reflections.
        mean_at: as in `step.training_pixels`.

    Returns:
        probabilities(params, image uint8 (B, S, S, 3), mean_image (S, S, 3)) →
        (B, classes), the average of the views' softmax outputs (2012 layer.cu).
    """
    forward = parallel.evaluation_forward(network, mesh)

    def probabilities(params, image: jax.Array, mean_image: jax.Array) -> jax.Array:
        margin = image.shape[1] - side
        centre = (margin // 2, margin // 2)
        corners, flips = [centre], [False]
        if views == 10:
            corners += [(0, 0), (0, margin), (margin, 0), (margin, margin)]
            flips += [True]

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


def ensemble(models: Sequence[Model], image: jax.Array) -> jax.Array:
    """The average (§6) of the models' softmax outputs for uint8 (B, S, S, 3)."""
    answers = [m.probabilities(m.params, image, m.mean_image) for m in models]
    return jnp.mean(jnp.stack(answers), axis=0)


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
