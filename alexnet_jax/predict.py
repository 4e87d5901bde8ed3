"""App: the likeliest classes of images, their features, or their nearest neighbours.

python -m alexnet_jax.predict --checkpoint=runs/paper cat.jpg holiday/ 'old/**/*.png'
python -m alexnet_jax.predict --checkpoint=runs/paper --features=fc7,pool5 \
    --output=F.npz holiday/
python -m alexnet_jax.predict --checkpoint=runs/paper --neighbours=holiday/ cat.jpg
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from alexnet_jax import bars, cli, device, experiment, inputs, parallel, workdir
from alexnet_jax.data.folders import Files, files_named
from alexnet_jax.errors import InputError
from alexnet_jax.features import write_features
from alexnet_jax.inference import likeliest, nearest
from alexnet_jax.predictor import Predictor


def load_run(
    folders: str | Path | Sequence[str | Path],
    *,
    views: int = 10,
    weights: Sequence[float] = (),
    best: bool = False,
    skip_damaged: bool = False,
) -> Predictor:
    """The network of a work directory, or an ensemble, on this machine's devices.

    Args:
        folders: a work directory, or several, whose predictions are averaged.
        views: 1, 9 or 10; see `inference.make_probabilities`.
        weights: of the networks in the average; () counts all the same.
        best: take the checkpoints of least validation error, not the newest.
        skip_damaged: take the next one where a checkpoint is damaged, and name both.
    """
    several = [folders] if isinstance(folders, str | Path) else folders
    paths = [Path(folder).expanduser() for folder in several]
    configs = [workdir.read_config(folder) for folder in paths]
    first, devices = configs[0], jax.device_count()
    mesh = parallel.make_mesh(devices, 1, first.network.towers, devices)
    models, classes = workdir.load_ensemble(
        paths, configs, mesh, views, weights, best, skip_damaged
    )
    network = experiment.make_network(first, len(classes))
    square = inputs.make_square(first)
    return Predictor(models, network, classes, square, first.augment.crop, mesh)


def predict(
    run: Predictor,
    images: Sequence[str],
    *,
    top: int = 5,
    names: str | None = None,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Classify image files, in order, with few of them in memory.

    Args:
        run: of `load_run`.
        images: files, folders of them, and patterns such as 'holiday/**/*.jpg'.
        top: number of likeliest classes.
        names: a file for `class_names`; None keeps the names of the class folders.
        progress: shows a bar on stderr.

    Yields:
        {'image', 'top': [{'label', 'name', 'probability'}, …]}, or {'image', 'error'}
        for a file that cannot be read.
    """
    files = files_named(images)
    classes = class_names(names, run.classes) if names else run.classes
    for block in run.over(files, run.predict, progress):
        found = dict(zip(block.rows.tolist(), block.results, strict=True))
        for row in sorted([*found, *block.unreadable]):
            if row in found:
                yield {
                    "image": files.names[row],
                    "top": named(found[row], classes, top),
                }
            else:
                yield unreadable(files, row)


def neighbours(
    run: Predictor,
    images: Sequence[str],
    among: Sequence[str],
    *,
    layer: str | None = None,
    top: int = 5,
    progress: bool = False,
) -> Iterator[dict[str, Any]]:
    """Find the images that a network finds most alike (Figure 4, right).

    Args:
        run: of `load_run`, one network.
        images: as for `predict`; their activations are all in memory.
        among: the images to search, in the same form.
        layer: of `inference.feature_names`, whose activations for the centre views are
            compared by Euclidean distance; None: the last hidden layer.
        top: number of neighbours; the image itself is left out.
        progress: shows a bar on stderr.

    Yields:
        {'image', 'neighbours': [{'image', 'distance'}, …]}, nearest first, or {'image',
        'error'} for a file that cannot be read; those of `among` come first.
    """
    files, index = files_named(images), files_named(among)
    name = layer or run.network.weighted[-2:][0]
    read = run.reader([name])

    def blocks(source: Files, left_out: list[int]) -> Iterator[tuple]:
        for block in run.over(source, read, progress):
            left_out += block.unreadable
            features = block.results[name]
            yield block.rows, features.reshape(len(features), features[:1].size)

    left_out: list[int] = []
    parts = [features for _, features in blocks(files, left_out)]
    asked = np.delete(np.arange(len(files)), left_out).tolist()
    row_of = {os.path.realpath(file): row for row, file in enumerate(index.names)}
    own = [row_of.get(os.path.realpath(files.names[row]), -1) for row in asked]
    not_searched: list[int] = []
    found = []
    if asked:
        queries = np.concatenate(parts)
        found = nearest(queries, own, blocks(index, not_searched), top)
    yield from (unreadable(index, row) for row in not_searched)
    nearest_of = dict(zip(asked, found, strict=True))
    for row, file in enumerate(files.names):
        if row in nearest_of:
            alike = [
                {"image": index.names[i], "distance": d} for i, d in nearest_of[row]
            ]
            yield {"image": file, "neighbours": alike}
        else:
            yield unreadable(files, row)


