"""Answers over views, networks and whole splits, against plain NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import relative_difference
from small import SIDE, mean_image, quick_jit, small_network, small_params

from alexnet_jax.data.loader import evaluation_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.inference import (
    Model,
    ensemble,
    error_rates,
    feature_names,
    make_features,
    make_probabilities,
    nearest,
)
from alexnet_jax.network.alexnet import FIGURE_2, AlexNet
from alexnet_jax.parallel import make_mesh

MARGIN = 8
MESH = make_mesh(1, 1, 2, batch_size=1)

# docs/sources.md, 'Test time': corners and centre, then their mirror images.
TEN_VIEWS = [
    (y, x, mirrored)
    for mirrored in (False, True)
    for y, x in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8))
]
CENTRE = [(4, 4, False)]
# docs/sources.md, 'CIFAR-10 networks': a grid, not mirrored.
NINE_VIEWS = [(y, x, False) for y in (0, 4, 8) for x in (0, 4, 8)]


def softmax(logits) -> np.ndarray:
    exponentials = np.exp(np.float64(logits))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def view(images, mean, place, mean_at: str) -> np.ndarray:
    """One view of all images, less the mean image there or at the centre."""
    y, x, mirrored = place

    def window(picture, top, left):
        return picture[..., top : top + SIDE, left : left + SIDE, :]

    def turned(picture):
        return picture[..., ::-1, :] if mirrored else picture

    pixels = window(images.astype(np.float32), y, x)
    if mean_at == "crop":
        return turned(pixels - window(mean, y, x))
    return turned(pixels) - window(mean, 4, 4)


@pytest.mark.parametrize(
    ("views", "mean_at", "places"),
    [
        (10, "crop", TEN_VIEWS),
        (10, "centre", TEN_VIEWS),
        (1, "crop", CENTRE),
        (9, "centre", NINE_VIEWS),
    ],
)
def test_answer_is_the_average_over_the_views(views, mean_at, places):
    network = small_network(stddevs=(0.01, 0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 2.0))
    params, mean = small_params(network), mean_image(MARGIN)
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (2, SIDE + MARGIN, SIDE + MARGIN, 3)).astype(np.uint8)

    probabilities = make_probabilities(network, MESH, SIDE, views, mean_at)
    answer = quick_jit(probabilities)(params, images, mean)

    pixels = np.concatenate([view(images, mean, place, mean_at) for place in places])
    logits = quick_jit(network.apply)({"params": params}, pixels)
    of_each = softmax(logits).reshape(len(places), 2, -1)
    assert relative_difference(answer, of_each.mean(axis=0)) <= 1e-5
    np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-6)
    if views == 10:  # what it must not be, and that these would be seen here
        of_mean_logits = softmax(np.mean(np.split(np.array(logits), 10), axis=0))
        assert relative_difference(of_mean_logits, of_each.mean(axis=0)) > 1e-3
        for left_out in range(10):
            others = np.delete(of_each, left_out, axis=0).mean(axis=0)
            assert relative_difference(others, of_each.mean(axis=0)) > 1e-4


# --- ensembles and whole splits ------------------------------------------------------


def model(answers: np.ndarray) -> Model:
    """A network that recognises picture i by its first pixel and answers row i.

    Its mean image is its table, so that models with other answers need no other code.
    """
    return Model(look_up, params=jnp.float32(0), mean_image=jnp.asarray(answers))


@jax.jit
def look_up(params, image, table):
    del params
    return table[image[:, 0, 0, 0]]


def test_ensemble_averages_probabilities_not_logits():
    sure = np.array([[0.998, 0.001, 0.001]], np.float32)
    unsure = np.array([[0.1, 0.45, 0.45]], np.float32)
    picture = np.zeros((1, 4, 4, 3), np.uint8)
    members = [model(sure), model(unsure), model(unsure)]
    answer = ensemble(members, picture)
    np.testing.assert_allclose(answer, (sure + 2 * unsure) / 3, rtol=1e-6)

    weighted = [model(sure)._replace(weight=3.0), model(unsure)]
    np.testing.assert_allclose(
        ensemble(weighted, picture), (3 * sure + unsure) / 4, rtol=1e-6
    )

    # A member that rules the truth out can be outvoted; with logits it could not.
    never, always = np.array([[[0, 1.0]], [[1, 0.0]]], np.float32)
    np.testing.assert_allclose(ensemble([model(never), model(always)], picture), 0.5)


class Seven:
    """Seven pictures of eight classes; picture i is grey level i."""

    classes = tuple("abcdefgh")
    labels = (3, 0, 7, 7, 1, 2, 5)

    def __init__(self, unreadable: int = -1):
        self.unreadable = unreadable

    def __len__(self):
        return 7

    def __getitem__(self, i):
        image = np.full((4, 4, 3), i, np.uint8)
        return f"n/{i}", b"no" if i == self.unreadable else image, self.labels[i]


def tables(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    return [rng.dirichlet(np.ones(8), 7).astype(np.float32) for _ in range(count)]


def rates_by_sorting(answers: np.ndarray, pictures) -> dict[str, float]:
    """One picture after the other."""
    loss, places = [], []
    for i in pictures:
        label = Seven.labels[i]
        loss.append(-np.log(answers[i, label]))
        places.append(np.argsort(-answers[i]).tolist().index(label))
    return {
        "images": len(loss),
        "loss": np.mean(loss),
        "top1_error": np.mean(np.array(places) >= 1),
        "top5_error": np.mean(np.array(places) >= 5),
    }


def batches(source, batch_size: int, **options):
    return evaluation_batches(source, Square(4), batch_size=batch_size, **options)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3, 5, 8])
def test_each_picture_counts_once_whatever_the_batch(batch_size, members):
    answers = tables(members)
    models = [model(table) for table in answers]
    rates, unreadable = error_rates(models, batches(Seven(), batch_size), MESH)
    assert rates == pytest.approx(
        rates_by_sorting(np.mean(answers, axis=0), range(7)), rel=1e-6
    )
    assert 0 < rates["top5_error"] < rates["top1_error"] < 1
    assert unreadable == []


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_picture_that_cannot_be_read_is_left_out_and_named(batch_size):
    (answers,) = tables(1)
    given = batches(Seven(unreadable=4), batch_size, allow_unreadable=True)
    rates, unreadable = error_rates([model(answers)], given, MESH)
    assert rates == pytest.approx(
        rates_by_sorting(answers, [0, 1, 2, 3, 5, 6]), rel=1e-6
    )
    assert unreadable == [4]


@pytest.mark.parametrize(("data", "tower"), [(4, 1), (4, 2), (1, 2)])
def test_error_rates_are_the_same_on_every_mesh(data, tower):
    (answers,) = tables(1)
    mesh = make_mesh(data, tower, 2, batch_size=8)
    rates, _ = error_rates([model(answers)], batches(Seven(), 8), mesh)
    assert rates == pytest.approx(rates_by_sorting(answers, range(7)), rel=1e-6)


def test_a_probability_of_zero_counts_as_the_least_of_float32():
    answers = np.eye(8, dtype=np.float32)[[3, 0, 7, 7, 1, 2, 4]]
    rates, _ = error_rates([model(answers)], batches(Seven(), 8), MESH)
    assert rates["loss"] == pytest.approx(126 * math.log(2) / 7, rel=1e-6)
    assert rates["top1_error"] == pytest.approx(1 / 7)


# --- features ------------------------------------------------------------------------

ORDER_OF_2012 = ("conv1", "normalise", "pool", "relu", *FIGURE_2[4:])


def test_layers_and_pools_have_names():
    names = feature_names(AlexNet())
    assert list(names) == [
        *("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"),
        *("fc6", "fc7", "fc8"),
    ]
    assert names["conv1"] == ("conv1", ())  # the unit included
    assert names["pool1"] == ("conv1", ("normalise", "pool"))
    assert names["pool5"] == ("conv5", ("pool",))
    # In 2012 the unit of conv1 stood behind its pooling.
    names = feature_names(AlexNet(layers=ORDER_OF_2012))
    assert names["pool1"] == ("conv1", ("normalise", "pool", "relu"))


@pytest.mark.parametrize("layers", [FIGURE_2, ORDER_OF_2012])
def test_features_are_those_of_an_independent_network(layers):
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    network = small_network(layers=layers)
    params, mean = small_params(network), mean_image(MARGIN)
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (2, SIDE + MARGIN, SIDE + MARGIN, 3)).astype(np.uint8)
    names = ["fc8", "conv1", "pool1", "pool5", "fc6", "fc7"]
    found = quick_jit(make_features(network, MESH, SIDE, names))(params, images, mean)
    assert set(found) == set(names)

    pixels = view(images, mean, (4, 4, False), "centre")
    kernel = torch.tensor(np.asarray(params["conv1"]["kernel"])).permute(3, 2, 0, 1)
    # The grid overhangs the image by the rows that it lacks.
    spare = -(SIDE - 11) % 4
    x = functional.pad(torch.tensor(pixels).permute(0, 3, 1, 2), (0, spare, 0, spare))
    maps = functional.conv2d(
        x, kernel, torch.tensor(np.asarray(params["conv1"]["bias"])), 4
    )

    def normalised(x):  # a tower has half of the maps
        halves = x.chunk(2, dim=1)
        depth = network.response_depth
        alpha = network.response_alpha * depth  # PyTorch divides by it
        return torch.cat(
            [
                functional.local_response_norm(h, depth, alpha, 0.75, 2.0)
                for h in halves
            ],
            1,
        )

    conv1 = maps.relu() if layers is FIGURE_2 else maps
    pool1 = functional.max_pool2d(normalised(conv1), 3, 2, ceil_mode=True).relu()
    for name, expected in (("conv1", conv1), ("pool1", pool1)):
        ours = found[name].transpose(0, 3, 1, 2)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)

    def connected(layer: str, x: np.ndarray) -> np.ndarray:
        own = {kind: np.asarray(array) for kind, array in params[layer].items()}
        return x.reshape(2, -1) @ own["kernel"] + own["bias"]

    fc6 = np.maximum(connected("fc6", found["pool5"]), 0)  # both towers' maps
    np.testing.assert_allclose(found["fc6"], fc6, rtol=1e-4, atol=1e-4)
    fc8 = connected("fc8", found["fc7"] / 2)  # fc7 is not halved yet
    np.testing.assert_allclose(found["fc8"], fc8, rtol=1e-4, atol=1e-4)


def test_several_features_are_one_forward_pass():
    network = small_network()
    params, mean = small_params(network), mean_image(MARGIN)
    images = np.zeros((1, SIDE + MARGIN, SIDE + MARGIN, 3), np.uint8)

    def operations(names) -> float:
        features = quick_jit(make_features(network, MESH, SIDE, names))
        cost = features.lower(params, images, mean).compile().cost_analysis()
        return cost["flops"]

    whole = operations(["fc8"])
    every = operations(["fc8", "fc6", "pool5", "conv1"])
    assert every == pytest.approx(whole, rel=0.01)
    assert operations(["conv1"]) < 0.9 * whole


def blocks(features: np.ndarray, size: int):
    for start in range(0, len(features), size):
        rows = np.arange(start, min(start + size, len(features)))
        yield rows, features[rows]


@pytest.mark.parametrize("size", [1, 7, 200])
def test_neighbours_are_those_of_all_distances(size):
    features = np.random.default_rng(0).normal(size=(150, 12)).astype(np.float32)
    features[[40, 90]] = features[3]  # planted duplicates of a query
    features[100] = features[3] + 1e-3
    rows = [3, 17, 149]
    found = nearest(features[rows], rows, blocks(features, size), count=6)
    exact = features.astype(np.float64)
    for row, own in zip(rows, found, strict=True):
        distances = np.linalg.norm(exact - exact[row], axis=1)
        order = [i for i in np.argsort(distances, kind="stable") if i != row]
        assert [i for i, _ in own] == order[:6]
        assert [d for _, d in own] == pytest.approx(distances[order[:6]], abs=1e-6)
    assert [i for i, _ in found[0][:3]] == [40, 90, 100]


def test_a_query_from_another_split_is_not_left_out():
    features = np.eye(8, dtype=np.float32)
    assert nearest(features[[2]], [-1], blocks(features, 3), count=1) == [[(2, 0.0)]]
    (found,) = nearest(features[[2]], [2], blocks(features, 3), count=1)
    assert found == [(0, pytest.approx(2**0.5))]


def test_a_small_index_has_fewer_neighbours():
    features = np.arange(4, dtype=np.float32)[:, None]
    expected = [[(0, 1.0), (2, 1.0), (3, 2.0)]]
    assert nearest(features[[1]], [1], blocks(features, 4), count=6) == expected
    assert nearest(features[[1]], [1], blocks(features[:0], 4), count=6) == [[]]
