"""Config → images: the sources, their statistics, and batches of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import processes
from alexnet_jax.cli import say
from alexnet_jax.data import prepared
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.files import read_lines, write_lines
from alexnet_jax.data.images import Source, View
from alexnet_jax.data.loader import Batches, evaluation_batches, training_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import match_classes, open_source
from alexnet_jax.data.statistics import Statistics, survey
from alexnet_jax.errors import ImageError, InputError


def open_images(
    config: ConfigDict, role: str, classes: Sequence[str] | None = None
) -> Source:
    """The images of a config.

    Args:
        config: its dataset.* keys.
        role: 'train', 'validation', or 'test': the test split of the data set that
            dataset.validation names.
        classes: of the training images, in label order; None to open these.
    """
    c = config.dataset
    key = "dataset.train" if role == "train" else "dataset.validation"
    source = open_source(
        c.source,
        c.train if role == "train" else c.validation,
        role,
        key=key,
        image_size=c.image_size,
        seed=config.seed,
        tfds_name=c.tfds_name,
    )
    return source if classes is None else match_classes(source, tuple(classes), key)


def require_a_batch(training: Source, config: ConfigDict) -> None:
    """Check that there are images for one batch."""
    if len(training) < config.batch_size:
        raise InputError(
            f"batch_size={config.batch_size}: more than the {len(training)} images of "
            f"dataset.train={config.dataset.train!r}; lower batch_size"
        )


def make_square(config: ConfigDict) -> Square:
    """The squares of §2 in the size that a config names."""
    return Square(config.dataset.image_size, config.dataset.exif_rotation)


def make_augmentation(
    config: ConfigDict, statistics: Statistics, images: int
) -> Augmentation:
    """The augmentation of §4.1 for so many training images."""
    c = config.augment
    return Augmentation(
        seed=config.seed,
        crop=c.crop,
        offsets=c.offsets,
        chunk=c.crop_chunk,
        reflect=c.reflect,
        noise=c.colour_noise,
        noise_until=int(min(c.colour_noise_until_epoch * images, np.iinfo("i8").max)),
        noise_divisor=1 + c.colour_noise if c.rescale_noisy else 1.0,
        color_stddev=tuple(statistics.color_stddev.tolist()),
        color_axes=tuple(map(tuple, statistics.color_axes.tolist())),
    )


def training_input(
    config: ConfigDict,
    source: Source,
    statistics: Statistics,
    part: tuple[int, int],
    start_step: int = 0,
) -> Batches:
    """The `training_batches` of a process with this `parallel.process_part`."""
    return training_batches(
        source,
        make_square(config),
        make_augmentation(config, statistics, len(source)),
        batch_size=config.batch_size,
        start_step=start_step,
        process_index=part[0],
        process_count=part[1],
        seed=config.seed,
        threads=_threads(config),
    )


def evaluation_input(
    config: ConfigDict, source: Source, part: tuple[int, int], allow_unreadable: bool
) -> Batches:
    """The `evaluation_batches` of a process with this `parallel.process_part`."""
    return evaluation_batches(
        source,
        make_square(config),
        batch_size=config.batch_size // config.accumulation,
        process_index=part[0],
        process_count=part[1],
        threads=_threads(config),
        allow_unreadable=allow_unreadable,
    )


def _threads(config: ConfigDict) -> int:
    return config.dataset.threads or len(os.sched_getaffinity(0))


def surveyed(
    source: Source, config: ConfigDict, workdir: Path
) -> tuple[Source, Statistics]:
    """The readable training images and their statistics, computed only once.

    The statistics of a prepared folder are taken where there is one. Images that cannot
    be decoded are listed in W/unreadable.txt and left out.
    """
    c = config.dataset
    kept, listed = workdir / "statistics.npz", workdir / "unreadable.txt"
    if not kept.exists() and processes.first():
        unreadable: list[tuple[int, str]] = []
        done = prepared.statistics_of(c.train) if c.source == "records" else None
        if done:
            statistics = Statistics.load(done)
        else:
            say(f"reading {len(source):,} images once, for {kept.name}")
            statistics, unreadable = survey(source, make_square(config), progress=True)
        write_lines(listed, (f"{i}\t{why}" for i, why in unreadable))
        statistics.save(kept)
    processes.meet("statistics.npz")
    statistics = Statistics.load(kept)
    if len(statistics.mean_image) != c.image_size:
        raise InputError(
            f"{kept}: of images of {len(statistics.mean_image)} pixels, not "
            f"dataset.image_size={c.image_size}; delete it to compute the statistics "
            "again"
        )
    left_out = []
    for line in read_lines(listed) if listed.exists() else []:
        i, _, why = line.partition("\t")
        if why_unreadable(source, int(i)).replace("\n", " ") != why:
            raise InputError(
                f"{listed}: was written for other images than those of dataset.train="
                f"{c.train!r} ({why}); delete it and {kept.name} to compute the "
                "statistics again"
            )
        left_out.append(int(i))
    if not left_out:
        return source, statistics
    say(f"{len(left_out)} images cannot be decoded and are left out: {listed}")
    return View(source, np.delete(np.arange(len(source)), left_out)), statistics


def why_unreadable(source: Source, i: int) -> str:
    """The name of an image and why it cannot be decoded; '' where it can."""
    try:
        if i < len(source):
            Square(1).pixels(source[i])
    except ImageError as error:
        return str(error)
    return ""


def name_unreadable(source: Source, indices: Sequence[int], path: Path) -> None:
    """Write why each of these images cannot be decoded, a line each."""
    write_lines(path, (f"{i}\t{why_unreadable(source, i)}" for i in indices))
    say(f"{len(indices)} images cannot be decoded and are left out: {path}")
