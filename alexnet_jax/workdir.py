"""A work directory: config, classes and trained networks, kept and read back."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import parallel, processes
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.config import FIELDS, Change, parsed
from alexnet_jax.data.files import read_lines, replaced, write_lines
from alexnet_jax.data.images import Source, fingerprint
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.experiment import check, make_network, make_probabilities, total_steps
from alexnet_jax.inference import Model
from alexnet_jax.step import parameter_shapes
from alexnet_jax.values import flat, one_of

IMAGES = "images.json"  # what the images of a run are known by


def write_config(config: ConfigDict, path: Path) -> None:
    """Write a config.json, as a whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(workdir: Path) -> ConfigDict:
    """The config.json of a work directory, of this version or an earlier one."""
    path = workdir / "config.json"
    try:
        config = parsed(path.read_text(errors="replace"), str(path))
        check(config)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path}: no such file; give a work directory that alexnet_jax.main made"
        ) from None
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    return config


def fingerprints(training: Source, validation: Source) -> dict[str, dict[str, Any]]:
    """What the images of a run are known by, as in images.json.

    Args:
        training: all training images, those that cannot be decoded included.
        validation: all validation images.
    """
    return {
        "dataset.train": fingerprint(training),
        "dataset.validation": fingerprint(validation),
    }


def note_images(sets: dict[str, dict[str, Any]], workdir: Path) -> None:
    """Write the `fingerprints` into images.json, once a run has accepted the images."""
    if processes.first():
        with replaced(workdir / IMAGES) as temporary:
            temporary.write_text(json.dumps(sets, indent=2) + "\n")


def settle_config(
    config: ConfigDict, workdir: Path, images: int, sets: dict[str, dict[str, Any]]
) -> None:
    """Write config.json into a work directory, or check that it fits this run.

    Args:
        config: of the run.
        workdir: its folder.
        images: in dataset.train.
        sets: `fingerprints`; where a path has changed, they must be those noted.
    """
    path = workdir / "config.json"
    if path.exists():
        kept, known = read_config(workdir), _known_images(workdir)
        untrained = not holds_any(workdir / "checkpoints")
        longer = total_steps(config, images) >= total_steps(kept, images)
        may_change = {
            Change.ANY_TIME: True,
            Change.LONGER: longer or untrained,
            Change.UNTRAINED: untrained,
            Change.MOVED: bool(known),  # an earlier version did not note the images
            Change.NEVER: False,
        }
        fixed = [key for key, field in FIELDS.items() if not may_change[field.change]]
        if differing := _differing(fixed, kept, config):
            raise InputError(
                f"--workdir={workdir}: was made with another config: {differing}; give "
                "another --workdir, or these values"
            )
        for key, own in known.items():
            if sets[key] != own and (moved := _differing([key], kept, config)):
                raise InputError(
                    f"--workdir={workdir}: was begun with other images: {moved}: "
                    f"{_compared(own, sets[key])}; give another --workdir, or the same "
                    "images"
                )
    if processes.first():
        write_config(config, path)
    processes.meet("config.json")
    if not path.exists():
        raise InputError(
            f"--workdir={workdir}: is not the folder that process 0 writes to; give "
            "one on a disk that all processes share"
        )


def _known_images(workdir: Path) -> dict[str, dict[str, Any]]:
    """The fingerprints in images.json; {} where an earlier version wrote none."""
    path = workdir / IMAGES
    try:
        known = json.loads(path.read_text(errors="replace"))
        for own in known.values():
            _compared(own, own)
        return {key: known[key] for key in ("dataset.train", "dataset.validation")}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: not two fingerprints of images in JSON ({error!r}); restore or "
            "delete it"
        ) from None


def _compared(there: dict[str, Any], here: dict[str, Any]) -> str:
    """The sizes of two sets of images, for a message."""
    one, other = (
        f"{own['images']:,} images in {own['classes']:,} classes"
        for own in (there, here)
    )
    if one == other:
        return f"{one} both, with other names or contents"
    return f"{one} there, {other} here"


def settle_classes(classes: Sequence[str], config: ConfigDict, workdir: Path) -> None:
    """Write classes.txt into a work directory, or check that it fits this run."""
    path = workdir / "classes.txt"
    for name in classes:
        if "\n" in name:
            raise InputError(
                f"dataset.train={config.dataset.train!r}: the class {name!r} is no "
                "line of text; rename it"
            )
    if holds_any(workdir / "checkpoints") and path.exists():
        kept = read_classes(path)
        if kept != list(classes):
            different = sorted(set(kept) ^ set(classes)) or ["their order"]
            raise InputError(
                f"dataset.train={config.dataset.train!r}: has {len(classes)} classes, "
                f"not the {len(kept)} of {path} (such as {different[0]!r}); restore "
                "them, or give another --workdir"
            )
    if processes.first():
        write_lines(path, classes)


