import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pictures import Numbered

from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import InputError
from alexnet_jax.report.answers import figure_4_left
from alexnet_jax.report.images import Example, choose
from alexnet_jax.report.themes import LIGHT

CLASSES = ["ape", "bat", "cat", "dog", "eel", "fox", "$x_1$"]


def drawn(panel) -> Figure:
    figure = Figure(layout="constrained")
    panel.draw(figure, LIGHT)
    return figure


def test_bars_are_the_five_likeliest_and_the_right_one_is_red():
    planted = np.array([
        [0.1, 0.02, 0.4, 0.3, 0.01, 0.12, 0.05],  # right: the second bar
        [0.5, 0.1, 0.05, 0.05, 0.05, 0.05, 0.2],  # right: none of the bars
    ])  # fmt: skip
    grey = np.full((4, 4, 3), 90, np.uint8)
    examples = [Example(0, grey, 3), Example(1, grey, 5)]
    figure = figure_4_left(examples, planted, CLASSES)
    assert "right for 0 of 2</b>" in figure.caption
    assert "among these 5 for 1." in figure.caption
    picture, bars = drawn(figure.panels[0]).axes
    assert picture.texts[0].get_text() == "dog"
    np.testing.assert_array_equal(picture.images[0].get_array(), grey)
    widths = [bar.get_width() for bar in bars.patches]
    assert widths == pytest.approx([0.4, 0.3, 0.12, 0.1, 0.05])
    colors = [to_hex(bar.get_facecolor()) for bar in bars.patches]
    assert colors == [LIGHT.other, LIGHT.right, *[LIGHT.other] * 3]
    texts = [text.get_text() for text in bars.texts]
    assert texts[::2] == ["cat", "dog", "fox", "ape", "$x_1$"]
    assert texts[1::2] == ["40%", "30%", "12%", "10%", "5%"]
    _, bars = drawn(figure.panels[1]).axes
    assert {to_hex(bar.get_facecolor()) for bar in bars.patches} == {LIGHT.other}
    # Equal ones in the order of their labels.
    assert [text.get_text() for text in bars.texts][::2] == [
        *("ape", "$x_1$", "bat", "cat", "dog")
    ]


def test_fewer_classes_have_fewer_bars():
    example = Example(0, np.zeros((4, 4, 3), np.uint8), 1)
    figure = figure_4_left([example], np.array([[0.2, 0.8]]), CLASSES[:2])
    _, bars = drawn(figure.panels[0]).axes
    assert [bar.get_width() for bar in bars.patches] == [0.8, 0.2]
    assert "right for 1 of 1</b>; the right class is among these 2" in figure.caption


def test_chosen_images_are_the_same_each_time_and_of_all_classes():
    source, square = Numbered(30, unreadable=5), Square(40)
    chosen = choose(source, square, 8, stream=0)
    assert [e.row for e in chosen] == [e.row for e in choose(source, square, 8, 0)]
    assert sorted(e.label for e in chosen) == [0, 0, 0, 1, 1, 1, 2, 2] or (
        sorted(np.bincount([e.label for e in chosen])) == [2, 3, 3]
    )
    assert len({e.row for e in chosen}) == 8
    for example in chosen:
        assert example.label == example.row % 3
        assert (example.pixels == example.row).all()
    others = choose(source, square, 8, stream=1)
    assert {e.row for e in chosen} != {e.row for e in others}
    every = choose(source, square, 50, stream=0)
    assert sorted(e.row for e in every) == [i for i in range(30) if i != 5]
    with pytest.raises(InputError, match="none of the validation images can be"):
        choose(Numbered(1, unreadable=0), square, 2, stream=0)
