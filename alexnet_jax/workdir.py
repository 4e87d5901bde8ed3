"""A work directory: config, classes and trained networks, kept and read back."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import jax
import ml_collections
from jax.sharding import Mesh

from alexnet_jax import parallel, processes
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.config import FIELDS, Change, parsed
from alexnet_jax.data.files import read_lines, replaced, write_lines
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.experiment import check, make_network, make_probabilities, total_steps
from alexnet_jax.inference import Model
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.step import initial_params
from alexnet_jax.values import flat


def write_config(config: ml_collections.ConfigDict, path: Path) -> None:
    """Write a config.json, as a whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(workdir: Path) -> ml_collections.ConfigDict:
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


def settle_config(
    config: ml_collections.ConfigDict, workdir: Path, images: int
) -> None:
    """Write config.json into a work directory, or check that it fits this run.

    Args:
        config: of this start.
        workdir: of the run; it exists (`files.locked` makes it).
        images: in the training set.
    """
    path = workdir / "config.json"
    if path.exists():
        kept = read_config(workdir)
        before, now = flat(kept), flat(config)
        begun = holds_any(workdir / "checkpoints")
        longer = total_steps(config, images) >= total_steps(kept, images)

        def may_change(key: str) -> bool:
            match FIELDS[key].change:
                case Change.ANY_TIME:
                    return True
                case Change.LONGER:
                    return longer or not begun
                case Change.UNTRAINED:
                    return not begun
                case Change.NEVER:
                    return False

        differing = [
            f"{key} ({before[key]} there, {now[key]} here)"
            for key in FIELDS
            if before[key] != now[key] and not may_change(key)
        ]
        if differing:
            raise InputError(
                f"--workdir={workdir}: was made with another config: "
                f"{'; '.join(differing)}; give another --workdir, or these values"
            )
    if processes.first():
        write_config(config, path)
    processes.meet("config.json")
    if not path.exists():
        raise InputError(
            f"--workdir={workdir}: is not the folder that process 0 writes to; give "
            "one on a disk that all processes share"
        )


def settle_classes(
    classes: Sequence[str], config: ml_collections.ConfigDict, workdir: Path
) -> None:
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


def require_same_network(
    config: ml_collections.ConfigDict, own: ml_collections.ConfigDict, workdir: Path
) -> None:
    """Check that --config describes the network in a work directory."""
    given, trained_with = flat(config), flat(own)
    keys = [key for key in FIELDS if key.startswith("network.")]
    differing = [
        f"{key} ({trained_with[key]} there, {given[key]} in --config)"
        for key in (*keys, "augment.crop", "dataset.image_size")
        if given[key] != trained_with[key]
    ]
    if differing:
        raise InputError(
            f"--checkpoint={workdir}: a checkpoint of another network: "
            f"{'; '.join(differing)}; give the --config that it was trained with"
        )


def parameter_shapes(network: AlexNet, side: int) -> dict:
    """Shapes and dtypes of a network's parameters (`jax.ShapeDtypeStruct`).

    Args:
        network: the network.
        side: of its input, in pixels.
    """
    return jax.eval_shape(lambda: initial_params(network, 0, side))


def load_model(
    workdir: Path, config: ml_collections.ConfigDict, mesh: Mesh, views: int
) -> tuple[Model, list[str]]:
    """The network of a work directory, ready to predict, and its classes.

    Args:
        workdir: with statistics.npz, classes.txt and checkpoints/.
        config: its config.json.
        mesh: of the devices that will compute.
        views: 1 or 10.
    """
    classes = read_classes(workdir / "classes.txt")
    statistics = workdir / "statistics.npz"
    mean_image = Statistics.load(statistics).mean_image
    size = config.dataset.image_size
    if mean_image.shape != (size, size, 3):
        raise InputError(
            f"{statistics}: mean_image is {mean_image.shape}, and must be of "
            f"dataset.image_size={size}, as {workdir / 'config.json'} says"
        )
    network = make_network(config, len(classes))
    shapes = parameter_shapes(network, config.augment.crop)
    shardings = parallel.parameter_shardings(network, mesh)
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        params = checkpoints.restore_params(parallel.with_shardings(shapes, shardings))
    probabilities = make_probabilities(config, network, mesh, views)
    return Model(probabilities, params, parallel.replicate(mesh, mean_image)), classes


def load_ensemble(
    workdirs: Sequence[Path],
    configs: Sequence[ml_collections.ConfigDict],
    mesh: Mesh,
    views: int,
) -> tuple[list[Model], list[str]]:
    """Networks whose predictions are averaged, and their common classes."""
    loaded = [
        load_model(workdir, config, mesh, views)
        for workdir, config in zip(workdirs, configs, strict=True)
    ]
    classes, size = loaded[0][1], configs[0].dataset.image_size
    for workdir, config, (_, own) in zip(workdirs, configs, loaded, strict=True):
        if own != classes:
            raise InputError(
                f"--checkpoint={workdir}: its classes.txt differs from that of "
                f"{workdirs[0]}; an ensemble needs the same classes in the same order"
            )
        if config.dataset.image_size != size:
            raise InputError(
                f"--checkpoint={workdir}: dataset.image_size="
                f"{config.dataset.image_size}, but {size} in {workdirs[0]}; the "
                "networks of an ensemble take the same images"
            )
    return [model for model, _ in loaded], classes
