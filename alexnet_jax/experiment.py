"""What a config describes: checked, and made into network, schedule and data."""

import math
import re
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from alexnet_jax import device, inference, parallel
from alexnet_jax.cli import flat, one_of
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.limits import PRECISIONS, check_values
from alexnet_jax.network.alexnet import LAYERS, AlexNet
from alexnet_jax.optimizer import Drop, EpochSchedule, Plateau


def check(config: ml_collections.ConfigDict) -> None:
    """Refuses values that no code below could make sense of.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    check_values(config)
    make_schedule(config)


def updates(config: ml_collections.ConfigDict, images: int) -> int:
    """In the whole run, with so many training pictures."""
    return config.steps or math.ceil(config.epochs * images / config.batch_size)


def shared_by_processes(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The keys that all processes of a run must have alike: all but how they read."""
    own = re.compile(r"dataset\.(workers|threads)")
    return {key: value for key, value in flat(config).items() if not own.match(key)}


def make_mesh(config: ml_collections.ConfigDict) -> Mesh:
    """The devices of a config."""
    return parallel.make_mesh(
        config.mesh.data,
        config.mesh.tower,
        config.network.towers,
        config.batch_size,
        config.mesh.fc,
        config.accumulation,
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


def make_probabilities(
    config: ml_collections.ConfigDict, network: AlexNet, mesh: Mesh, views: int = 1
) -> jax.stages.Wrapped:
    """`inference.make_probabilities` of a config's network, compiled."""
    crop, mean_at = config.augment.crop, config.augment.mean_at
    return device.jit(inference.make_probabilities(network, mesh, crop, views, mean_at))


def make_schedule(config: ml_collections.ConfigDict) -> Plateau | EpochSchedule:
    """The rates of a config over time."""
    c = config.optimizer
    bias_rate = c.rate * c.bias_rate_multiple
    if c.schedule == "plateau":
        return Plateau(c.rate, bias_rate, c.plateau_factor, c.plateau_drops, c.patience)
    first = Drop(0, c.rate, bias_rate)
    drops = [first, *_drops(c.drops, "optimizer.drops")]
    layers = {}
    for name, rows in c.layer_drops.items():
        one_of(name, LAYERS, "optimizer.layer_drops")
        layers[name] = _drops(rows, f"optimizer.layer_drops.{name}")
    return EpochSchedule(drops, layers)


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


def _drops(rows: Any, key: str) -> list[Drop]:
    drops: list[Drop] = []
    for row in rows if isinstance(rows, list | tuple) else [rows]:
        try:
            epoch, rate, bias_rate = map(float, row)
        except (TypeError, ValueError):
            raise InputError(
                f"{key}={row}: must be rows of (epoch, weight rate, bias rate)"
            ) from None
        if not all(0 <= number < math.inf for number in (epoch, rate, bias_rate)):
            raise InputError(f"{key}={row}: epoch and rates must be 0 or more")
        if drops and epoch <= drops[-1].epoch:
            raise InputError(
                f"{key}={row}: comes after epoch {drops[-1].epoch:g}; put the rows in "
                "order of their epochs"
            )
        drops.append(Drop(epoch, rate, bias_rate))
    return drops
