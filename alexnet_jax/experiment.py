"""What a config describes: checked, and made into network, schedule and data."""

import functools
import os
import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import inference, parallel
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.cli import flat, load_config, one_of, save_config
from alexnet_jax.data import sources
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.inference import Model
from alexnet_jax.network.alexnet import LAYERS, AlexNet
from alexnet_jax.optimizer import Drop, EpochSchedule, Plateau
from alexnet_jax.step import initial_params

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# A run may go on although these differ: they cannot change its numbers.
FREE = re.compile(
    r"mesh\..*|dataset\.(workers|threads)|log_every_steps"
    r"|checkpoint_every_steps|checkpoints_to_keep"
)
PROLONGING = ("epochs", "steps")  # these may grow


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no code below could make sense of.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    one_of(config.precision, tuple(PRECISIONS), "precision")
    one_of(config.dataset.source, sources.KINDS, "dataset.source")
    one_of(config.augment.mean_at, ("crop", "centre"), "augment.mean_at")
    one_of(config.network.response_range, ("tower", "layer"), "network.response_range")
    one_of(config.optimizer.schedule, ("plateau", "epochs"), "optimizer.schedule")
    at_least = {
        "batch_size": 1, "steps": 0, "epochs": 0, "seed": 0, "log_every_steps": 1,
        "checkpoint_every_steps": 1, "checkpoints_to_keep": 1,
        "validate_every_epochs": 0, "dataset.workers": 0, "dataset.threads": 1,
        "dataset.image_size": 1, "augment.crop": 1, "augment.offsets": 1,
        "augment.crop_chunk": 1, "augment.colour_noise": 0, "mesh.tower": 1,
        "network.towers": 1, "optimizer.rate": 0, "optimizer.patience": 1,
    }  # fmt: skip
    values = flat(config)
    for key, least in at_least.items():
        if values[key] < least:
            raise InputError(f"{key}={values[key]}: must be {least} or more")
    if not 0 <= config.network.dropout < 1:
        raise InputError(
            f"network.dropout={config.network.dropout}: must be from 0 to below 1"
        )
    if config.network.response_depth % 2 == 0:
        raise InputError(
            f"network.response_depth={config.network.response_depth}: must be odd"
        )
    if config.augment.crop > config.dataset.image_size:
        raise InputError(
            f"augment.crop={config.augment.crop}: larger than the pictures, "
            f"dataset.image_size={config.dataset.image_size}"
        )
    if config.network.response_range == "layer" and config.mesh.tower > 1:
        raise InputError(
            f"mesh.tower={config.mesh.tower}: windows over the whole layer "
            "(network.response_range='layer') would cross between devices where the "
            "paper's GPUs did not talk; set mesh.tower=1 or response_range='tower'"
        )
    lengths = {"kernels": 5, "units": 2, "stddevs": 8, "biases": 8}
    for name, length in lengths.items():
        given = config.network[name]
        if len(given) != length:
            raise InputError(f"network.{name}={given}: must have {length} numbers")
    for name in ("kernels", "units"):
        for width in config.network[name]:
            if width < 1 or width % config.network.towers:
                raise InputError(
                    f"network.{name}: {width} does not divide over network.towers="
                    f"{config.network.towers}"
                )
    make_schedule(config)


def settle_config(config: ml_collections.ConfigDict, workdir: Path) -> None:
    """Keeps config.json in a work directory, or checks that it tells of this run.

    Raises:
        InputError: the directory was made with another config; the differing keys are
            named and nothing is touched.
    """
    path = workdir / "config.json"
    if path.exists():
        before, now = flat(load_config(path)), flat(config)
        differing = [
            f"{key} ({before.get(key, 'absent')} there, {now.get(key, 'absent')} here)"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
            and not FREE.fullmatch(key)
            and not (key in PROLONGING and now[key] >= before.get(key, 0))
        ]
        if differing:
            raise InputError(
                f"--workdir={workdir}: was made with another config: "
                f"{'; '.join(differing)}; give another --workdir, or these values"
            )
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    save_config(config, temporary)
    os.replace(temporary, path)


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


