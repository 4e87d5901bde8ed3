"""ILSVRC: its splits, its classes and the official labels, which TFDS ships."""

import enum
import importlib.resources
import re
from collections.abc import Iterable
from typing import TypeVar

from alexnet_jax.errors import InputError, NotInstalledError

T = TypeVar("T")

CLASSES = 1000  # in every year


class Split(enum.StrEnum):
    """The splits of a data set, by the only names that they can have."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def by_number(
    stem: str, found: Iterable[tuple[str, T]], labelled: int, given: str, wanted: str
) -> list[T]:
    """The items found under the names stem_00000001.JPEG …, sorted by number.

    The numbers must be 1 … N, at most the number of labels: labels are assigned by
    number, and after a gap they might be wrong. `given` and `wanted` are for messages.
    """
    numbered: dict[int, T] = {}
    for name, image in found:
        match = re.fullmatch(rf"{stem}_(\d{{8}})\.JPEG", name)
        if not match:
            raise InputError(f"{given}: holds {name!r}; {wanted}")
        number = int(match[1])
        if number in numbered:
            raise InputError(f"{given}: holds {name} twice; {wanted}")
        numbered[number] = image
    if not numbered:
        raise InputError(f"{given}: holds no images; {wanted}")
    for number in range(1, max(numbered) + 1):
        if number not in numbered:
            raise InputError(
                f"{given}: number {number} is missing ({stem}_{number:08}.JPEG) of "
                f"1 to {max(numbered)}; copy or make it again"
            )
    if 0 in numbered or len(numbered) > labelled:
        raise InputError(
            f"{given}: holds numbers {min(numbered)} to {max(numbered)}, but there are "
            f"labels for 1 to {labelled}; {wanted}"
        )
    return [numbered[number] for number in sorted(numbered)]


def official_classes() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ILSVRC2012 in label order, which is sorted order."""
    return tuple(_words_in_tfds("labels.txt"))


def official_order() -> list[int]:
    """The labels of ILSVRC2012's validation images, by number."""
    labels = {name: label for label, name in enumerate(official_classes())}
    return [labels[name] for name in _words_in_tfds("validation_labels.txt")]


def _words_in_tfds(name: str) -> list[str]:
    try:
        folder = importlib.resources.files("tensorflow_datasets")
    except ModuleNotFoundError:
        raise NotInstalledError("ILSVRC2012's classes and labels", "tfds") from None
    return (folder / "datasets" / "imagenet2012" / name).read_text().split()
