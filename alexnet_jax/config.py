"""Every field of a config, once: value, unit and source, bound, may it change.

A config file beside your data needs one line of this package:

    from alexnet_jax.config import base_config

§ are sections of the paper, 'code' is the 2012 source (docs/sources.md).
"""

import enum
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.values import (
    choice,
    each,
    flat,
    nearest,
    number,
    padding,
    rows,
    text,
    whole,
)


class Change(enum.Enum):
    """Until when a run's value may be replaced by another one."""

    ANY_TIME = "it cannot change the result"
    LONGER = "only to prolong a run that has a checkpoint"
    UNTRAINED = "until the first checkpoint"
    MOVED = "while the images are the same, wherever they lie"
    NEVER = "the statistics of the images depend on it"


class Field(NamedTuple):
    """One key of a config."""

    value: Any  # the paper's
    source: str  # unit and source
    bound: Callable[[Any], str]  # value → what it must be; '' where it is
    change: Change = Change.UNTRAINED


flag = choice(False, True)
ANY, LONGER = Change.ANY_TIME, Change.LONGER
MOVED, NEVER = Change.MOVED, Change.NEVER
N = AlexNet  # whose attributes are the paper's network

SECTIONS: Mapping[str, Mapping[str, Field]] = {
    "": {
        "seed": Field(0, "weights, dropout, image order, augmentation",
                      whole(0, 2**32), NEVER),
        "batch_size": Field(128, "images a step, over all devices (§5)", whole(1)),
        "accumulation": Field(1, "micro-batches a step, in sequence", whole(1), ANY),
        "epochs": Field(90.0, "§5: roughly 90 cycles", number(0), LONGER),
        "steps": Field(0, "in all; 0: take epochs", whole(0), LONGER),
        "validate_every_epochs": Field(1.0, "0: at the end only", number(0)),
        "log_every_steps": Field(20, "steps that a line averages", whole(1), ANY),
        "log_norms_every_steps": Field(0, "norms of weights and their steps; 0: never",
                                       whole(0), ANY),
        "log_to": Field((), "more than metrics.jsonl: 'tensorboard', 'wandb'",
                        each(choice("tensorboard", "wandb")), ANY),
        "checkpoint_every_steps": Field(1000, "steps", whole(1), ANY),
        "checkpoints_to_keep": Field(3, "the newest; the best is kept too", whole(1),
                                     ANY),
        "precision": Field("float32", "of the computation; float64 is for proofs",
                           choice("float32", "bfloat16", "float64")),
    },
    "start": {
        "checkpoint": Field("", "work directory to take the first weights from; "
                            "'': random (§5)", text),
        "fresh": Field((), "layers that start at random all the same", each(text)),
        "statistics": Field(False, "subtract the mean image of start.checkpoint, not "
                            "that of these images; the colours likewise", flag, NEVER),
    },
    "mesh": {
        "data": Field(-1, "replicas; −1: all devices left", whole(-1), ANY),
        "tower": Field(1, "devices a replica; 2: one a tower (§3.2)", whole(1), ANY),
        "fc": Field(1, "replicas that share fc6 to fc8 ('One weird trick', 2014)",
                    whole(1), ANY),
    },
    "dataset": {
        "source": Field("folder", "kind of storage",
                        choice("generated", "folder", "records", "tfds"), NEVER),
        "train": Field("", "class folders, plain tar, prepared folder, split of TFDS, "
                       "or how many images to generate", text, MOVED),
        "validation": Field("", "the same", text, MOVED),
        "held_out": Field(0.0, "share of each class of train that validates where "
                          "validation is ''; 0: none", number(0, 1), NEVER),
        "tfds_name": Field("", "such as 'imagenet2012'", text, NEVER),
        "image_size": Field(256, "pixels; side of the squares (§2)", whole(1), NEVER),
        "exif_rotation": Field(True, "turn images upright; 2012: unknown", flag, NEVER),
        "threads": Field(0, "that decode; 0: one for each core", whole(0, 1025), ANY),
    },
    "network": {
        "layers": Field(N.layers, "the stages of Figure 2, in order", each(text)),
        "kernels": Field(N.kernels, "maps of each convolution (§3.5)", each(whole(1))),
        "sizes": Field(N.sizes, "pixels; sides of kernels (§3.5)", each(whole(1))),
        "strides": Field(N.strides, "pixels (§3.5)", each(whole(1))),
        "paddings": Field(N.paddings, "pixels on each side, or (before, behind) (code)",
                          each(padding)),
        "units": Field(N.units, "of fc6 and fc7 (§3.5)", each(whole(1))),
        "towers": Field(N.towers, "§3.2", whole(1)),
        "pool_size": Field(N.pool_size, "pixels; z of §3.4", whole(1)),
        "pool_stride": Field(N.pool_stride, "pixels; s of §3.4", whole(1)),
        "response_depth": Field(N.response_depth, "maps; n of §3.3", whole(1)),
        "response_k": Field(N.response_k, "§3.3", number(1e-6)),
        "response_alpha": Field(N.response_alpha, "§3.3; code: α/n = 2e-5", number(0)),
        "response_beta": Field(N.response_beta, "§3.3", number(0)),
        "response_range": Field(N.response_range, "'layer': N of §3.3; 'tower': code",
                                choice("tower", "layer")),
        "spatial_size": Field(N.spatial_size, "pixels; of 'normalise_within_maps' "
                              "(code)", whole(1)),
        "spatial_alpha": Field(N.spatial_alpha, "of 'normalise_within_maps' (code)",
                               number(0)),
        "batch_group": Field(N.batch_group, "images that 'batch_normalise' takes "
                             "together", whole(2)),
        "stddevs": Field(N.stddevs, "conv1 to fc8 (§5); code: 0.03 in conv3 to conv5",
                         each(number(0))),
        "biases": Field(N.biases, "conv1 to fc8 (§5)", each(number(-1e9))),
        "dropout": Field(N.dropout, "of fc6 and fc7 (§4.2)", number(0, 1)),
    },
    "optimizer": {
        "momentum": Field(0.9, "§5", number(0, 1)),
        "weight_decay": Field(0.0005, "of weights, not of biases (§5)", number(0)),
        "layer_decays": Field((), "rows of (layer, decay), which override weight_decay",
                              rows),
        "rate": Field(0.01, "learning rate of weights at the start (§5)", number(0)),
        "bias_rate_multiple": Field(1.0, "§5: equal in all layers; code: 2", number(0)),
        "trust": Field(0.0, "η of LARS' rates by layer (You, 2017: 0.001); 0: §5",
                       number(0)),
        "schedule": Field("plateau", "§5; 'epochs': drops; 'polynomial': You, 2017",
                          choice("plateau", "epochs", "polynomial")),
        "power": Field(2.0, "of the share left of a 'polynomial' run", number(0)),
        "warmup_epochs": Field(0.0, "in which a 'polynomial' rate rises", number(0)),
        "plateau_factor": Field(10.0, "§5", number(1, 1e6)),
        "plateau_drops": Field(3, "§5; the next plateau ends the training",
                               whole(0, 51)),
        "patience": Field(3, "validations with no better error (not in §5)", whole(1)),
        "drops": Field((), "rows of (epoch, weight rate, bias rate)", rows),
        "layer_drops": Field((), "rows of (layer, epoch, weight rate, bias rate), "
                             "which override drops; 0: frozen", rows),
    },
    "augment": {
        "crop": Field(224, "pixels; side of the network's input (§4.1)", whole(1)),
        "offsets": Field(32, "a side: 32·32·2 = 2048 (§4.1); code: 33", whole(1)),
        "crop_chunk": Field(1, "images that share crop and flip; code: 32", whole(1)),
        "reflect": Field(True, "§4.1", flag),
        "mean_at": Field("crop", "§2: 'crop'; code: 'centre', whatever the crop",
                         choice("crop", "centre")),
        "colour_noise": Field(0.1, "standard deviations (§4.1)", number(0)),
        "rescale_noisy": Field(False, "code: noisy pixels / (1 + colour_noise)", flag),
        "colour_noise_until_epoch": Field(1e9, "code: stopped by hand at 67",
                                          number(0, infinite=True)),
    },
}  # fmt: skip
FIELDS: Mapping[str, Field] = {
    f"{section}.{name}".lstrip("."): field
    for section, fields in SECTIONS.items()
    for name, field in fields.items()
}


