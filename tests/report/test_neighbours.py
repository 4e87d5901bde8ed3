import numpy as np
import pytest
from matplotlib.figure import Figure

from alexnet_jax.report.images import Example
from alexnet_jax.report.neighbours import figure_4_right, nearest
from alexnet_jax.report.themes import LIGHT


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
    found = nearest(features[rows], rows, blocks(features, size))
    exact = features.astype(np.float64)
    for row, own in zip(rows, found, strict=True):
        distances = np.linalg.norm(exact - exact[row], axis=1)
        order = [i for i in np.argsort(distances, kind="stable") if i != row]
        assert own == order[:6]
    assert found[0][:3] == [40, 90, 100]


def test_a_query_from_another_split_is_not_left_out():
    features = np.eye(8, dtype=np.float32)
    assert nearest(features[[2]], [-1], blocks(features, 3), count=1) == [[2]]
    assert nearest(features[[2]], [2], blocks(features, 3), count=1) == [[0]]


def test_a_small_index_has_fewer_neighbours():
    features = np.arange(4, dtype=np.float32)[:, None]
    assert nearest(features[[1]], [1], blocks(features, 4)) == [[0, 2, 3]]
    assert nearest(features[[1]], [1], blocks(features[:0], 4)) == [[]]


def test_figure_4_counts_and_frames_the_neighbours_of_the_querys_class():
    grey = np.full((4, 4, 3), 90, np.uint8)
    queries = [Example(0, grey, 0), Example(1, grey, 1)]
    labels = [[0, 1, 0, 2], [2, 2, 2, 2, 2, 1]]
    found = [[Example(9, grey, label) for label in own] for own in labels]
    figure = figure_4_right(
        queries, found, ["ape", "bat", "cat"], layer="fc7", index="all 9 images"
    )
    assert "<b>3 of 10</b>; by chance about 3.3." in figure.caption
    assert "nearest among all 9 images" in figure.caption
    assert "by fc7 for" in figure.caption
    drawn = Figure(layout="constrained")
    figure.panels[0].draw(drawn, LIGHT)
    large, *small = drawn.axes
    assert [text.get_text() for text in large.texts] == ["ape", "2 of 4 of this class"]
    assert [axes.texts[0].get_text() for axes in small[:4]] == [
        *("ape", "bat", "ape", "cat")
    ]
    framed = [axes.spines["top"].get_edgecolor()[:2] for axes in small[:4]]
    assert [f != (1, 1) for f in framed] == [True, False, True, False]
    assert not small[4].axison
    assert not small[5].axison
