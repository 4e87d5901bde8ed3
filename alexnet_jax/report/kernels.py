"""Figure 3: the kernels of the first layer, tower by tower, and their colour."""

import math
from collections.abc import Sequence
from functools import partial
from html import escape
from typing import NamedTuple

import numpy as np
from matplotlib.figure import FigureBase

from alexnet_jax.report import themes
from alexnet_jax.report.document import Figure
from alexnet_jax.report.themes import MEDIUM, Panel, Theme, shortened


class FirstLayer(NamedTuple):
    """The first convolution of a run."""

    run: str
    step: int  # of the checkpoint
    towers: list[np.ndarray]  # kernels (size, size, 3, K) of each


def coloured(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is not grey.

    Args:
        kernels: (size, size, 3, K).

    Returns:
        (K,), 1 − |m|² / |k|², where m is the mean of a kernel k over red, green and
        blue, in all three of them: 0 where these are the same, 1 where they add up to
        0, 2/3 for one of them alone and for random kernels. 0 for a kernel of zeros.
    """
    kernels = kernels.astype(np.float64)
    energy = np.square(kernels).sum((0, 1, 2))
    grey = 3 * np.square(kernels.mean(2)).sum((0, 1))
    share = 1 - grey / np.where(energy > 0, energy, 1)
    return np.where(energy > 0, np.maximum(share, 0), 0)  # rounding may give −1e−16


def full_range(kernel: np.ndarray) -> np.ndarray:
    """A kernel scaled on its own to 0 … 1, as in the paper; a constant one to ½."""
    low, high = kernel.min(), kernel.max()
    return (kernel - low) / (high - low) if high > low else np.full_like(kernel, 0.5)


def mosaic(kernels: np.ndarray, columns: int) -> np.ndarray:
    """(size, size, 3, K) → an image (H, W, 4), transparent between the kernels."""
    size, count = kernels.shape[0], kernels.shape[-1]
    scale = max(1, 48 // size)  # so that a gap is a fraction of a pixel
    cell = size * scale + max(2, scale)
    image = np.zeros((-(-count // columns) * cell, columns * cell, 4), np.float32)
    for i in range(count):
        y, x = (place * cell for place in divmod(i, columns))
        pixels = full_range(kernels[..., i]).repeat(scale, 0).repeat(scale, 1)
        image[y : y + size * scale, x : x + size * scale] = np.dstack(
            [pixels, np.ones(pixels.shape[:2])]
        )
    return image


def figure_3(layers: Sequence[FirstLayer]) -> Figure:
    """The first layers of some runs, a panel for each tower."""
    panels, seen = [], []
    for own in layers:
        named = f"{own.run}, " if len(layers) > 1 else ""
        for number, kernels in enumerate(own.towers, 1):
            tower = f"tower {number}: " if len(own.towers) > 1 else ""
            text = f"{named}{tower}{coloured(kernels).mean():.0%} coloured"
            columns = max(8, math.ceil(math.sqrt(1.4 * kernels.shape[-1])))
            height = 4.7 * -(-kernels.shape[-1] // columns) / columns + 0.3
            draw = partial(_draw, kernels, columns, shortened(text, 60))
            words = f"The kernels of the first layer; {text}"
            panels.append(Panel(words, 4.7, height, draw))
            seen.append(text)
    first, size = layers[0], len(layers[0].towers[0])
    caption = (
        "The paper’s Figure 3 shows the 96 kernels of 11×11×3 that its first layer "
        "learned. In every run of the paper those of one tower became largely "
        "colour-agnostic and those of the other largely colour-specific. Here: the "
        f"kernels of {size}×{size}×3 after step {first.step:,}, each "
        f"scaled to the full range on its own as in the paper. <b>"
        f"{escape('; '.join(seen))}.</b> The number is a mean over kernels k of "
        "1 − |m|² / |k|², the share of a kernel’s energy |k|² (sum of squares) that is "
        "not grey; m is the kernel’s mean over red, green and blue, repeated in all "
        "three. A grey kernel has 0%, one that reads a single colour 67%; "
        "random kernels, before training, have 67% on average."
    )
    title = "Figure 3: the kernels of the first layer"
    return Figure("kernels", title, caption, panels, columns=min(2, len(panels)))


def _draw(
    kernels: np.ndarray, columns: int, title: str, cell: FigureBase, t: Theme
) -> None:
    axes = cell.subplots()
    axes.set_facecolor(t.paper)
    themes.image(axes, mosaic(kernels, columns))
    axes.set_anchor("N")
    options = {"fontsize": MEDIUM, "va": "bottom"}
    themes.write(axes, 0, 1.015, title, t.ink, **options)
