"""Figure 4, left: images and their likeliest classes."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import FigureBase

from alexnet_jax.inference import likeliest
from alexnet_jax.report import themes
from alexnet_jax.report.document import Figure
from alexnet_jax.report.images import Example
from alexnet_jax.report.themes import MEDIUM, SMALL, Panel, Theme, shortened

TOP = 5  # classes, as in the paper


def figure_4_left(
    examples: Sequence[Example], predictions: np.ndarray, classes: Sequence[str]
) -> Figure:
    """Images and the bars of their classes.

    Args:
        examples: the images.
        predictions: (images, classes), a distribution for each.
        classes: names in label order.
    """
    top = [likeliest(p, TOP) for p in predictions]
    labels = [example.label for example in examples]
    first = sum(own[0] == label for own, label in zip(top, labels, strict=True))
    among = sum(label in own for own, label in zip(top, labels, strict=True))
    caption = (
        "The left of the paper’s Figure 4 shows eight test images and the five classes "
        "that its network finds likeliest, with the bar of the right class in red. "
        f"Here: {len(examples)} validation images and predictions averaged over ten "
        "views (§4.1). A fixed rule draws the images, from as many classes as there "
        "are, whatever the network answers. <b>The likeliest class is right for "
        f"{first} of {len(examples)}</b>; the right class is among these {len(top[0])} "
        f"for {among}."
    )
    title = "Figure 4, left: what the network answers"
    shown = panels(examples, predictions, classes)
    return Figure("answers", title, caption, shown, columns=4)


def panels(
    examples: Sequence[Example], predictions: np.ndarray, classes: Sequence[str]
) -> list[Panel]:
    """Those of `figure_4_left`."""
    top = [likeliest(p, TOP) for p in predictions]
    return [
        Panel(
            f"An image of class {classes[example.label]}; predicted: "
            + ", ".join(f"{classes[label]} {p[label]:.0%}" for label in own),
            *(2.35, 2.25 + 0.26 * len(own)),
            partial(_draw, example, p, own, classes),
        )
        for example, p, own in zip(examples, predictions, top, strict=True)
    ]


def _draw(
    example: Example,
    p: np.ndarray,
    top: Sequence[int],
    classes: Sequence[str],
    cell: FigureBase,
    t: Theme,
) -> None:
    heights = {"height_ratios": [1.9, 0.26 * len(top)]}
    above, below = cell.subplots(2, 1, gridspec_kw=heights)
    themes.image(above, example.pixels)
    name = shortened(classes[example.label], 26)
    middle = {"ha": "center", "va": "top", "fontsize": MEDIUM, "weight": "bold"}
    themes.write(above, 0.5, -0.03, name, t.ink, **middle)
    colors = [t.right if label == example.label else t.other for label in top]
    below.barh(range(len(top)), p[list(top)], 0.28, color=colors, align="edge")
    below.set(xlim=(0, 1), ylim=(len(top) - 0.4, -0.55))
    below.axis("off")
    for place, label in enumerate(top):  # above its bar
        options = {"va": "bottom", "transform": below.transData, "fontsize": SMALL}
        options["weight"] = "bold" if label == example.label else "normal"
        themes.write(below, 0, place, shortened(classes[label], 22), t.ink, **options)
        share = f"{p[label]:.0%}"
        themes.write(below, 1, place, share, t.muted, ha="right", **options)
