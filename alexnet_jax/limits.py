"""Which values the keys of a config may have."""

import math
import re
from typing import Any

import jax.numpy as jnp
import ml_collections

from alexnet_jax.cli import flat, nearest, one_of
from alexnet_jax.data import sources
from alexnet_jax.errors import InputError

PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CHOICES = {
    "precision": tuple(PRECISIONS),
    "dataset.source": sources.KINDS,
    "network.response_range": ("tower", "layer"),
    "optimizer.schedule": ("plateau", "epochs"),
    "augment.mean_at": ("crop", "centre"),
    "network.normalise_before_relu": (False, True),
    "augment.reflect": (False, True),
}
LEAST = {
    "seed": 0, "batch_size": 1, "epochs": 0, "steps": 0, "validate_every_epochs": 0,
    "log_every_steps": 1, "checkpoint_every_steps": 1, "checkpoints_to_keep": 1,
    "accumulation": 1, "mesh.data": -1,
    "mesh.tower": 1, "mesh.fc": 1, "dataset.image_size": 1, "dataset.workers": 0,
    "dataset.threads": 1, "network.towers": 1, "network.conv1_size": 1,
    "network.conv1_stride": 1, "network.response_depth": 1, "network.response_k": 1e-6,
    "network.response_alpha": 0, "network.response_beta": 0,
    "network.spatial_alpha": 0, "network.dropout": 0, "optimizer.momentum": 0,
    "optimizer.weight_decay": 0, "optimizer.rate": 0,
    "optimizer.bias_rate_multiple": 0, "optimizer.plateau_factor": 1,
    "optimizer.plateau_drops": 0, "optimizer.patience": 1, "augment.crop": 1,
    "augment.offsets": 1, "augment.crop_chunk": 1, "augment.colour_noise": 0,
    "augment.colour_noise_divisor": 1e-3,
}  # fmt: skip
BELOW = {"seed": 2**32, "network.dropout": 1, "optimizer.momentum": 1}
MOST = 2**31  # of whole numbers
FRACTIONS = re.compile(
    r"epochs|validate_every_epochs|network\.(response_(k|alpha|beta)|spatial_alpha"
    r"|dropout|stddevs|biases)|optimizer\.(momentum|weight_decay|rate|"
    r"bias_rate_multiple|plateau_factor)|augment\.colour_noise(_divisor)?"
)  # all other numbers are whole
LENGTHS = {
    "network.kernels": 5, "network.units": 2, "network.stddevs": 8, "network.biases": 8
}  # fmt: skip
OTHERS = (
    "dataset.train", "dataset.validation", "dataset.tfds_name",
    "augment.colour_noise_until_epoch",
)  # fmt: skip
DROPS = re.compile(
    r"optimizer\.(drops|layer_drops(\..*)?)"
)  # see experiment.make_schedule


def check_values(config: ml_collections.ConfigDict) -> None:
    """Checks every key of a config, alone and with its neighbours.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    values = flat(config)
    required = [*CHOICES, *LEAST, *LENGTHS, *OTHERS]
    for key in values:
        if key not in required and not DROPS.fullmatch(key):
            raise InputError(f"{key}: no such config key{nearest(key, required)}")
    for key in required:
        if key not in values:
            raise InputError(f"{key}: the config lacks this key; see configs/base.py")
    for key, allowed in CHOICES.items():
        one_of(values[key], allowed, key)
    for key, least in LEAST.items():
        _require_number(key, values[key], least)
    for key, length in LENGTHS.items():
        numbers = values[key]
        if not isinstance(numbers, list) or len(numbers) != length:
            raise InputError(f"{key}={numbers}: must be {length} numbers")
        for number in numbers:
            _require_number(key, number, -1e9 if "biases" in key else 0)
    for key in ("network.kernels", "network.units"):
        for width in values[key]:
            if width < 1 or width % config.network.towers:
                raise InputError(
                    f"{key}: {width} does not divide over network.towers="
                    f"{config.network.towers}"
                )
    _check_together(config)


def _require_number(key: str, value: Any, least: float) -> None:
    whole = not FRACTIONS.fullmatch(key)
    below = BELOW.get(key, MOST if whole else math.inf)
    numeric = isinstance(value, int if whole else int | float)
    if not numeric or isinstance(value, bool) or not least <= value < below:
        kind = "a whole number" if whole else "a number"
        upper = f" and below {below}" if math.isfinite(below) else ""
        raise InputError(f"{key}={value}: must be {kind}, {least} or more{upper}")


def _check_together(config: ml_collections.ConfigDict) -> None:
    """What single values do not tell."""
    network, augment, side = config.network, config.augment, config.dataset.image_size
    if not config.steps and not config.epochs:
        raise InputError("epochs=0.0, steps=0: nothing to do; set one of them")
    until = augment.colour_noise_until_epoch  # which may be infinite
    if not isinstance(until, int | float) or not until >= 0:
        raise InputError(f"augment.colour_noise_until_epoch={until}: must be 0 or more")
    if network.response_depth % 2 == 0:
        raise InputError(
            f"network.response_depth={network.response_depth}: must be odd"
        )
    if network.response_range == "layer" and config.mesh.tower > 1:
        raise InputError(
            f"mesh.tower={config.mesh.tower}: windows over the whole layer "
            "(network.response_range='layer') would cross between devices where the "
            "paper's GPUs did not talk; set mesh.tower=1 or response_range='tower'"
        )
    devices = config.mesh.tower * config.mesh.fc
    for width in network.units:
        if config.mesh.fc > 1 and width % devices:
            raise InputError(
                f"mesh.fc={config.mesh.fc}: network.units={width} does not divide over "
                f"mesh.tower·mesh.fc={devices} devices; change mesh.fc"
            )
    if augment.crop > side:
        raise InputError(
            f"augment.crop={augment.crop}: larger than the pictures, "
            f"dataset.image_size={side}"
        )
    if augment.offsets > side - augment.crop + 1:
        raise InputError(
            f"augment.offsets={augment.offsets}: a crop of {augment.crop} pixels "
            f"(augment.crop) has {side - augment.crop + 1} positions in {side} "
            "(dataset.image_size); give as many or fewer"
        )
    positions = 1 + math.ceil(
        (augment.crop - network.conv1_size) / network.conv1_stride
    )
    for _ in range(3):  # poolings
        positions = 1 + math.ceil((positions - 3) / 2)
    if augment.crop < network.conv1_size or positions < 1:
        raise InputError(
            f"augment.crop={augment.crop}: nothing would be left of it after conv5; "
            "set a larger one, or smaller network.conv1_size and network.conv1_stride"
        )
