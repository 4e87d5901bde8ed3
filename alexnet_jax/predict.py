"""App: the likeliest classes of image files, or of folders of them.

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

from alexnet_jax import cli, device, inference, inputs, parallel, workdir
from alexnet_jax.data.folders import images_below
from alexnet_jax.data.images import Record
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import ImageError, InputError

BATCH = 32  # images decoded and classified at once


def predict(
    folders: Sequence[Path],
    images: Sequence[str],
    *,
    views: int = 1,
    weights: Sequence[float] = (),
    top: int = 5,
    names: str | None = None,
    best: bool = False,
) -> Iterator[dict[str, Any]]:
    """Classify image files, in order.

    Args:
        folders: work directories of the networks; the predictions of several are
            averaged.
        images: files, and folders of them.
        views: 1, 9 or 10; see `inference.make_probabilities`.
        weights: of the networks in the average; () counts all the same.
        top: number of likeliest classes.
        names: a file for `class_names`; None keeps the names of the class folders.
        best: take the checkpoints of least validation error, not the newest.

    Yields:
        {'image', 'top': [{'label', 'name', 'probability'}, …]}, or {'image', 'error'}
        for a file that cannot be read.
    """
    files = list(image_files(images))
    if not files:
        raise InputError("no image given; name image files or folders of them")
    configs = [workdir.read_config(folder) for folder in folders]
    mesh = parallel.make_mesh(1, 1, configs[0].network.towers, BATCH)
    models, classes = workdir.load_ensemble(
        folders, configs, mesh, views, weights, best
    )
    if names:
        classes = class_names(names, classes)

    square = inputs.make_square(configs[0])
    rows = min(BATCH, len(files))  # one shape, compiled once
    for start in range(0, len(files), rows):
        some = files[start : start + rows]
        squares = np.zeros((rows, square.size, square.size, 3), np.uint8)
        errors = [read(file, square, squares[i]) for i, file in enumerate(some)]
        answers = np.asarray(inference.ensemble(models, jnp.asarray(squares)))
        for file, error, answer in zip(some, errors, answers, strict=False):
            if error:
                yield {"image": file, "error": error}
            else:
                yield {"image": file, "top": named(answer, classes, top)}


def image_files(paths: Sequence[str]) -> Iterator[str]:
    """The files among the paths, and the images in the folders among them."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
        elif inside := images_below(Path(path)):
            yield from (os.path.join(path, file) for file in inside)
        else:
            raise InputError(f"{path}: a folder without images")


def read(file: str, square: Square, out: np.ndarray) -> str:
    """Read an image file into `out` (size, size, 3); the reason if it fails."""
    try:
        square.pixels(Record(file, Path(file).read_bytes(), 0), out)
    except OSError as error:
        return f"{file}: {error.strerror}"
    except ImageError as error:
        return str(error)
    return ""


def named(p: np.ndarray, names: Sequence[str], top: int) -> list[dict]:
    """The `top` classes of a distribution, likeliest first."""
    return [
        {"label": label, "name": names[label], "probability": float(p[label])}
        for label in inference.likeliest(p, top)
    ]


def readable(answer: dict[str, Any]) -> str:
    """An answer as a few readable lines."""
    if "error" in answer:
        return f"error: {answer['error']}"
    lines = [f"{c['probability']:8.2%}  {c['name']}" for c in answer["top"]]
    return "\n".join([answer["image"], *lines])


def class_names(path: str, classes: Sequence[str]) -> list[str]:
    """Readable names, from lines '…<tab>class<tab>name'."""
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
    NETWORKS = cli.define_networks()
    TOP = flags.DEFINE_integer("top", 5, "Classes to print.", lower_bound=1)
    JSON = flags.DEFINE_bool("json", False, "Print a JSON object an image.")
    NAMES = flags.DEFINE_string("names", None, "Lines: … <tab> class <tab> name.")

    def main(argv: Sequence[str]) -> int:
        """Print the classes of every image; status 1 if one could not be read."""
        device.cache_programs()
        folders, views, weights, best = NETWORKS()
        unreadable = False
        for answer in predict(
            folders,
            argv[1:],
            views=views,
            weights=weights,
            top=TOP.value,
            names=NAMES.value,
            best=best,
        ):
            print(json.dumps(answer) if JSON.value else readable(answer), flush=True)
            unreadable |= "error" in answer
        return int(unreadable)

    cli.run(main)