def make_network(config: ml_collections.ConfigDict, classes: int) -> AlexNet:
    """The network of a config, for so many classes."""
    c = config.network
    return AlexNet(
        classes=classes,
        kernels=tuple(c.kernels),
        units=tuple(c.units),
        towers=c.towers,
        towers_here=c.towers,
        conv1_size=c.conv1_size,
        conv1_stride=c.conv1_stride,
        normalise_before_relu=c.normalise_before_relu,
        response_depth=c.response_depth,
        response_k=c.response_k,
        response_alpha=c.response_alpha,
        response_beta=c.response_beta,
        response_range=c.response_range,
        spatial_alpha=c.spatial_alpha,
        stddevs=tuple(c.stddevs),
        biases=tuple(c.biases),
        dropout_rate=c.dropout,
        dtype=PRECISIONS[config.precision],
    )


def make_schedule(config: ml_collections.ConfigDict) -> Plateau | EpochSchedule:
    """The rates of a config over time."""
    c = config.optimizer
    bias_rate = c.rate * c.bias_rate_multiple
    if c.schedule == "plateau":
        return Plateau(c.rate, bias_rate, c.plateau_factor, c.plateau_drops, c.patience)
    first = Drop(0, c.rate, bias_rate)
    drops = [first, *(_drop(row, "optimizer.drops") for row in c.drops)]
    layers = {}
    for name, rows in c.layer_drops.items():
        key = f"optimizer.layer_drops.{name}"
        one_of(name, LAYERS, "optimizer.layer_drops")
        layers[name] = [_drop(row, key) for row in rows]
    return EpochSchedule(drops, layers)


def open_data(
    config: ml_collections.ConfigDict, role: str, classes: tuple[str, ...] | None = None
) -> sources.Source:
    """The pictures of a config for 'train' or 'validation'.

    Args:
        config: its dataset.* keys.
        role: which of the two.
        classes: of the training, in label order; None where this is the training.
    """
    c = config.dataset
    key = f"dataset.{role}"
    source = sources.open_source(
        c.source,
        c[role],
        role,
        key=key,
        image_size=c.image_size,
        seed=config.seed,
        tfds_name=c.tfds_name,
    )
    return source if classes is None else sources.match_classes(source, classes, key)


def make_augmentation(
    config: ml_collections.ConfigDict, statistics: Statistics, images: int
) -> Augmentation:
    """§4.1 as a config has it, for so many training pictures."""
    c = config.augment
    return Augmentation(
        seed=config.seed,
        crop=c.crop,
        offsets=c.offsets,
        chunk=c.crop_chunk,
        reflect=c.reflect,
        noise=c.colour_noise,
        noise_until=int(min(c.colour_noise_until_epoch * images, np.iinfo("i8").max)),
        noise_divisor=c.colour_noise_divisor,
        color_stddev=tuple(statistics.color_stddev.tolist()),
        color_axes=tuple(map(tuple, statistics.color_axes.tolist())),
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
    try:
        classes = (workdir / "classes.txt").read_text().splitlines()
    except OSError:
        raise InputError(
            f"{workdir / 'classes.txt'}: no such file; it has a class name a line, in "
            "label order: write it, or copy it from the run that was trained"
        ) from None
    mean_image = Statistics.load(workdir / "statistics.npz").mean_image
    network = make_network(config, len(classes))
    initialise = functools.partial(initial_params, network, 0, config.augment.crop)
    shapes = jax.eval_shape(initialise)
    like = jax.tree.map(
        lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
        shapes,
        parallel.parameter_shardings(mesh, shapes),
    )
    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        params = checkpoints.restore_params(like)
    probabilities = inference.make_probabilities(
        network, mesh, config.augment.crop, views, config.augment.mean_at
    )
    mean = jax.device_put(mean_image, parallel.replicated(mesh))
    return Model(jax.jit(probabilities), params, mean), classes


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


def _drop(row: Any, key: str) -> Drop:
    try:
        return Drop(*map(float, row))
    except (TypeError, ValueError):
        raise InputError(
            f"{key}={row}: must be rows of (epoch, weight rate, bias rate)"
        ) from None