def unreadable(files: Files, row: int) -> dict[str, Any]:
    """The answer for an image that cannot be read."""
    reason = inputs.why_unreadable(files, row)
    return {"image": files.names[row], "error": reason or "could not be read before"}


def named(p: np.ndarray, names: Sequence[str], top: int) -> list[dict]:
    """The `top` classes of a distribution, likeliest first."""
    return [
        {"label": label, "name": names[label], "probability": float(p[label])}
        for label in likeliest(p, top)
    ]


def class_names(path: str, classes: Sequence[str]) -> list[str]:
    """Readable names, from lines '…<tab>class<tab>name'."""
    try:
        rows = [x.split("\t") for x in Path(path).read_text("utf-8-sig").splitlines()]
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
    NETWORKS = cli.define_networks(views="10")
    TOP = flags.DEFINE_integer("top", 5, "Classes, or neighbours.", lower_bound=1)
    JSON = flags.DEFINE_bool("json", False, "Print a JSON object an image.")
    NAMES = flags.DEFINE_string("names", None, "Lines: … <tab> class <tab> name.")
    FEATURES = flags.DEFINE_list(
        "features", [], "Activations, such as fc7 or conv5,pool5; centre views."
    )
    OUTPUT = flags.DEFINE_string("output", None, "F.npz, a new file for --features.")
    NEIGHBOURS = flags.DEFINE_string(
        "neighbours", None, "Images to search for the most alike; centre views."
    )

    def main(argv: Sequence[str]) -> int:
        """Print an answer for every image; status 1 if one could not be read."""
        device.cache_programs()
        folders, chosen = NETWORKS()
        check_flags()
        files, progress = files_named(argv[1:]), sys.stderr.isatty()
        images = files.names
        if OUTPUT.value or NEIGHBOURS.value:
            chosen["views"] = 1
        run = load_run(folders, **chosen)
        if OUTPUT.value:
            return save(run, files, progress)
        if NEIGHBOURS.value:
            answers = neighbours(
                run,
                images,
                [NEIGHBOURS.value],
                layer=next(iter(FEATURES.value), None),
                top=TOP.value,
                progress=progress,
            )
        else:
            answers = predict(
                run,
                images,
                top=TOP.value,
                names=NAMES.value,
                progress=progress and not sys.stdout.isatty(),
            )
        readable, failed = bars.layout(images), 0
        for answer in answers:
            if JSON.value:
                print(json.dumps(answer), flush=True)
            elif "error" in answer:
                tqdm.write(f"error: {answer['error']}", file=sys.stderr)
            else:
                print(readable(answer), flush=True)
            failed += "error" in answer
        return int(failed > 0)

    def check_flags() -> None:
        """Refuse flags that do not go together."""
        names = ",".join(FEATURES.value)
        if OUTPUT.value and NEIGHBOURS.value:
            raise InputError("--output, --neighbours: give one of them")
        if OUTPUT.value and not names:
            raise InputError(
                f"--output={OUTPUT.value}: is for --features; name some, such as "
                "--features=fc7"
            )
        if names and not (OUTPUT.value or NEIGHBOURS.value):
            raise InputError(
                f"--features={names}: give --output=F.npz, a new file for them, or "
                "--neighbours=FOLDER, images to compare by them"
            )
        if NEIGHBOURS.value and len(FEATURES.value) > 1:
            raise InputError(f"--features={names}: --neighbours compares one of them")
        if (OUTPUT.value or NEIGHBOURS.value) and flags.FLAGS["views"].present:
            raise InputError("--views: features are those of the centre view; omit it")

    def save(run: Predictor, files: Files, progress: bool) -> int:
        """Write the features of the images."""
        path = Path(OUTPUT.value or "")
        left_out = write_features(run, files, FEATURES.value, path, progress)
        for row in left_out:
            print(f"error: {unreadable(files, row)['error']}", file=sys.stderr)
        return int(len(left_out) > 0)

    cli.run(main)
