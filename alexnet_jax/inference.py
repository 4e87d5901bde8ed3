"""Predictions averaged over views (§4.1) and networks (§6), error rates, features."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import parallel
from alexnet_jax.metrics import Sums, score
from alexnet_jax.network.alexnet import BATCH_NORMALISE, POOLS, UNITS, AlexNet


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


def feature_names(network: AlexNet) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The activations that can be read: {name: (layer, the operations behind it)}.

    'conv1' is the output of that layer, behind its unit where that comes next; where
    the unit stands behind the pooling, as in the 2012 code, it is the layer's own
    output. 'pool1' is what pooling makes of it, behind normalisation and unit.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    layer = pool = ""
    behind: tuple[str, ...] = ()
    for stage in network.layers:
        if stage in network.weighted:
            layer, pool, behind = stage, "", ()
            found[layer] = layer, behind
        elif layer and (behind or stage not in (*UNITS, BATCH_NORMALISE)):
            behind = (*behind, stage)
            if stage in POOLS:
                pool = "pool" + layer.removeprefix("conv").removeprefix("local")
            if pool and stage in (*POOLS, *UNITS):
                found[pool] = layer, behind
    return found


def make_features(
    network: AlexNet, mesh: Mesh, side: int, names: Sequence[str]
) -> Callable[..., dict[str, jax.Array]]:
    """Build the activations of the centre views of images, in one forward pass.

    Args:
        network: the network.
        mesh: `parallel.make_mesh` with one device along 'tower'.
        side: of a view, in pixels.
        names: of `feature_names`.

    Returns:
        features(params, image uint8 (B, S, S, 3), mean_image (S, S, 3)) → {name:
        float32 (B, H, W, maps) or (B, units)}. The maps, or units, of tower 1 come
        first, then those of tower 2. Dropout does not halve them.
    """
    known = feature_names(network)
    # XLA merges what the forward passes have in common (tests/test_inference.py).
    forward = {
        name: parallel.evaluation_forward(network, mesh, until=known[name][0])
        for name in names
    }

    def features(params, image: jax.Array, mean_image: jax.Array):
        margin = (image.shape[1] - side) // 2
        centre = slice(margin, margin + side)
        mean = mean_image[centre, centre]
        pixels = image[:, centre, centre].astype(mean.dtype) - mean
        found: dict[str, jax.Array] = {}
        for name in names:
            x, (_, behind) = forward[name](params, pixels), known[name]
            rest = network.clone(layers=behind)
            found[name] = jnp.float32(rest.apply({}, x) if behind else x)
        return found

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


def nearest(
    queries: np.ndarray,
    own_rows: Sequence[int],
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    count: int,
) -> list[list[tuple[int, float]]]:
    """The rows at the smallest Euclidean distances (Figure 4, right), block by block.

    The search is exact; one block and the nearest rows so far are in memory.

    Args:
        queries: float32 (Q, n), activations.
        own_rows: of the queries in the index, to be left out; −1: not in it.
        blocks: of the index: rows (B,) and their activations, float32 (B, n).
        count: rows wanted for each query.

    Returns:
        (row, distance) for each query, nearest first, equally near ones in the order of
        the index.
    """
    own = np.array(own_rows)[:, None]
    distances, rows = np.empty((len(queries), 0)), np.empty((len(queries), 0), int)
    for more, features in blocks:
        squares = np.stack([np.square(features - q).sum(axis=1) for q in queries])
        squares = np.where(more == own, np.inf, squares)
        distances = np.concatenate([distances, squares], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(more, squares.shape)], axis=1)
        best = np.argsort(distances, axis=1, kind="stable")[:, :count]
        distances, rows = (
            np.take_along_axis(values, best, axis=1) for values in (distances, rows)
        )
    return [
        [(int(r), float(d)) for r, d in zip(*own, strict=True) if np.isfinite(d)]
        for own in zip(rows, np.sqrt(distances), strict=True)
    ]


def _on_host(sums: Sums) -> np.ndarray:
    return np.array(jax.tree.leaves(jax.device_get(sums)))
