"""The pictures of a run: opened, looked at once, the unreadable ones left out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from alexnet_jax import processes
from alexnet_jax.cli import say
from alexnet_jax.data import prepared
from alexnet_jax.data.files import read_lines, write_lines
from alexnet_jax.data.images import Source, View
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import match_classes, open_source
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.data.survey import survey
from alexnet_jax.errors import InputError, PictureError


def open_pictures(
    config: ml_collections.ConfigDict,
    role: str,
    classes: tuple[str, ...] | None = None,
) -> Source:
    """The images of a config for 'train', 'validation' or 'test'.

    Args:
        config: its dataset.* keys.
        role: which of the three; dataset.validation also names the test images.
        classes: of the training, in label order; None where this is the training.
    """
    c = config.dataset
    named = "train" if role == "train" else "validation"
    key = f"dataset.{named}"
    source = open_source(
        c.source,
        c[named],
        role,
        key=key,
        image_size=c.image_size,
        seed=config.seed,
        tfds_name=c.tfds_name,
    )
    return source if classes is None else match_classes(source, classes, key)


def require_a_batch(training: Source, config: ml_collections.ConfigDict) -> None:
    """Checks that there are pictures for one batch.

    Raises:
        InputError: there are fewer.
    """
    if len(training) < config.batch_size:
        raise InputError(
            f"batch_size={config.batch_size}: more than the {len(training)} pictures "
            f"of dataset.train={config.dataset.train!r}; lower batch_size"
        )


def facts(training: Source, validation: Source) -> dict[str, Any]:
    """What all processes of a run must find where they look for pictures."""
    return {
        "the pictures of dataset.train": len(training),
        "the pictures of dataset.validation": len(validation),
        "the classes of dataset.train": list(training.classes),
    }


def surveyed(
    source: Source, config: ml_collections.ConfigDict, workdir: Path
) -> tuple[Source, Statistics]:
    """The readable training pictures and their statistics, looked at only once.

    Where `prepare` looked at them, its statistics are taken. Pictures that cannot be
    decoded are named in W/unreadable.txt and left out.
    """
    size = config.dataset.image_size
    kept, listed = workdir / "statistics.npz", workdir / "unreadable.txt"
    if not kept.exists() and processes.first():
        statistics = _prepared_statistics(config)
        unreadable: list[tuple[int, str]] = []
        if statistics is None:
            statistics, unreadable = survey(
                source, Square(size), workers=config.dataset.workers, progress=True
            )
        write_lines(listed, (f"{i}\t{why}" for i, why in unreadable))
        statistics.save(kept)
    processes.meet("statistics.npz")
    statistics = Statistics.load(kept)
    if statistics.mean_image.shape != (size, size, 3):
        raise InputError(
            f"{kept}: of pictures of {statistics.mean_image.shape[0]} pixels, not "
            f"dataset.image_size={size}; delete it, to look at the pictures again"
        )
    lines = read_lines(listed) if listed.exists() else []
    if not lines:
        return source, statistics
    say(f"{len(lines)} pictures cannot be decoded and are left out: {listed}")
    left_out = []
    for line in lines:
        i, _, why = line.partition("\t")
        if why_unreadable(source, int(i)).replace("\n", " ") != why:
            raise InputError(
                f"{listed}: the pictures of dataset.train={config.dataset.train!r} are "
                f"not those that it was written of ({why}); delete it and {kept.name}, "
                "to look at all of them again"
            )
        left_out.append(int(i))
    return View(source, np.delete(np.arange(len(source)), left_out)), statistics


def _prepared_statistics(config: ml_collections.ConfigDict) -> Statistics | None:
    """What `prepare` found of the same pictures, which can all be decoded."""
    if config.dataset.source != "records":
        return None
    path = prepared.statistics_of(config.dataset.train)
    return Statistics.load(path) if path else None


def why_unreadable(source: Source, i: int) -> str:
    """The name of a picture and why it cannot be decoded; '' where it can."""
    try:
        if i < len(source):
            Square(1).pixels(source[i])
    except PictureError as error:
        return str(error)
    return ""


def name_unreadable(source: Source, indices: Sequence[int], path: Path) -> None:
    """Writes why each of these pictures cannot be decoded, a line each."""
    write_lines(path, (f"{i}\t{why_unreadable(source, i)}" for i in indices))
    say(f"{len(indices)} pictures cannot be decoded and are left out: {path}")
