"""Training curves, and Figure 1: the epochs until a training error."""

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from alexnet_jax.report import themes
from alexnet_jax.report.document import Figure, named, table
from alexnet_jax.report.run import ERROR, Run
from alexnet_jax.report.themes import Panel, Theme

POINTS = 300  # of a drawn curve; more are averaged
MARKS = "osD^vP"  # a shape for each colour


def epochs_until(run: Run, threshold: float) -> float | None:
    """Epochs until the logged training error is first below a threshold.

    Between two lines of the log the error is taken to be a straight line; None where it
    never is below. Lines that a validation cut to less than half are left out: means
    over a few steps are below too early.
    """
    epochs, errors = run.series(ERROR)
    steps = np.diff(epochs, prepend=0) * (run.images or 1) / run.config.batch_size
    long = steps > 0.99 * min(run.config.log_every_steps / 2, steps.max(initial=0))
    epochs, errors = epochs[long], errors[long]
    below = np.flatnonzero(errors < threshold)
    if not len(below):
        return None
    i = below[0]
    if i == 0:
        return float(epochs[0])
    share = (errors[i - 1] - threshold) / (errors[i - 1] - errors[i])
    return float(epochs[i - 1] + share * (epochs[i] - epochs[i - 1]))


def training_curves(runs: Sequence[Run]) -> Figure:
    """Loss and top-1 error against epochs."""
    panels = [
        Panel(
            f"Line chart: {title}, in training and validation, against epochs",
            *(4.8, _height(runs)),
            partial(_draw_curves, runs, key, scale, title),
        )
        for title, key, scale in (
            ("Loss (nats)", "loss", 1),
            ("Top-1 error (%)", "top1_error", 100),
        )
    ]
    several = len(runs) > 1
    caption = (
        f"Training lines{' (faint)' if several else ''} are means over "
        f"{runs[0].config.log_every_steps} steps, with the augmentation and dropout "
        "of the training; validation lines are measured on all validation images, "
        "centre views, without dropout."
    )
    if any(run.rate_changes() for run in runs):
        how = "in a run’s colour" if several else "under its new value"
        caption += f" Dotted lines, {how}, mark changes of the learning rate."
    return Figure("curves", "Training", caption, panels, columns=2)


def _height(runs: Sequence[Run]) -> float:
    return 3.5 + 0.17 * (len(runs) // 2)  # inches; the legend has two columns


def _draw_curves(
    runs: Sequence[Run], key: str, scale: float, title: str, cell: FigureBase, t: Theme
) -> None:
    axes = themes.chart(cell, t, "Epochs", title)
    alone = len(runs) == 1
    for i, run in enumerate(runs):
        of_training, mark = _style(i, t), MARKS[i % len(MARKS)]
        color = of_training["color"]
        if not alone:
            of_training |= {"alpha": 0.45, "linewidth": 1}
        epochs, values = _averaged(*run.series(f"train/{key}"))
        axes.plot(epochs, scale * values, label="training" * alone, **of_training)
        _mark_changes(axes, run, t.muted if alone else color, labels=alone)
        epochs, values = run.series(f"validation/{key}")
        axes.plot(
            *(epochs, scale * values),
            label="validation" if alone else themes.shortened(run.name, 28),
            **{**_style(1 if alone else i, t), "marker": mark, "markersize": 4},
            markevery=max(1, len(epochs) // 20),
        )
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    themes.legend(cell, axes, t, columns=2)


def _style(i: int, t: Theme) -> dict[str, Any]:
    color = t.lines[i % len(t.lines)]
    return {"color": color, "linewidth": themes.LINE, "solid_capstyle": "round"}


def _averaged(epochs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """Means of neighbouring points, where there are too many to be seen."""
    if len(values) <= POINTS:
        return epochs, values
    ends = np.linspace(0, len(values), POINTS + 1).astype(int)
    sums = np.add.reduceat(values, ends[:-1])
    return epochs[ends[1:] - 1], sums / np.diff(ends)


def _mark_changes(axes: Axes, run: Run, color: str, labels: bool) -> None:
    """Thin lines where the learning rate changes, with the new rate above them."""
    until, shown = run.last("epoch") or 0, -np.inf
    for epoch, rate in run.rate_changes():
        axes.axvline(epoch, color=color, linewidth=0.8, linestyle=":")
        if labels and epoch - shown > 0.13 * until:  # else they would overlap
            place = {"transform": axes.get_xaxis_transform(), "ha": "center"}
            themes.write(axes, epoch, 1.02, f"{rate:.3g}", color, **place)
            shown = epoch


def figure_1(runs: Sequence[Run], threshold: float) -> Figure:
    """Training error against epochs until a threshold, as in the paper's Figure 1."""
    reached = [epochs_until(run, threshold) for run in runs]
    first, goal = reached[0], f"{100 * threshold:g}%"
    rows, seen = [], []
    for i, (run, epochs) in enumerate(zip(runs, reached, strict=True)):
        name, lowest = escape(run.name), run.series(ERROR)[1].min(initial=1)
        ratio = f"{epochs / first:.2f}" if epochs and first else "–"
        after = f"{epochs:.2f}" if epochs else f"never (lowest {lowest:.1%})"
        rows.append([named(i, run.name), after, ratio])
        seen.append(f"<b>{name}</b> {after if not epochs else f'after {after} epochs'}")
        if i and epochs and first:
            seen[-1] += f", {ratio} times as many as {escape(runs[0].name)}"
    caption = (
        "The paper’s Figure 1: with ReLUs (solid) a four-layer network reaches 25% "
        "training error on CIFAR-10 six times as fast as with tanh units (dashed). "
        f"Here runs are first below {goal}: {'; '.join(seen)}. The error is that of "
        f"the log, a mean over {runs[0].config.log_every_steps} steps or, before a "
        "validation, at least half as many."
    )
    words = f"Line chart: training error of {len(runs)} runs against epochs"
    draw = partial(_draw_figure_1, runs, threshold, reached)
    panels = [Panel(words, 4.8, _height(runs), draw)]
    aside = table(["run", f"epochs until {goal}", "ratio to the first"], rows)
    title = f"Figure 1: epochs until {goal} training error"
    return Figure("figure1", title, caption, panels, columns=1, aside=aside)


def _draw_figure_1(
    runs: Sequence[Run],
    threshold: float,
    reached: Sequence[float | None],
    cell: FigureBase,
    t: Theme,
) -> None:
    axes = themes.chart(cell, t, "Epochs", "Training error (%)")
    for i, (run, at) in enumerate(zip(runs, reached, strict=True)):
        style = {**_style(i, t), "linestyle": "--" if i else "-"}
        epochs, errors = _averaged(*run.series(ERROR))
        label = themes.shortened(run.name, 28)
        axes.plot(epochs, 100 * errors, label=label, **style)
        if at:
            mark = {"marker": MARKS[i % len(MARKS)], "clip_on": False, "zorder": 5}
            axes.plot([at], [100 * threshold], **{**style, **mark})
    axes.axhline(100 * threshold, color=t.ink, linewidth=0.8)
    place = {"transform": axes.get_yaxis_transform(), "va": "center"}
    text = f"{100 * threshold:g}%"
    themes.write(axes, 1.01, 100 * threshold, text, t.ink, **place)
    axes.set_ylim(bottom=0)
    times = [at for at in reached if at]
    axes.set_xlim(0, 1.15 * max(times) if len(times) == len(runs) else None)
    themes.legend(cell, axes, t, columns=2)