def read_classes(path: Path) -> list[str]:
    """The class names of a classes.txt, in label order."""
    try:
        return read_lines(path)
    except OSError:
        raise InputError(
            f"{path}: no such file; it has a class name a line, in label order: write "
            "it, or copy it from the run that was trained"
        ) from None


def require_same_network(config: ConfigDict, own: ConfigDict, workdir: Path) -> None:
    """Check that --config describes the network in a work directory."""
    keys = [key for key in FIELDS if key.startswith("network.")]
    if differing := _differing(
        [*keys, "augment.crop", "dataset.image_size"], own, config
    ):
        raise InputError(
            f"--checkpoint={workdir}: a checkpoint of another network: {differing}; "
            "give the --config that it was trained with"
        )


def _differing(keys: Iterable[str], there: ConfigDict, here: ConfigDict) -> str:
    """The keys whose values differ, such as 'network.towers (2 there, 1 here)'."""
    before, now = flat(there), flat(here)
    return "; ".join(
        f"{key} ({before[key]} there, {now[key]} here)"
        for key in keys
        if before[key] != now[key]
    )


def starting_params(checkpoint: str, fresh: Sequence[str], like: dict) -> dict:
    """The parameters that a training starts from, those of another run (§6).

    Args:
        checkpoint: the other run's work directory.
        fresh: layers to leave out.
        like: {layer: …}, shapes, dtypes and shardings.
    """
    if not checkpoint:
        raise InputError(
            f"start.fresh={tuple(fresh)}: the other layers need a start too; set "
            "start.checkpoint to the work directory of a run"
        )
    for name in fresh:
        one_of(name, tuple(like), "start.fresh")
    kept = {layer: own for layer, own in like.items() if layer not in fresh}
    folder = Path(os.path.expanduser(checkpoint)) / "checkpoints"
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore_layers(kept)


def load_model(
    workdir: Path, config: ConfigDict, mesh: Mesh, views: int, best: bool = False
) -> tuple[Model, list[str]]:
    """The network of a work directory, ready to predict, and its classes.

    Args:
        workdir: with statistics.npz, classes.txt and checkpoints/.
        config: its config.json.
        mesh: of the devices that will compute.
        views: 1 or 10.
        best: take the checkpoint of least validation error, not the newest.
    """
    classes = read_classes(workdir / "classes.txt")
    mean_image = Statistics.load(workdir / "statistics.npz").mean_image
    size = config.dataset.image_size
    if len(mean_image) != size:
        raise InputError(
            f"{workdir / 'statistics.npz'}: mean_image is {mean_image.shape}, and must "
            f"be of dataset.image_size={size}, as {workdir / 'config.json'} says"
        )
    network = make_network(config, len(classes))
    shapes = parameter_shapes(network, config.augment.crop)
    shardings = parallel.parameter_shardings(network, mesh)
    with closing(Checkpoints(workdir / "checkpoints", best=best)) as checkpoints:
        params = checkpoints.restore_params(parallel.with_shardings(shapes, shardings))
    probabilities = make_probabilities(config, network, mesh, views)
    return Model(probabilities, params, parallel.replicate(mesh, mean_image)), classes


def load_ensemble(
    workdirs: Sequence[Path],
    configs: Sequence[ConfigDict],
    mesh: Mesh,
    views: int,
    weights: Sequence[float] = (),
    best: bool = False,
) -> tuple[list[Model], list[str]]:
    """Networks whose predictions are averaged, and their common classes.

    Args:
        workdirs: one for each network; the networks may differ.
        configs: their config.json.
        mesh: as for `load_model`.
        views: as there.
        weights: of the networks in the average; () counts all the same.
        best: as for `load_model`.
    """
    models: list[Model] = []
    classes: list[str] = []
    if weights and (len(weights) != len(workdirs) or not 0 < sum(weights) < math.inf):
        raise InputError(
            f"--weights={','.join(map(str, weights))}: must be {len(workdirs)} "
            "numbers, one for each network of --checkpoint, 0 or more, not all 0"
        )
    weights = weights or [1.0] * len(workdirs)
    for workdir, config, weight in zip(workdirs, configs, weights, strict=True):
        model, own = load_model(workdir, config, mesh, views, best)
        models.append(model._replace(weight=weight))
        classes = classes or own
        if own != classes:
            raise InputError(
                f"--checkpoint={workdir}: its classes.txt differs from that of "
                f"{workdirs[0]}; an ensemble needs the same classes in the same order"
            )
        size, first = config.dataset.image_size, configs[0].dataset.image_size
        if size != first:
            raise InputError(
                f"--checkpoint={workdir}: dataset.image_size={size}, but {first} in "
                f"{workdirs[0]}; the networks of an ensemble take the same images"
            )
    return models, classes
