import re

import numpy as np
import pytest
from made_up import made_up
from matplotlib.figure import Figure

from alexnet_jax.report.curves import (
    POINTS,
    _averaged,
    epochs_until,
    figure_1,
    training_curves,
)
from alexnet_jax.report.themes import DARK, LIGHT


def test_the_epoch_of_a_threshold_lies_on_the_line_between_two_lines_of_the_log():
    run = made_up([(1.0, 0.9), (2.0, 0.35), (3.0, 0.15), (4.0, 0.4), (5.0, 0.1)])
    assert epochs_until(run, 0.25) == pytest.approx(2.5)  # the first of two times
    assert epochs_until(run, 0.35) == pytest.approx(2.0 + 0)
    assert epochs_until(run, 0.95) == 1.0  # before the first line
    assert epochs_until(run, 0.1) is None  # reached, but never below
    assert epochs_until(made_up(), 0.25) is None


def test_lines_that_a_validation_cut_short_are_left_out():
    # Of 5 steps of 16 of 100 images, but for the second and the fourth: one step.
    run = made_up([(0.8, 0.9), (1.0, 0.2), (1.8, 0.5), (2.0, 0.1), (2.8, 0.1)])
    assert epochs_until(run, 0.3) == pytest.approx(2.3)
    often = made_up([(0.2, 0.9), (0.4, 0.5), (0.6, 0.1)])  # none of 5 steps
    assert epochs_until(often, 0.3) == pytest.approx(0.5)


def test_damaged_values_of_the_log_are_left_out():
    run = made_up([(1.0, 0.4), (2.0, float("nan")), (3.0, "no"), (4.0, 0.2)])
    run.log.append({"step": 30, "epoch": 5.0})
    assert epochs_until(run, 0.25) == pytest.approx(1 + 3 * 0.75)


def test_figure_1_gives_epochs_and_ratios():
    relu = made_up([(1.0, 0.5), (2.0, 0.0)], "relu")
    tanh = made_up([(1.0, 0.9), (10.0, 0.0)], "<tanh>")
    never = made_up([(1.0, 0.9), (2.0, 0.3)], "logistic")
    figure = figure_1([relu, tanh, never], 0.25)
    assert figure.title == "Figure 1: epochs until 25% training error"
    # 1.5 and 1 + 9 · 65/90
    assert "<b>relu</b> after 1.50 epochs; " in figure.caption
    assert "<b>&lt;tanh&gt;</b> after 7.50 epochs, 5.00 times as many as relu; " in (
        figure.caption
    )
    assert "<b>logistic</b> never (lowest 30.0%)." in figure.caption
    cells = re.findall("<td[^>]*>([^<]*)</td>", figure.aside)
    assert cells == ["1.50", "1.00", "7.50", "5.00", "never (lowest 30.0%)", "–"]
    assert 'data-title="epochs until 25%"' in figure.aside
    backwards = figure_1([never, relu], 0.25)
    assert "<b>relu</b> after 1.50 epochs. " in backwards.caption

    drawn = Figure(layout="constrained")
    figure.panels[0].draw(drawn, LIGHT)
    (axes,) = drawn.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["relu"].get_linestyle() == "-"
    assert lines["<tanh>"].get_linestyle() == lines["logistic"].get_linestyle() == "--"
    np.testing.assert_allclose(lines["<tanh>"].get_xydata(), [(1, 90), (10, 0)])
    marked = [line for line in axes.lines if line.get_marker() != "None"]
    marks = [line.get_xydata().tolist() for line in marked]
    assert marks == [[[1.5, 25.0]], [[pytest.approx(7.5), 25.0]]]


def test_curves_show_the_log_and_where_the_learning_rate_changes():
    run = made_up([(1.0, 0.8), (2.0, 0.6), (3.0, 0.5), (4.0, 0.45)])
    for line, rate in zip(run.log, (0.01, 0.01, 0.001, 0.0005), strict=True):
        line["train/learning_rate"] = rate
    run.log[1]["validation/top1_error"] = 0.7
    run.log[3]["validation/top1_error"] = 0.55
    assert run.rate_changes() == [(2.0, 0.001), (3.0, 0.0005)]
    figure = training_curves([run])
    assert "mark changes of the learning rate" in figure.caption
    drawn = Figure(layout="constrained")
    figure.panels[1].draw(drawn, DARK)
    (axes,) = drawn.axes
    lines = {line.get_label(): line for line in axes.lines}
    np.testing.assert_allclose(lines["training"].get_ydata(), [80, 60, 50, 45])
    np.testing.assert_allclose(lines["validation"].get_xydata(), [(2, 70), (4, 55)])
    assert lines["training"].get_color() == DARK.lines[0]
    assert lines["validation"].get_color() == DARK.lines[1]
    assert [text.get_text() for text in axes.texts] == ["0.001", "0.0005"]
    assert [text.get_position()[0] for text in axes.texts] == [2.0, 3.0]
    assert "learning rate" not in training_curves([made_up([(1.0, 0.5)])]).caption


def test_long_curves_are_averaged():
    values = np.random.default_rng(0).random(10 * POINTS)
    epochs, means = _averaged(np.arange(10 * POINTS) / 10, values)
    np.testing.assert_allclose(means, values.reshape(POINTS, 10).mean(axis=1))
    np.testing.assert_allclose(epochs, np.arange(POINTS) + 0.9)
    assert _averaged(values[:POINTS], values[:POINTS])[1] is not None
    uneven = _averaged(np.arange(POINTS + 7), np.ones(POINTS + 7))[1]
    np.testing.assert_allclose(uneven, np.ones(POINTS))
