"""ImageNet as its makers hand it out: the tars of ILSVRC2012 and ILSVRC2010.

What must lie in one folder, under the names of the download pages:

    ILSVRC2012_img_train.tar    a tar of class tars, n01440764.tar …
    ILSVRC2012_img_val.tar      ILSVRC2012_val_00000001.JPEG …

or

    ILSVRC2010_images_train.tar, ILSVRC2010_images_val.tar, ILSVRC2010_images_test.tar
    ILSVRC2010_devkit-1.0.tar.gz            or its data/ unpacked: meta.mat and
                                            ILSVRC2010_validation_ground_truth.txt
    ILSVRC2010_test_ground_truth.txt        for the test tar

A split whose tar is not there is left out. The labels of ILSVRC2012's validation
pictures are the official ones, which TFDS carries.
"""

import enum
import importlib.resources
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from alexnet_jax.data.tars import Member, TarPictures, walk
from alexnet_jax.errors import InputError

CLASSES = 1000


class Split(enum.StrEnum):
    """The parts of a data set: the only names that a split can have."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


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
DEVKIT = "ILSVRC2010_devkit-1.0.tar.gz"
META = "meta.mat"
TRUTH = {
    Split.VALIDATION: "ILSVRC2010_validation_ground_truth.txt",
    Split.TEST: "ILSVRC2010_test_ground_truth.txt",
}
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
    if year == "ILSVRC2012":
        classes = official_classes()
        truth = _official_order() if split == Split.VALIDATION else []
    else:
        classes, by_id = _synsets(tar.parent)
        truth = [] if split == Split.TRAIN else _truth(tar.parent, split, by_id)
    if split == Split.TRAIN:
        return _class_tars(year, tar, classes)
    return _numbered(f"{year}_{_word(split)}", tar, classes, truth)


def _class_tars(year: str, path: Path, classes: tuple[str, ...]) -> TarPictures:
    """The pictures of a tar of class tars."""
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
                member = Member(inside, info.offset_data, info.size)
                found.append((label_of[name], member))
    if not found:
        raise InputError(f"{given}: holds no pictures; {wanted}")
    found.sort()
    labels, members = zip(*found, strict=True)
    return TarPictures(path, classes, members, labels)


def _numbered(
    stem: str, path: Path, classes: tuple[str, ...], truth: Sequence[int]
) -> TarPictures:
    """The pictures stem_00000001.JPEG … of a flat tar, which must be 1 … N."""
    given = f"{KEY}: {str(path)!r}"
    wanted = f"it must be the tar of {stem}_00000001.JPEG …"
    members: dict[int, Member] = {}
    for info in walk(path, given, wanted):
        name = PurePosixPath(info.name).name
        match = re.fullmatch(rf"{stem}_(\d{{8}})\.JPEG", name)
        if info.isdir():
            continue
        if not info.isreg() or not match:
            raise InputError(f"{given}: holds {info.name!r}; {wanted}")
        number = int(match[1])
        if number in members:
            raise InputError(f"{given}: holds {name} twice; {wanted}")
        members[number] = Member(name, info.offset_data, info.size)
    if not members:
        raise InputError(f"{given}: holds no pictures; {wanted}")
    # Labels go by number: where one is missing, is it the only thing that went wrong?
    for number in range(1, max(members) + 1):
        if number not in members:
            raise InputError(
                f"{given}: number {number} is missing ({stem}_{number:08}.JPEG) of "
                f"1 to {max(members)}; copy or make the tar again"
            )
    if 0 in members or len(members) > len(truth):
        raise InputError(
            f"{given}: holds numbers {min(members)} to {max(members)}, and there are "
            f"labels for 1 to {len(truth)}; {wanted}"
        )
    numbers = sorted(members)
    labels = [truth[number - 1] for number in numbers]
    return TarPictures(path, classes, [members[n] for n in numbers], labels)


def _word(split: Split) -> str:
    return "val" if split == Split.VALIDATION else "test"


def official_classes() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ILSVRC2012, in label order, which is sorted order."""
    return tuple(_carried_by_tfds("labels.txt"))


def _official_order() -> list[int]:
    """The label of each validation picture of ILSVRC2012, by its number."""
    labels = {name: label for label, name in enumerate(official_classes())}
    return [labels[name] for name in _carried_by_tfds("validation_labels.txt")]


def _carried_by_tfds(name: str) -> list[str]:
    folder = importlib.resources.files("tensorflow_datasets")
    return (folder / "datasets" / "imagenet2012" / name).read_text().split()


def _synsets(folder: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The classes of ILSVRC2010, sorted, and the label of each of its numbers 1 …."""
    from scipy.io import loadmat  # a fifth of a second, and only here

    try:
        table = loadmat(io.BytesIO(_of_devkit(folder, META)), squeeze_me=True)
        synsets = table["synsets"]
        numbers = [int(number) for number in synsets["ILSVRC2010_ID"]]
        names = [str(name) for name in synsets["WNID"]]
    except InputError:
        raise
    except Exception as error:  # whatever stands in the file
        raise InputError(
            f"{KEY}={str(folder)!r}: {META} is not that of ILSVRC2010 ({error}); "
            f"put {DEVKIT} there"
        ) from None
    # Behind the classes come the synsets above them, with higher numbers.
    by_id = {n: name for n, name in zip(numbers, names, strict=True) if n <= CLASSES}
    classes = tuple(sorted(by_id.values()))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, {number: label_of[name] for number, name in by_id.items()}


def _truth(folder: Path, split: Split, by_id: dict[int, int]) -> list[int]:
    """The label of each numbered picture of ILSVRC2010."""
    name = TRUTH[split]
    text = _of_devkit(folder, name).decode(errors="replace").split()
    try:
        return [by_id[int(number)] for number in text]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{KEY}={str(folder)!r}: {name} must hold a number from 1 to "
            f"{len(by_id)} on each line, and has {error}; download it again"
        ) from None


def _of_devkit(folder: Path, name: str) -> bytes:
    """A file of the devkit of ILSVRC2010, unpacked or not."""
    for place in (folder, folder / "data", folder / "devkit-1.0" / "data"):
        if (place / name).is_file():
            return (place / name).read_bytes()
    try:
        with tarfile.open(folder / DEVKIT) as devkit:
            for info in devkit:
                if info.isreg() and PurePosixPath(info.name).name == name:
                    return devkit.extractfile(info).read()  # type: ignore[union-attr]
    except FileNotFoundError:
        pass
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{KEY}: {str(folder / DEVKIT)!r}: damaged ({error}); download it again"
        ) from None
    raise InputError(
        f"{KEY}={str(folder)!r}: {name} is missing, which the labels of ILSVRC2010 "
        f"need; put {DEVKIT if name != TRUTH[Split.TEST] else name} there"
    )
