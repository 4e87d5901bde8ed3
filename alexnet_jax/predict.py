"""App: the likeliest classes of picture files, or of folders of them.

python -m alexnet_jax.predict --checkpoint=runs/paper cat.jpg holiday/
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from alexnet_jax import cli, device, inference, parallel, runs
from alexnet_jax.data.folders import images_below
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import InputError, PictureError

BATCH = 32  # pictures decoded and answered at once


def predict(
    workdirs: Sequence[Path],
    pictures: Sequence[str],
    *,
    views: int = 1,
    top: int = 5,
    names: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Answers about picture files, in order.

    Args:
        workdirs: of the networks; the answers of several are averaged.
        pictures: files, and folders of them.
        views: 1 or 10 (§4.1).
        top: so many of the likeliest classes.
        names: see `class_names`; None takes those of the class folders.

    Yields:
        {'image', 'top': [{'label', 'name', 'probability'}, …]}, or {'image', 'error'}
        for a file that cannot be read.

    Raises:
        InputError: something is missing or does not fit.
    """
    files = list(picture_files(pictures))
    if not files:
        raise InputError("no picture given; name picture files or folders of them")
    configs = [runs.kept_config(w) for w in workdirs]
    mesh = parallel.make_mesh(1, 1, configs[0].network.towers, BATCH)
    models, classes = runs.trained_ensemble(workdirs, configs, mesh, views)
    if names:
        classes = class_names(names, classes)

    size = configs[0].dataset.image_size
    rows = min(BATCH, len(files))  # one shape, compiled once
    for start in range(0, len(files), rows):
        some = files[start : start + rows]
        read_ones = [read(file, size) for file in some]
        squares = np.zeros((rows, size, size, 3), np.uint8)
        for row, picture in enumerate(read_ones):
            if isinstance(picture, np.ndarray):
                squares[row] = picture
        answers = np.asarray(inference.ensemble(models, jnp.asarray(squares)))
        for file, picture, answer in zip(some, read_ones, answers, strict=False):
            if isinstance(picture, PictureError):
                yield {"image": file, "error": str(picture)}
            else:
                yield {"image": file, "top": likeliest(answer, classes, top)}


def picture_files(paths: Sequence[str]) -> Iterator[str]:
    """The files among the paths, and the pictures in the folders among them.

    Raises:
        InputError: a folder without pictures.
    """
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        inside = images_below(Path(path))
        if not inside:
            raise InputError(f"{path}: a folder without pictures")
        yield from (os.path.join(path, file) for file in inside)


def read(file: str, size: int) -> np.ndarray | PictureError:
    """The (size, size, 3) uint8 square of a picture file, or why there is none."""
    try:
        return Square(size).pixels((file, Path(file).read_bytes(), 0))
    except OSError as error:
        return PictureError(f"{file}: {error.strerror}")
    except PictureError as error:
        return error


def likeliest(probabilities: np.ndarray, names: Sequence[str], top: int) -> list[dict]:
    """The `top` classes of a distribution (classes,), likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [
        {
            "label": int(label),
            "name": names[label],
            "probability": float(probabilities[label]),
        }
        for label in order
    ]


def readable(answer: dict[str, Any]) -> str:
    """An answer as a few lines for people."""
    if "error" in answer:
        return f"error: {answer['error']}"
    lines = [f"{c['probability']:8.2%}  {c['name']}" for c in answer["top"]]
    return "\n".join([answer["image"], *lines])


def class_names(path: str, classes: Sequence[str]) -> list[str]:
    """Names for people, from lines '…<tab>class<tab>name'.

    Raises:
        InputError: the file cannot be read or lacks a class.
    """
    try:
        rows = [line.split("\t") for line in Path(path).read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--names={path}: cannot be read ({error})") from None
    names = {row[-2]: row[-1].strip() for row in rows if len(row) > 1}
    missing = [name for name in classes if name not in names]
    if missing:
        raise InputError(
            f"--names={path}: has no line for the class {missing[0]!r}; its lines must "
            "be '…<tab>class<tab>name'"
        )
    return [names[name] for name in classes]


if __name__ == "__main__":
    CHECKPOINT, VIEWS = cli.define_networks()
    TOP = flags.DEFINE_integer("top", 5, "Classes to print.", lower_bound=1)
    JSON = flags.DEFINE_bool("json", False, "Print a JSON object a picture.")
    NAMES = flags.DEFINE_string(
        "names", None, "Tab-separated file: … class, name for people."
    )

    def main(argv: Sequence[str]) -> int:
        """Prints the classes of every picture; status 1 if one could not be read."""
        device.keep()
        unreadable = False
        for answer in predict(
            cli.work_directories(CHECKPOINT.value),
            argv[1:],
            views=int(VIEWS.value),
            top=TOP.value,
            names=NAMES.value,
        ):
            print(json.dumps(answer) if JSON.value else readable(answer), flush=True)
            unreadable |= "error" in answer
        return int(unreadable)

    cli.run(main)