def base_config() -> ConfigDict:
    """All fields at the paper's values; the data is left to be named."""
    tree = {
        s: {n: f.value for n, f in fields.items()} for s, fields in SECTIONS.items()
    }
    return ConfigDict({**tree.pop(""), **tree})


def get_config(path: str = "") -> ConfigDict:
    """This file is a config file too: the paper's, or that of a config.json."""
    if not path:
        return base_config()
    return parsed(Path(path).read_text(errors="replace"), path)


def shared_by_processes(config: ConfigDict) -> dict[str, Any]:
    """The values that must be the same in all processes of a run."""
    return {k: v for k, v in flat(config).items() if k != "dataset.threads"}


def check_fields(values: Mapping[str, Any]) -> None:
    """Check that the flat values of a config are of these fields, and within bounds."""
    for key in sorted(values.keys() - FIELDS.keys()):
        raise InputError(f"{key}: no such config key{nearest(key, FIELDS)}")
    for key, field in FIELDS.items():
        if key not in values:
            raise InputError(
                f"{key}: the config lacks this key; start from "
                "alexnet_jax.config.base_config()"
            )
        if complaint := field.bound(values[key]):
            raise InputError(f"{key}={values[key]!r}: {complaint}")


def parsed(text: str, where: str) -> ConfigDict:
    """The config of a config.json, of this version or an earlier one.

    Args:
        text: of the file.
        where: the file's name, for messages.
    """
    try:
        values = _upgraded(flat(ConfigDict(json.loads(text))))
    except KeyError as error:
        raise InputError(
            f"{where}: lacks the key {error}; restore or delete it"
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{where}: not the JSON of a config ({error}); restore or delete it"
        ) from None
    config = base_config()
    try:
        if missing := [key for key in FIELDS if key not in values]:
            raise InputError(f"lacks the key {missing[0]}; restore or delete it")
        check_fields(values)
        config.update_from_flattened_dict(values)
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{where}: {error}") from None
    return config


