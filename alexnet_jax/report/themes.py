"""Drawings in a light and a dark theme, by Matplotlib without global state."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase

DPI = 160  # dots an inch, where a page shows 96: sharp on fine screens
LINE = 1.5  # points
SMALL, MEDIUM = 8, 9.5  # points, of text


class Theme(NamedTuple):
    """Colours. Those of lines differ for colour-blind readers too (tests/report)."""

    paper: str  # the page behind everything
    ink: str
    muted: str  # text of the axes
    grid: str
    right: str  # the right class
    other: str  # every other class
    lines: tuple[str, ...]


LIGHT = Theme(
    *("#ffffff", "#1d1c1a", "#66645e", "#e6e4df", "#c8322b", "#9db4cc"),
    ("#2a6fdb", "#d1590f", "#0a5c4a", "#b6799d", "#742e97", "#3e2659"),
)
DARK = Theme(
    *("#15171a", "#e8e6e1", "#a3a19b", "#33363b", "#ff6f61", "#4f6780"),
    ("#5b9cff", "#ef8a3d", "#8ae8ed", "#f4e300", "#5465aa", "#995721"),
)


class Panel(NamedTuple):
    """One drawing of a figure: what it shows in words, its size, and how to draw it."""

    words: str
    width: float  # inches
    height: float
    draw: Callable[[FigureBase, Theme], None]


def png(panels: Sequence[Panel], theme: Theme, columns: int = 1) -> bytes:
    """Draw panels of one size, row by row, as a PNG file."""
    rows = -(-len(panels) // columns)
    size = panels[0].width * columns, max(p.height for p in panels) * rows
    figure = Figure(size, DPI, facecolor=theme.paper, layout="constrained")
    FigureCanvasAgg(figure)
    cells = np.ravel(figure.subfigures(rows, columns, squeeze=False))
    for cell, panel in zip(cells, panels, strict=False):
        cell.set_facecolor(theme.paper)
        panel.draw(cell, theme)
    file = io.BytesIO()
    with warnings.catch_warnings():  # a class may be named in any script
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def write(
    axes: Axes, x: float, y: float, text: str, color: str, **options: Any
) -> None:
    """Put text at a place given as shares of the axes; a $ in it is a dollar."""
    options = {"fontsize": SMALL, "transform": axes.transAxes, **options}
    axes.text(x, y, text, color=color, parse_math=False, **options)


def chart(cell: FigureBase, theme: Theme, x: str, y: str) -> Axes:
    """Axes with named units, a light horizontal grid, and nothing else."""
    axes = cell.subplots()
    axes.set_facecolor(theme.paper)
    axes.set_xlabel(x, color=theme.muted, fontsize=MEDIUM)
    axes.set_title(y, color=theme.ink, fontsize=MEDIUM, loc="left", pad=18)
    axes.tick_params(colors=theme.muted, labelsize=SMALL, length=0)
    axes.grid(axis="y", color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    return axes


def legend(cell: FigureBase, axes: Axes, theme: Theme, columns: int) -> None:
    """The names of the lines, below the axes."""
    shown = cell.legend(
        handles=axes.get_legend_handles_labels()[0],
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=theme.ink,
    )
    for text in shown.get_texts():
        text.set_parse_math(False)


def image(axes: Axes, pixels: np.ndarray, frame: str | None = None) -> None:
    """Show pixels (H, W, 3 or 4), small ones as squares, within a frame."""
    small = len(pixels) <= 96
    axes.imshow(pixels, interpolation="nearest" if small else "antialiased")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=frame is not None, color=frame, linewidth=2.5)


def shortened(text: str, length: int) -> str:
    """At most so many characters; the middle gives way, as ends tell names apart."""
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"
