"""A work directory: config, classes and trained networks, kept and read back."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from alexnet_jax import experiment, manifest, parallel, processes
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.config import FIELDS, Change, parsed
from alexnet_jax.data.files import read_lines, replaced, write_lines
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.fingerprints import compared, known_images
from alexnet_jax.inference import Model
from alexnet_jax.step import parameter_shapes
from alexnet_jax.values import flat, one_of

CLASSES = "classes.txt"


def write_config(config: ConfigDict, path: Path) -> None:
    """Write a config.json, as a whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(workdir: Path) -> ConfigDict:
    """The config.json of a work directory, of this version or an earlier one."""
    path = workdir / "config.json"
    try:
        text = path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path}: no such file; give a work directory that alexnet_jax.main made"
        ) from None
    config = parsed(text, str(path))
    try:
        experiment.check(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    trained = manifest.noted(workdir / "checkpoints").get("config", {})
    common = [key for key in FIELDS if key in trained]
    if changed := _differing(common, trained, flat(config)):
        raise InputError(
            f"{path}: damaged or edited: the checkpoints were trained with other "
            f"values: {changed}; put theirs back"
        )
    return config


def open_checkpoints(
    config: ConfigDict,
    classes: Sequence[str],
    workdir: Path,
    skip_damaged: bool = False,
) -> Checkpoints:
    """The checkpoints of a training.

    Their manifests note what must not change any more: most of the config, and the
    classes.
    """
    values, fixed = flat(config), (Change.UNTRAINED, Change.NEVER)
    run = {
        "config": {k: values[k] for k, f in FIELDS.items() if f.change in fixed},
        CLASSES: manifest.checksum_of("\n".join(classes)),
    }
    keep, folder = config.checkpoints_to_keep, workdir / "checkpoints"
    return Checkpoints(folder, keep, skip_damaged=skip_damaged, run=run)


def settle_config(
    config: ConfigDict, workdir: Path, images: int, sets: dict[str, dict[str, Any]]
) -> None:
    """Write config.json into a work directory, or check that it fits this run.

    Args:
        config: of the run.
        workdir: its folder.
        images: in dataset.train.
        sets: `fingerprints_of`; where a path has changed, they must be those noted.
    """
    path = workdir / "config.json"
    if path.exists():
        kept, known = read_config(workdir), known_images(workdir)
        untrained = not holds_any(workdir / "checkpoints")
        ours, theirs = (experiment.total_steps(c, images) for c in (config, kept))
        # All rates of a polynomial schedule depend on its length.
        longer = ours > theirs and kept.optimizer.schedule != "polynomial"
        may_change = {
            Change.ANY_TIME: True,
            Change.LONGER: untrained or longer or ours == theirs,
            Change.UNTRAINED: untrained,
            Change.MOVED: bool(known),  # an earlier version did not note the images
            Change.NEVER: False,
        }
        fixed = [key for key, field in FIELDS.items() if not may_change[field.change]]
        if differing := _differing(fixed, flat(kept), flat(config)):
            raise InputError(
                f"--workdir={workdir}: was made with another config: {differing}; give "
                "another --workdir, or these values"
            )
        for key, own in known.items():
            moved = _differing([key], flat(kept), flat(config))
            if sets[key] != own and moved:
                raise InputError(
                    f"--workdir={workdir}: was begun with other images: {moved}: "
                    f"{compared(own, sets[key])}; give another --workdir, or the same "
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


def settle_classes(classes: Sequence[str], config: ConfigDict, workdir: Path) -> None:
    """Write classes.txt into a work directory, or check that it fits this run."""
    path = workdir / CLASSES
    for name in classes:
        if "\n" in name:
            raise InputError(
                f"dataset.train={config.dataset.train!r}: the class {name!r} is no "
                "line of text; rename it"
            )
    if holds_any(workdir / "checkpoints") and path.exists():
        kept = read_lines(path)
        if kept != list(classes) and not _trained_with(classes, workdir):
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
        classes = read_lines(path)
    except OSError:
        raise InputError(
            f"{path}: no such file; it has a class name a line, in label order: write "
            "it, or copy it from the run that was trained"
        ) from None
    if _trained_with(classes, path.parent) is False:
        raise InputError(
            f"{path}: damaged or edited: the checkpoints were trained with other "
            "classes; restore it, or delete it and train on to have it written again"
        )
    return classes


def _trained_with(classes: Sequence[str], workdir: Path) -> bool | None:
    """Whether the checkpoints were trained with these classes; None: not noted."""
    noted = manifest.noted(workdir / "checkpoints").get(CLASSES)
    return noted and noted == manifest.checksum_of("\n".join(classes))


def require_same_network(config: ConfigDict, own: ConfigDict, workdir: Path) -> None:
    """Check that --config describes the network in a work directory."""
    keys = [key for key in FIELDS if key.startswith("network.")]
    if differing := _differing(
        [*keys, "augment.crop", "dataset.image_size"], flat(own), flat(config)
    ):
        raise InputError(
            f"--checkpoint={workdir}: a checkpoint of another network: {differing}; "
            "give the --config that it was trained with"
        )


def _differing(
    keys: Iterable[str], there: Mapping[str, Any], here: Mapping[str, Any]
) -> str:
    """The keys whose values differ, such as 'network.towers (2 there, 1 here)'."""
    return "; ".join(
        f"{key} ({there[key]} there, {here[key]} here)"
        for key in keys
        if there[key] != here[key]
    )


def starting_params(start: ConfigDict, like: dict, skip_damaged: bool) -> dict:
    """The parameters that a training starts from, those of another run (§6).

    Args:
        start: the section of a config, with a checkpoint and the layers to leave out.
        like: {layer: …}, shapes, dtypes and shardings.
        skip_damaged: as for `load_model`.
    """
    fresh = start.fresh
    if not start.checkpoint:
        raise InputError(
            f"start.fresh={tuple(fresh)}: the other layers need a start too; set "
            "start.checkpoint to the work directory of a run"
        )
    for name in fresh:
        one_of(name, tuple(like), "start.fresh")
    kept = {layer: own for layer, own in like.items() if layer not in fresh}
    folder = Path(os.path.expanduser(start.checkpoint)) / "checkpoints"
    with closing(Checkpoints(folder, skip_damaged=skip_damaged)) as checkpoints:
        return checkpoints.restore_layers(kept)


def load_model(
    workdir: Path,
    config: ConfigDict,
    mesh: Mesh,
    views: int,
    best: bool = False,
    skip_damaged: bool = False,
) -> tuple[Model, list[str]]:
    """The network of a work directory, ready to predict, and its classes.

    Args:
        workdir: with statistics.npz, classes.txt and checkpoints/.
        config: its config.json.
        mesh: of the devices that will compute.
        views: 1 or 10.
        best: take the checkpoint of least validation error, not the newest.
        skip_damaged: take the next one where a checkpoint is damaged, and name both.
    """
    classes = read_classes(workdir / CLASSES)
    mean_image = Statistics.load(workdir / "statistics.npz").mean_image
    size = config.dataset.image_size
    if len(mean_image) != size:
        raise InputError(
            f"{workdir / 'statistics.npz'}: mean_image is {mean_image.shape}, and must "
            f"be of dataset.image_size={size}, as {workdir / 'config.json'} says"
        )
    experiment.require_memory(config, len(classes), mesh)
    network = experiment.make_network(config, len(classes))
    shapes = parameter_shapes(network, config.augment.crop)
    shardings = parallel.parameter_shardings(network, mesh)
    folder = workdir / "checkpoints"
    with closing(
        Checkpoints(folder, best=best, skip_damaged=skip_damaged)
    ) as checkpoints:
        params = checkpoints.restore_params(parallel.with_shardings(shapes, shardings))
    probabilities = experiment.make_probabilities(config, network, mesh, views)
    return Model(probabilities, params, parallel.replicate(mesh, mean_image)), classes


def load_ensemble(
    workdirs: Sequence[Path],
    configs: Sequence[ConfigDict],
    mesh: Mesh,
    views: int,
    weights: Sequence[float] = (),
    best: bool = False,
    skip_damaged: bool = False,
) -> tuple[list[Model], list[str]]:
    """Networks whose predictions are averaged, and their common classes.

    Args:
        workdirs: one for each network; the networks may differ.
        configs: their config.json.
        mesh: as for `load_model`.
        views: as there.
        weights: of the networks in the average; () counts all the same.
        best: as for `load_model`.
        skip_damaged: as there.
    """
    models: list[Model] = []
    classes: list[str] = []
    valid = all(0 <= weight < math.inf for weight in weights) and any(weights)
    if weights and not (valid and len(weights) == len(workdirs)):
        raise InputError(
            f"--weights={','.join(map(str, weights))}: must be {len(workdirs)} "
            "numbers, one for each network of --checkpoint, 0 or more, not all 0"
        )
    weights = weights or [1.0] * len(workdirs)
    for workdir, config, weight in zip(workdirs, configs, weights, strict=True):
        model, own = load_model(workdir, config, mesh, views, best, skip_damaged)
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