ADDED = (  # to the fields of 590dde5 and before; at these values nothing changes
    *("mesh.fc", "accumulation", "optimizer.layer_drops", "optimizer.layer_decays"),
    *("dataset.exif_rotation", "network.spatial_size"),
    *("start.checkpoint", "start.fresh", "start.statistics", "dataset.held_out"),
    *("log_to", "log_norms_every_steps"),
    *("optimizer.trust", "optimizer.power", "optimizer.warmup_epochs"),
    "network.batch_group",
)


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Values by key of an earlier version, such as 'network.conv1_size', as today's."""
    new = {key: FIELDS[key].value for key in ADDED} | values
    new.pop("dataset.workers", None)  # processes that decoded
    if "network.conv1_size" in new:
        new["network.sizes"] = [new.pop("network.conv1_size"), *N.sizes[1:]]
        new["network.strides"] = [new.pop("network.conv1_stride"), *N.strides[1:]]
        layers = list(N.layers)
        if new.pop("network.normalise_before_relu"):
            layers[1:4] = ["normalise", "pool", "relu"]
        if new["network.spatial_alpha"]:
            layers.insert(layers.index("conv2") + 3, "normalise_within_maps")
        else:
            new["network.spatial_alpha"] = N.spatial_alpha  # of no layer
        new["network.layers"] = layers
        for name in ("paddings", "pool_size", "pool_stride"):
            new[f"network.{name}"] = FIELDS[f"network.{name}"].value
    if "augment.colour_noise_divisor" in new:
        new["augment.rescale_noisy"] = new.pop("augment.colour_noise_divisor") != 1
    if by_layer := [key for key in new if key.startswith("optimizer.layer_drops.")]:
        new["optimizer.layer_drops"] = [
            [key.rpartition(".")[2], *row] for key in by_layer for row in new.pop(key)
        ]
    return new
