"""What every reader of ImageNet must know: its splits, classes and official labels.

The labels of ILSVRC2012's validation images are the official ones, which TFDS carries.
"""

import enum
import importlib.resources
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np

from alexnet_jax.data.folders import (
    ClassFolders,
    Files,
    folders_in,
    images_below,
)
from alexnet_jax.errors import InputError

T = TypeVar("T")

CLASSES = 1000  # of every year


class Split(enum.StrEnum):
    """The parts of a data set: the only names that a split can have."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def open_folder(path: str | Path, key: str) -> Files:
    """The pictures in class folders, or the flat validation pictures of ILSVRC2012.

    The latter as its tar unpacks: ILSVRC2012_val_00000001.JPEG … in one folder.

    Args:
        path: the folder.
        key: the config key or flag that named it, for messages.

    Raises:
        InputError: there is no such folder, a class without pictures, or a number
            missing.
    """
    stem, folder = "ILSVRC2012_val", Path(path)
    if not any(folder.glob(f"{stem}_*.JPEG")) or folders_in(folder):
        return ClassFolders(path, key)
    truth, names = official_order(), official_classes()
    wanted = f"beside {stem}_00000001.JPEG … it must hold no pictures"
    found = [(file, file) for file in images_below(folder)]
    files = by_number(stem, found, len(truth), f"{key}={str(path)!r}", wanted)
    # All classes are used, but in a miniature.
    used, labels = np.unique(truth[: len(files)], return_inverse=True)
    classes = tuple(names[label] for label in used.tolist())
    return Files(path, classes, files, labels.tolist())


def by_number(
    stem: str,
    found: Iterable[tuple[str, T]],
    labelled: int,
    given: str,
    wanted: str,
) -> list[T]:
    """What goes by the names stem_00000001.JPEG …, in order: 1 … N without gaps.

    Labels go by number: where one is missing, is it the only thing that went wrong?
    """
    numbered: dict[int, T] = {}
    for name, picture in found:
        match = re.fullmatch(rf"{stem}_(\d{{8}})\.JPEG", name)
        if not match:
            raise InputError(f"{given}: holds {name!r}; {wanted}")
        number = int(match[1])
        if number in numbered:
            raise InputError(f"{given}: holds {name} twice; {wanted}")
        numbered[number] = picture
    if not numbered:
        raise InputError(f"{given}: holds no pictures; {wanted}")
    for number in range(1, max(numbered) + 1):
        if number not in numbered:
            raise InputError(
                f"{given}: number {number} is missing ({stem}_{number:08}.JPEG) of "
                f"1 to {max(numbered)}; copy or make it again"
            )
    if 0 in numbered or len(numbered) > labelled:
        raise InputError(
            f"{given}: holds numbers {min(numbered)} to {max(numbered)}, and there are "
            f"labels for 1 to {labelled}; {wanted}"
        )
    return [numbered[number] for number in sorted(numbered)]


def official_classes() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ILSVRC2012, in label order, which is sorted order."""
    return tuple(_carried_by_tfds("labels.txt"))


def official_order() -> list[int]:
    """The label of each validation picture of ILSVRC2012, by its number."""
    labels = {name: label for label, name in enumerate(official_classes())}
    return [labels[name] for name in _carried_by_tfds("validation_labels.txt")]


def _carried_by_tfds(name: str) -> list[str]:
    folder = importlib.resources.files("tensorflow_datasets")
    return (folder / "datasets" / "imagenet2012" / name).read_text().split()
