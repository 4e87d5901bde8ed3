"""ImageNet as its makers hand it out: the tars of ILSVRC2012 and ILSVRC2010.

What must lie in one folder, under the names of the download pages:

    ILSVRC2012_img_train.tar    a tar of class tars, n01440764.tar …
    ILSVRC2012_img_val.tar      ILSVRC2012_val_00000001.JPEG …

or

    ILSVRC2010_images_train.tar, ILSVRC2010_images_val.tar, ILSVRC2010_images_test.tar
    ILSVRC2010_devkit-1.0.tar.gz            or its data/ unpacked: meta.mat and
                                            ILSVRC2010_validation_ground_truth.txt
    ILSVRC2010_test_ground_truth.txt        for the test tar
    patch_images.tar                        pictures that replace those of the same name

A split whose tar is not there is left out. The labels of ILSVRC2012's validation
pictures are the official ones, which TFDS carries; they may also lie unpacked, flat in
a folder.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from alexnet_jax.data.ilsvrc import (
    CLASSES,
    Split,
    by_number,
    official_classes,
    official_order,
)
from alexnet_jax.data.tars import Member, TarPictures, walk
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import devkit

# How many pictures there are officially.
OFFICIAL = {
    "ILSVRC2012": {Split.TRAIN: 1_281_167, Split.VALIDATION: 50_000},
    "ILSVRC2010": {
        Split.TRAIN: 1_261_406,
        Split.VALIDATION: 50_000,
        Split.TEST: 150_000,
    },
}
TARS = {
    "ILSVRC2012": {
        Split.TRAIN: "ILSVRC2012_img_train.tar",
        Split.VALIDATION: "ILSVRC2012_img_val.tar",
    },
    "ILSVRC2010": {
        Split.TRAIN: "ILSVRC2010_images_train.tar",
        Split.VALIDATION: "ILSVRC2010_images_val.tar",
        Split.TEST: "ILSVRC2010_images_test.tar",
    },
}
PATCHES = "patch_images.tar"  # of ILSVRC2010
WORDS = {Split.TRAIN: "train", Split.VALIDATION: "val", Split.TEST: "test"}
KEY = "--source"


def tars_in(folder: Path) -> tuple[str, dict[Split, Path]]:
    """Which year's tars lie in a folder, and which of them; ('', {}) if none.

    Raises:
        InputError: the tars of both years.
    """
    found = {
        year: {s: folder / n for s, n in names.items() if (folder / n).exists()}
        for year, names in TARS.items()
    }
    years = [year for year, tars in found.items() if tars]
    if len(years) > 1:
        raise InputError(
            f"{KEY}={str(folder)!r}: holds tars of {' and of '.join(years)}; "
            "put them into two folders"
        )
    return (years[0], found[years[0]]) if years else ("", {})


def open_tar(year: str, split: Split, tar: Path) -> TarPictures:
    """The pictures of one tar, labelled, in order of class and name or of number.

    Args:
        year: 'ILSVRC2012' or 'ILSVRC2010'.
        split: which of its tars.
        tar: the file; what else is needed lies beside it.

    Raises:
        InputError: not that tar, not a whole one, or without its labels.
    """
    word = WORDS[split]
    if year == "ILSVRC2012":
        classes = official_classes()
        truth = official_order() if split == Split.VALIDATION else []
    else:
        classes, by_id = devkit.synsets(tar.parent, CLASSES, KEY)
        truth = []
        if split != Split.TRAIN:
            truth = devkit.truth(tar.parent, devkit.TRUTH[word], by_id, KEY)
    if split == Split.TRAIN:
        members, labels = _class_tars(year, tar, classes)
    else:
        members = _numbered(f"{year}_{word}", tar, len(truth))
        labels = truth[: len(members)]
    if year == "ILSVRC2010":
        members = _patched(members, tar.parent / PATCHES, word)
    return TarPictures(classes, members, labels)


def _patched(members: Sequence[Member], tar: Path, word: str) -> Sequence[Member]:
    """Pictures, some of them replaced by those that ILSVRC2010's makers gave later.

    Args:
        members: the pictures.
        tar: patch_images.tar, which may be missing.
        word: the folder in it.

    Raises:
        InputError: not that tar.
    """
    if not tar.exists():
        return members
    given = f"{KEY}: {str(tar)!r}"
    wanted = "it must be ILSVRC2010's, with pictures in train/, val/ and test/"
    better: dict[str, dict[str, Member]] = {word: {} for word in WORDS.values()}
    for info in walk(tar, given, wanted):
        place = PurePosixPath(info.name)
        if info.isreg() and place.parent.name in better:
            better[place.parent.name][place.name] = Member.of(info.name, tar, info)
    if not any(better.values()):
        raise InputError(f"{given}: holds no pictures; {wanted}")
    return [better[word].get(m.name.rpartition("/")[2], m) for m in members]


def _class_tars(
    year: str, path: Path, classes: tuple[str, ...]
) -> tuple[Sequence[Member], Sequence[int]]:
    """The pictures of a tar of class tars, and their labels."""
    given = f"{KEY}: {str(path)!r}"
    wanted = f"it must be the tar of class tars, {classes[0]}.tar …, of {year}"
    label_of = {f"{name}.tar": label for label, name in enumerate(classes)}
    found = []
    inner_tars = walk(path, given, wanted)
    shown = tqdm(inner_tars, path.name, unit=" class tars", disable=None)  # minutes
    for inner in shown:
        name = PurePosixPath(inner.name).name
        if inner.isdir():
            continue
        if not inner.isreg() or name not in label_of:
            raise InputError(f"{given}: holds {inner.name!r}; {wanted}")
        stop = inner.offset_data + inner.size
        where = f"{given}: {name}"
        for info in walk(path, where, wanted, inner.offset_data, stop):
            if info.isreg():
                inside = f"{name}/{PurePosixPath(info.name).name}"
                found.append((label_of[name], Member.of(inside, path, info)))
    if not found:
        raise InputError(f"{given}: holds no pictures; {wanted}")
    found.sort()
    for (_, one), (_, other) in itertools.pairwise(found):
        if one.name == other.name:
            raise InputError(f"{given}: holds {one.name} twice; {wanted}")
    labels, members = zip(*found, strict=True)
    return members, labels


def _numbered(stem: str, path: Path, labelled: int) -> list[Member]:
    """The pictures stem_00000001.JPEG … of a flat tar, which must be 1 … N."""
    given = f"{KEY}: {str(path)!r}"
    wanted = f"it must be the tar of {stem}_00000001.JPEG …"
    found = []
    for info in walk(path, given, wanted):
        if info.isreg():
            name = PurePosixPath(info.name).name
            found.append((name, Member.of(name, path, info)))
        elif not info.isdir():
            raise InputError(f"{given}: holds {info.name!r}; {wanted}")
    return by_number(stem, found, labelled, given, wanted)
