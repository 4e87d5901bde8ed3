"""Answers of predict for people: bars in a terminal, columns elsewhere."""

import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from alexnet_jax.errors import printable

BLOCKS = 12  # images of which each gets a block of lines; more get a line each
WIDTH, CELL = 20, 20  # characters of a bar; at least, of a class with its probability


def layout(images: Sequence[str]) -> Callable[[dict[str, Any]], str]:
    """Choose how the answers for so many images are printed to stdout.

    Returns:
        readable(answer of `predict.predict` or `predict.neighbours`) → text. In a pipe
        it is a line for each class, most probable first: image, probability, label and
        name between tabs; of neighbours image, distance and neighbour.
    """
    if not sys.stdout.isatty():
        return columns
    if len(images) <= BLOCKS:
        return block
    wide = shutil.get_terminal_size().columns
    longest = min(max(map(len, images)), wide // 3)
    return lambda answer: line(answer, longest, wide)


def columns(answer: dict[str, Any]) -> str:
    """The form for programs."""
    image = printable(answer["image"])
    rows = [
        (f"{row['probability']:.6f}", f"{row['label']}", printable(row["name"]))
        for row in answer.get("top", ())
    ] + [
        (f"{row['distance']:.6g}", printable(row["image"]))
        for row in answer.get("neighbours", ())
    ]
    return "\n".join("\t".join((image, *row)) for row in rows)


def block(answer: dict[str, Any]) -> str:
    """An image and under it a line for each class or neighbour."""
    lines = [printable(answer["image"])]
    for row in answer.get("top", ()):
        share, name = row["probability"], printable(row["name"])
        lines.append(f"  {share:6.1%}  {bar(share):{WIDTH}}  {name}")
    for row in answer.get("neighbours", ()):
        lines.append(f"  {row['distance']:10.4g}  {printable(row['image'])}")
    return "\n".join([*lines, ""])


def line(answer: dict[str, Any], longest: int, wide: int) -> str:
    """One line: the image, the bar of its first class, and as many as there is room.

    Args:
        answer: as for `columns`.
        longest: characters for the image.
        wide: characters of the line.
    """
    text = f"{ending(printable(answer['image']), longest):{longest}}"
    cells = [
        *(f"{row['probability']:6.1%} {row['name']}" for row in answer.get("top", ())),
        *(f"{r['distance']:.4g} {r['image']}" for r in answer.get("neighbours", ())),
    ]
    if "top" in answer:
        text += f"  {bar(answer['top'][0]['probability']):{WIDTH}}"
    for i, cell in enumerate(map(printable, cells)):
        longer = f"{text}  {cell:{CELL}}"
        if i and len(longer.rstrip()) > wide:
            break
        text = longer
    return text.rstrip()[:wide]


def bar(share: float) -> str:
    """A share from 0 to 1 in eighths of a character, or whole ones of ASCII."""
    eighths = round(8 * WIDTH * share)
    try:
        text = "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8]
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = "#" * round(WIDTH * share)
    return text.rstrip()


def ending(text: str, length: int) -> str:
    """The last characters of a path that is longer than there is room."""
    return text if len(text) <= length else f"…{text[1 - length :]}"
