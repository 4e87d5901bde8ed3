import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from alexnet_jax.report import mistakes
from alexnet_jax.report.images import Example
from alexnet_jax.report.mistakes import Outcomes
from alexnet_jax.report.themes import LIGHT

CLASSES = ["ape", "bat", "$c_t$"]
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2])
TAKEN = np.array([0, 1, 1, 2, 1, 0, 2, 2])
SURE = np.array([0.9, 0.5, 0.8, 0.7, 0.6, 0.8, 0.9, 0.4])


def outcomes() -> Outcomes:
    p = np.full((8, 3), 0.01)
    p[np.arange(8), TAKEN] = SURE
    halves = [np.arange(8) < 3, np.arange(8) >= 3]
    rows = 10 + np.arange(8)
    return Outcomes.joined([Outcomes.of(rows[h], LABELS[h], p[h]) for h in halves])


def drawn(panel) -> Figure:
    figure = Figure(layout="constrained")
    panel.draw(figure, LIGHT)
    figure.draw_without_rendering()
    return figure


def test_the_worst_mistakes_are_the_surest_wrong_ones():
    found = outcomes()
    np.testing.assert_array_equal(found.taken, TAKEN)
    np.testing.assert_array_equal(found.sure, SURE)
    # 0.8 twice, in the order of the images; the sure right ones are none of them.
    assert found.worst(3) == [12, 15, 13]
    assert found.worst(9) == [12, 15, 13, 11]


def test_errors_by_class_and_all_confusions_of_few_classes():
    figure = mistakes.by_class(outcomes(), CLASSES)
    assert "all 8 validation images" in figure.caption
    assert "<b>4 (50.0%)</b>" in figure.caption
    bars, matrix = (drawn(panel) for panel in figure.panels)
    (axes,) = bars.axes
    assert [bar.get_width() for bar in axes.patches] == [75, 50, 0]
    assert [text.get_text().strip() for text in axes.texts] == [
        *("3 of 4", "1 of 2", "0 of 2")
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == CLASSES
    (axes,) = matrix.axes
    counts = [text.get_text() for text in axes.texts]
    assert counts == ["1", "2", "1", "1", "1", "", "", "", "2"]
    colors = axes.images[0].get_array()
    shares = [[1 / 4, 1, 1 / 2], [1, 1 / 2, 0], [0, 0, 1]]  # wrong ones of the most
    for (row, column), share in np.ndenumerate(shares):
        full = to_rgb(LIGHT.other if row == column else LIGHT.right)
        expected = 1 + share * (np.array(full) - 1)
        np.testing.assert_allclose(colors[row, column], expected, atol=1e-6)


def test_many_classes_have_the_worst_and_a_table():
    count = 1000
    labels = np.repeat(np.arange(count), 4)
    taken = labels.copy()
    taken[:8] = [7, 7, 7, 7, 9, 9, 1, 1]  # all of class 0, half of class 1
    taken[4 * 500] = 2
    p = np.eye(count)[taken]
    names = [f"n{i}<b>" for i in range(count)]
    found = Outcomes.of(np.arange(len(labels)), labels, p)
    figure = mistakes.by_class(found, names)
    assert "7 (0.2%)" in figure.caption
    assert "the 20 worst of 1,000 classes" in figure.caption
    assert "an error of 0% or less, and 997 of 0%." in figure.caption
    (axes,) = drawn(figure.panels[0]).axes
    assert [bar.get_width() for bar in axes.patches] == [100, 50, 25, *[0] * 17]
    drawn(figure.panels[1])
    rows = figure.aside.partition("<tbody>")[2].split("</tr>")
    assert "n0&lt;b&gt;" in rows[0]
    assert "n7&lt;b&gt;" in rows[0]
    assert "4 of 4" in rows[0]
    assert "2 of 4" in rows[1]
    assert "1 of 4" in rows[2]


def test_a_class_without_images_has_no_error():
    found = Outcomes.of(np.arange(2), np.array([0, 2]), np.eye(3)[[0, 0]])
    figure = mistakes.by_class(found, CLASSES)
    (axes,) = drawn(figure.panels[0]).axes
    assert [text.get_text().strip() for text in axes.texts] == ["1 of 1", "0 of 1"]


def test_mistakes_are_shown_with_both_labels():
    example = Example(4, np.zeros((4, 4, 3), np.uint8), 1)
    p = np.array([[0.9, 0.08, 0.02]])
    figure = mistakes.worst([example], p, CLASSES)
    picture, bars = drawn(figure.panels[0]).axes
    assert picture.texts[0].get_text() == "bat"
    assert [text.get_text() for text in bars.texts][:2] == ["ape", "90%"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([0.9, 0.08, 0.02])
