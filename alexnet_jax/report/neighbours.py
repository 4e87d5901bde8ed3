"""Figure 4, right: images with the nearest activations in the last hidden layer."""

from collections.abc import Sequence
from functools import partial

from matplotlib.figure import FigureBase

from alexnet_jax.report import themes
from alexnet_jax.report.document import Figure
from alexnet_jax.report.images import Example
from alexnet_jax.report.themes import Panel, Theme, shortened

NEIGHBOURS = 6  # of each query, as in the paper


def figure_4_right(
    queries: Sequence[Example],
    found: Sequence[Sequence[Example]],
    classes: Sequence[str],
    layer: str,
    index: str,
) -> Figure:
    """Query images and their neighbours.

    Args:
        queries: the images asked for.
        found: the neighbours of each, nearest first.
        classes: names in label order.
        layer: the layer whose activations are compared, in words.
        index: the images that were searched, in words.
    """
    same = [
        sum(image.label == query.label for image in images)
        for query, images in zip(queries, found, strict=True)
    ]
    panels = [
        Panel(
            f"An image of class {classes[query.label]}; its neighbours are of the "
            f"classes {', '.join(classes[image.label] for image in images)}",
            *(4.8, 2.5),
            partial(_draw, query, images, count, classes),
        )
        for query, images, count in zip(queries, found, same, strict=True)
    ]
    shown = sum(map(len, found))
    caption = (
        "The right of the paper’s Figure 4 shows five test images and the six training "
        "images whose activations in the last hidden layer are nearest by Euclidean "
        "distance: mostly the same objects, in other poses. Here: "
        f"{len(queries)} validation images, drawn by a fixed rule (large), and the "
        f"nearest among {index}, the image itself left out, by {layer} for the centre "
        "view. Framed neighbours have the class of the large image: "
        f"<b>{sum(same)} of {shown}</b>; by chance about {shown / len(classes):.2g}."
    )
    title = "Figure 4, right: images that the network finds alike"
    return Figure("neighbours", title, caption, panels, columns=2)


def _draw(
    query: Example,
    found: Sequence[Example],
    same: int,
    classes: Sequence[str],
    cell: FigureBase,
    t: Theme,
) -> None:
    cells = cell.subplot_mosaic([["query"] * 2 + [0, 1, 2], ["query"] * 2 + [3, 4, 5]])
    themes.image(cells["query"], query.pixels)
    cells["query"].set_anchor("N")
    below = {"va": "top", "ha": "center"}
    name = shortened(classes[query.label], 22)
    themes.write(cells["query"], 0.5, -0.03, name, t.ink, weight="bold", **below)
    text = f"{same} of {len(found)} of this class"
    themes.write(cells["query"], 0.5, -0.13, text, t.muted, **below)
    for place in range(NEIGHBOURS):
        cells[place].axis("on" if place < len(found) else "off")
    for place, example in enumerate(found):
        own = example.label == query.label
        themes.image(cells[place], example.pixels, t.right if own else t.paper)
        name, color = shortened(classes[example.label], 14), t.ink if own else t.muted
        themes.write(cells[place], 0.5, -0.06, name, color, **below)
