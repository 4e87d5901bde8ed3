"""Errors by class, confusions, and the worst mistakes."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import FigureBase

from alexnet_jax.report import answers, themes
from alexnet_jax.report.document import Figure, table
from alexnet_jax.report.images import Example
from alexnet_jax.report.themes import SMALL, Panel, Theme, shortened

MATRIX = 40  # classes, up to which all confusions are drawn
COUNTED = 12  # classes, up to which they have their numbers
WORST = 20  # classes, and confusions, where there are more


class Outcomes(NamedTuple):
    """What images are taken for, from one view each."""

    rows: np.ndarray  # of the images in their split (N,)
    labels: np.ndarray  # (N,)
    taken: np.ndarray  # the likeliest class (N,)
    sure: np.ndarray  # its probability (N,)

    @classmethod
    def of(
        cls, rows: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
    ) -> "Outcomes":
        """Those of images whose distributions (N, classes) are known."""
        taken = probabilities.argmax(axis=1)
        return cls(rows, labels, taken, probabilities.max(axis=1))

    @classmethod
    def joined(cls, parts: Sequence["Outcomes"]) -> "Outcomes":
        """Those of all parts."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def wrong(self) -> np.ndarray:
        """Whether each image is taken for another class (N,)."""
        return self.taken != self.labels

    def worst(self, count: int) -> list[int]:
        """The rows of the wrong ones with the highest probability, highest first."""
        order = np.argsort(-self.sure, kind="stable")
        return self.rows[order[self.wrong()[order]]][:count].tolist()


def by_class(outcomes: Outcomes, classes: Sequence[str]) -> Figure:
    """The error of each class, and which class is taken for which."""
    wrong, count = outcomes.wrong(), len(classes)
    images = np.bincount(outcomes.labels, minlength=count)
    missed = np.bincount(outcomes.labels[wrong], minlength=count)
    errors = missed / np.maximum(images, 1)
    order = np.lexsort((np.arange(count), -images, -errors))
    order = order[images[order] > 0]
    few = len(order) <= MATRIX
    shown = order if few else order[:WORST]
    which = "all classes" if few else f"the {len(shown)} worst of {count:,} classes"
    named = [classes[label] for label in shown]
    bars = Panel(
        f"Bar chart: the error of {which}, worst first: {', '.join(named)}",
        *(4.8, 1 + 0.19 * len(shown)),
        partial(_draw_bars, named, missed[shown], images[shown]),
    )
    caption = (
        f"Centre views of all {len(wrong):,} validation images that can be decoded: "
        f"<b>{wrong.sum():,} ({wrong.mean():.1%})</b> are taken for another class than "
        f"their own. Bars: the share of a class’s images of which this is true, for "
        f"{which}, worst first. "
    )
    if few:
        pairs = np.ravel_multi_index((outcomes.labels, outcomes.taken), (count,) * 2)
        matrix = np.bincount(pairs, minlength=count**2).reshape(count, count)
        side = 2.4 + min(2.4, 0.19 * count)
        words = "Matrix: classes, and what their images are taken for"
        panels = [bars, Panel(words, 4.8, side, partial(_draw_matrix, matrix, classes))]
        caption += (
            "Matrix: a row for each class, a column for each answer; right ones in "
            "blue, wrong ones in red, the most frequent in full colour."
        )
        return Figure("classes", "Errors by class", caption, panels, columns=2)
    words = f"Line chart: the errors of {len(order):,} classes, sorted"
    sorted_errors = errors[order]
    panels = [bars, Panel(words, 4.8, 3.5, partial(_draw_sorted, sorted_errors))]
    half = np.median(sorted_errors)
    none = np.count_nonzero(sorted_errors == 0)
    caption += (
        f"Half of the classes have an error of {half:.0%} or less, and {none:,} of 0%. "
        "Table: the most frequent confusions."
    )
    wrong_pairs = np.stack([outcomes.labels, outcomes.taken], 1)[wrong].tolist()
    rows = [
        (escape(classes[own]), escape(classes[other]), f"{n:,} of {images[own]:,}")
        for (own, other), n in Counter(map(tuple, sorted(wrong_pairs))).most_common(
            WORST
        )
    ]
    aside = table(["class", "taken for", "images"], rows)
    return Figure("classes", "Errors by class", caption, panels, 1, aside)


def worst(
    examples: Sequence[Example], predictions: np.ndarray, classes: Sequence[str]
) -> Figure:
    """The images that are taken for another class with the highest probability.

    Args:
        examples: the images, the worst mistake first.
        predictions: (images, classes), their distributions.
        classes: names in label order.
    """
    caption = (
        f"The {len(examples)} validation images whose likeliest class is wrong and has "
        "the highest probability, from their centre views. Under each image is its own "
        "class; its bar is red where it is among the five likeliest. Some may have a "
        "wrong label."
    )
    panels = answers.panels(examples, predictions, classes)
    return Figure("mistakes", "The worst mistakes", caption, panels, columns=4)


def _draw_bars(
    names: Sequence[str],
    missed: np.ndarray,
    images: np.ndarray,
    cell: FigureBase,
    t: Theme,
) -> None:
    axes = themes.chart(cell, t, "Images taken for another class (%)", "Error by class")
    axes.grid(visible=False)
    places = np.arange(len(names))
    axes.barh(places, 100 * missed / images, 0.7, color=t.lines[0])
    for place, (wrong, of) in enumerate(zip(missed, images, strict=True)):
        where = {"transform": axes.transData, "va": "center", "fontsize": SMALL}
        right = f" {wrong:,} of {of:,}"
        themes.write(axes, 100 * wrong / of, place, right, t.muted, **where)
    axes.set(xlim=(0, 118), ylim=(len(names) - 0.4, -0.6), xticks=range(0, 101, 20))
    _name(axes, "y", places, names, t)


def _draw_matrix(
    matrix: np.ndarray, classes: Sequence[str], cell: FigureBase, t: Theme
) -> None:
    axes = themes.chart(cell, t, "Taken for", "Confusions")
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    shares[~right] /= max(shares[~right].max(initial=0), 1e-9)
    paper, blue, red = (np.array(to_rgb(c)) for c in (t.paper, t.other, t.right))
    colors = np.where(right[..., None], blue, red)
    axes.imshow(paper + shares[..., None] * (colors - paper), aspect="auto")
    if len(matrix) <= COUNTED:
        for (row, column), count in np.ndenumerate(matrix):
            where = {"transform": axes.transData, "ha": "center", "va": "center"}
            text = f"{count}" if count else ""
            themes.write(axes, column, row, text, t.ink, **where)
    places = np.arange(len(matrix))
    _name(axes, "y", places, classes, t)
    _name(axes, "x", places, classes, t)
    axes.tick_params(axis="x", rotation=90)


def _draw_sorted(errors: np.ndarray, cell: FigureBase, t: Theme) -> None:
    axes = themes.chart(cell, t, "Classes, worst first", "Errors of all classes (%)")
    axes.fill_between(
        np.arange(1, len(errors) + 1), 100 * errors, color=t.lines[0], linewidth=0
    )
    axes.set(xlim=(1, len(errors)), ylim=(0, 100))


def _name(
    axes: Axes, axis: str, places: np.ndarray, names: Sequence[str], t: Theme
) -> None:
    """Class names as ticks; a $ in them is a dollar."""
    ticks = getattr(axes, f"{axis}axis")
    ticks.set_ticks(places, [shortened(name, 22) for name in names])
    for label in ticks.get_ticklabels():
        label.set(parse_math=False, color=t.ink, fontsize=SMALL)
