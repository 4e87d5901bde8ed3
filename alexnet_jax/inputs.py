"""Config → images: the sources, their statistics, and batches of a run."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import processes
from alexnet_jax.cli import explain, say
from alexnet_jax.data import held_out, prepared
from alexnet_jax.data.augment import Augmentation
from alexnet_jax.data.files import read_lines, write_lines
from alexnet_jax.data.images import SAMPLED, Source, View
from alexnet_jax.data.loader import Batches, evaluation_batches, training_batches
from alexnet_jax.data.preprocess import Square, open_image
from alexnet_jax.data.sources import match_classes, open_source
from alexnet_jax.data.statistics import Statistics, survey
from alexnet_jax.errors import ImageError, InputError

LARGE = 8  # times dataset.image_size: from where decoding is most of the work


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
    divided = role != "test" and holds_out(config)
    key = "dataset.train" if role == "train" or divided else "dataset.validation"
    if role == "validation" and not divided and not c.validation:
        raise InputError(
            "dataset.validation='': names nothing to read; set dataset.validation, or "
            "dataset.held_out=0.1 to validate on a tenth of the training images"
        )
    source = open_source(
        c.source,
        c.train if key == "dataset.train" else c.validation,
        "train" if divided else role,
        key=key,
        image_size=c.image_size,
        seed=config.seed,
        tfds_name=c.tfds_name,
    )
    if divided:
        training, validation = held_out.split(source, c.held_out)
        source = training if role == "train" else validation
    return source if classes is None else match_classes(source, tuple(classes), key)


def holds_out(config: ConfigDict) -> bool:
    """Whether a part of the training images is for validation."""
    return bool(config.dataset.held_out) and not config.dataset.validation


def require_a_batch(training: Source, config: ConfigDict) -> None:
    """Check that there are images for one batch."""
    if len(training) < config.batch_size:
        fits = 1 << (len(training).bit_length() - 1)  # divides over most meshes
        raise InputError(
            f"batch_size={config.batch_size}: more than the {len(training)} images of "
            f"dataset.train={config.dataset.train!r}; set batch_size={fits} or less"
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
    part: tuple[int, int] = (0, 1),
    start_step: int = 0,
) -> Batches:
    """Endless batches of a config: shuffled, cropped and coloured as §4.1 says.

    Args:
        config: see alexnet_jax/config.py.
        source: the training images, of `open_images`.
        statistics: their colours.
        part: (index, count) of the share of each batch; see `parallel.process_part`.
        start_step: the first batch to give.

    Returns:
        The iterator of `data.loader.training_batches`, to be closed.
    """
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
    config: ConfigDict,
    source: Source,
    part: tuple[int, int] = (0, 1),
    allow_unreadable: bool = False,
) -> Batches:
    """Every image once, in order, in batches of a config.

    Args:
        config: see alexnet_jax/config.py.
        source: the images, of `open_images`.
        part: as for `training_input`.
        allow_unreadable: gives an image that cannot be decoded weight 0.

    Returns:
        The iterator of `data.loader.evaluation_batches`, to be closed.
    """
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

    The statistics of a prepared folder are taken where it is used as a whole, and those
    of start.checkpoint where start.statistics says so. Images that cannot be decoded
    are listed in W/unreadable.txt and left out.
    """
    c = config.dataset
    kept, listed = workdir / "statistics.npz", workdir / "unreadable.txt"
    if not kept.exists() and processes.first():
        unreadable: list[tuple[int, str]] = []
        done = None
        if c.source == "records" and not holds_out(config):
            done = prepared.statistics_of(os.path.expanduser(c.train))
        if done:
            statistics = Statistics.load(done)
        else:
            for hint in size_hints(source, config):
                explain(hint)
            say(f"reading {len(source):,} images once, for {kept.name}")
            statistics, unreadable = survey(source, make_square(config), progress=True)
        if config.start.statistics:
            statistics = statistics_to_start_from(config)
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
        here = why_unreadable(source, int(i)) if i.isdecimal() else ""
        # But for the folders, for the images may have moved.
        if not here or here.rpartition("/")[2] != why.rpartition("/")[2]:
            raise InputError(
                f"{listed}: is damaged, or of other images than those of dataset.train="
                f"{c.train!r} ({why}); delete it and {kept.name} to compute the "
                "statistics again"
            )
        left_out.append(int(i))
    if not left_out:
        return source, statistics
    say(
        f"{len(left_out)} images cannot be decoded and are left out: {listed}, such as "
        f"{why_unreadable(source, left_out[0])}"
    )
    return View(source, np.delete(np.arange(len(source)), left_out)), statistics


def statistics_to_start_from(config: ConfigDict) -> Statistics:
    """The statistics of the run in start.checkpoint."""
    where, size = config.start.checkpoint, config.dataset.image_size
    statistics = Statistics.load(Path(os.path.expanduser(where)) / "statistics.npz")
    if len(statistics.mean_image) != size:
        raise InputError(
            f"start.checkpoint={where!r}: its mean image has "
            f"{len(statistics.mean_image)} pixels, and dataset.image_size={size}; set "
            "that to the same, or start.statistics=False"
        )
    return statistics


def size_hints(source: Source, config: ConfigDict) -> Iterator[str]:
    """Lines about images whose size does not fit the network, by a sample of them."""
    size, path = config.dataset.image_size, config.dataset.train
    sample = np.linspace(0, len(source) - 1, SAMPLED).astype(int).tolist()
    sides = [side for i in sample if (side := shorter_side(source, i))]
    middle = int(np.median(sides)) if sides else size
    if middle < size and not config.start.checkpoint:
        yield (
            f"images: half of them have {middle} pixels or fewer on the shorter side; "
            f"dataset.image_size={size} enlarges them, which adds no detail"
        )
    if middle >= LARGE * size and config.dataset.source == "folder":
        yield (
            f"images: half of them have {middle:,} pixels or more on the shorter side, "
            "and decoding them takes most of the time; make them small once: python -m "
            f"alexnet_jax.prepare --source={path} --destination=DIR --image_size={size}"
        )


def shorter_side(source: Source, i: int) -> int:
    """The shorter side of an image in pixels; 0 where it cannot be read."""
    try:
        _, image, _ = source[i]
        if not isinstance(image, bytes):
            return min(image.shape[:2])
        with open_image(image) as opened:
            return min(opened.size)
    except ImageError:
        return 0
    except InputError:  # the disk is away
        raise
    except Exception:  # of Pillow's decoders
        return 0


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
