import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.report.images import Example
from alexnet_jax.report.neighbours import figure_4_right
from alexnet_jax.report.themes import LIGHT


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
