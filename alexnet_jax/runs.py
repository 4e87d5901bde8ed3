"""Work directories: what they say of the run in them, and the network they hold."""

import functools
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import jax
import ml_collections
from jax.sharding import Mesh

from alexnet_jax import parallel, processes
from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.cli import flat, load_config, save_config
from alexnet_jax.data.files import read_lines, write_lines
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.experiment import check, make_network, make_probabilities, updates
from alexnet_jax.inference import Model
from alexnet_jax.step import initial_params

# A run may go on although these differ: they cannot change its numbers.
FREE = re.compile(
    r"mesh\..*|accumulation|dataset\.(workers|threads)|log_every_steps"
    r"|checkpoint_every_steps|checkpoints_to_keep"
)
LENGTH = ("epochs", "steps")  # together, they may say more updates than before
YOUNGER = {"mesh.fc": 1, "accumulation": 1}  # than the first runs, which had these
STATISTICS_OF = re.compile(r"dataset\..*|seed")  # the seed draws generated pictures


def settle_config(
    config: ml_collections.ConfigDict, workdir: Path, images: int
) -> None:
    """Keeps config.json in a work directory, or checks that it tells of this run.

    Until there is a checkpoint, only what the statistics are of must be the same.

    Args:
        config: of this start.
        workdir: of the run, which is there (`lock.locked` makes it).
        images: in the training set.

    Raises:
        InputError: the directory was made with another config; the differing keys are
            named and nothing is touched.
    """
    path = workdir / "config.json"
    if path.exists():
        kept = kept_config(workdir)
        before, now = flat(kept), flat(config)
        begun = holds_any(workdir / "checkpoints")
        longer = begun and updates(config, images) >= updates(kept, images)
        differing = [
            f"{key} ({before.get(key, 'absent')} there, {now.get(key, 'absent')} here)"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
            and not FREE.fullmatch(key)
            and not (longer and key in LENGTH)
            and (begun or STATISTICS_OF.fullmatch(key))
        ]
        if differing:
            raise InputError(
                f"--workdir={workdir}: was made with another config: "
                f"{'; '.join(differing)}; give another --workdir, or these values"
            )
    if processes.first():
        save_config(config, path)
    processes.meet("config.json")
    if not path.exists():
        raise InputError(
            f"--workdir={workdir}: is not the folder that process 0 writes to; give "
            "one on a disk that all processes share"
        )


def settle_classes(
    classes: Sequence[str], config: ml_collections.ConfigDict, workdir: Path
) -> None:
    """Keeps classes.txt in a work directory, or checks that it tells of this run.

    Raises:
        InputError: a checkpoint there knows other classes; nothing is touched.
    """
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
    """The class names of a classes.txt, in label order.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return read_lines(path)
    except OSError:
        raise InputError(
            f"{path}: no such file; it has a class name a line, in label order: write "
            "it, or copy it from the run that was trained"
        ) from None


def kept_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config.json of a work directory.

    Raises:
        InputError: it is not there, or not a config.
    """
    path = workdir / "config.json"
    config = load_config(path)
    if "mesh.data" in flat(config):
        absent = {key: YOUNGER[key] for key in YOUNGER.keys() - flat(config).keys()}
        config.update_from_flattened_dict(absent)
    try:
        check(config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return config


def require_same_network(
    config: ml_collections.ConfigDict, own: ml_collections.ConfigDict, workdir: Path
) -> None:
    """Checks that --config tells of the network in a work directory.

    Raises:
        InputError: naming the keys in which they differ.
    """
    given, trained_with = flat(config), flat(own)
    differing = [
        f"{key} ({trained_with.get(key, 'absent')} there, {given[key]} in --config)"
        for key in given
        if re.match(r"network\.|augment\.crop$|dataset\.image_size", key)
        and given[key] != trained_with.get(key)
    ]
    if differing:
        raise InputError(
            f"--checkpoint={workdir}: a checkpoint of another network: "
            f"{'; '.join(differing)}; give the --config that it was trained with"
        )


def trained(
    workdir: Path, config: ml_collections.ConfigDict, mesh: Mesh, views: int
) -> tuple[Model, list[str]]:
    """A network as a work directory holds it, ready to answer, and its classes.

    Args:
        workdir: with statistics.npz, classes.txt and checkpoints/.
        config: its config.json.
        mesh: where it will compute.
        views: 1 or 10.

    Raises:
        InputError: something is missing, or of another network.
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
    initialise = functools.partial(initial_params, network, 0, config.augment.crop)
    shapes = jax.eval_shape(initialise)
    like = parallel.placed(shapes, parallel.parameter_shardings(mesh, shapes))
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        params = checkpoints.restore_params(like)
    probabilities = make_probabilities(config, network, mesh, views)
    mean = parallel.everywhere(mesh, mean_image)
    return Model(probabilities, params, mean), classes


def trained_ensemble(
    workdirs: Sequence[Path],
    configs: Sequence[ml_collections.ConfigDict],
    mesh: Mesh,
    views: int,
) -> tuple[list[Model], list[str]]:
    """Networks whose answers are averaged, and the classes they all know.

    Raises:
        InputError: they were trained on other classes, or on pictures of other sizes.
    """
    loaded = [
        trained(workdir, config, mesh, views)
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
                f"{config.dataset.image_size}, but {size} in {workdirs[0]}; an "
                "ensemble looks at the same pictures"
            )
    return [model for model, _ in loaded], classes
