"""ImageNet as its authors distribute it: the tars of ILSVRC2012 and ILSVRC2010.

One folder must hold, under the names of the download pages,

    ILSVRC2012_img_train.tar    a tar of class tars, n01440764.tar …
    ILSVRC2012_img_val.tar      ILSVRC2012_val_00000001.JPEG …

or

    ILSVRC2010_images_train.tar, ILSVRC2010_images_val.tar, ILSVRC2010_images_test.tar
    ILSVRC2010_devkit-1.0.tar.gz            or its data/ unpacked: meta.mat and
                                            ILSVRC2010_validation_ground_truth.txt
    ILSVRC2010_test_ground_truth.txt        for the test tar
    patch_images.tar                        images that replace those of the same name

A split whose tar is missing is left out. The labels of ILSVRC2012's validation images
are the official ones, which TFDS ships.
"""

import io
import itertools
import multiprocessing
import tarfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from alexnet_jax.data.ilsvrc import (
    CLASSES,
    Split,
    by_number,
    official_classes,
    official_order,
)
from alexnet_jax.data.tars import Member, TarImages, walk
from alexnet_jax.errors import InputError

OFFICIAL = {  # number of images
    "ILSVRC2012": {Split.TRAIN: 1_281_167, Split.VALIDATION: 50_000},
    "ILSVRC2010": dict(zip(Split, (1_261_406, 50_000, 150_000), strict=True)),
}
WORDS = {Split.TRAIN: "train", Split.VALIDATION: "val", Split.TEST: "test"}
STEMS = {"ILSVRC2012": "ILSVRC2012_img", "ILSVRC2010": "ILSVRC2010_images"}
TARS = {
    year: {split: f"{STEMS[year]}_{WORDS[split]}.tar" for split in splits}
    for year, splits in OFFICIAL.items()
}
DEVKIT_BYTES = 1 << 27  # far more than it unpacks to
DEVKIT, META = "ILSVRC2010_devkit-1.0.tar.gz", "meta.mat"
TRUTH = {
    Split.VALIDATION: "ILSVRC2010_validation_ground_truth.txt",
    Split.TEST: "ILSVRC2010_test_ground_truth.txt",
}
PATCHES = "patch_images.tar"  # of ILSVRC2010
KEY = "--source"


def tars_in(folder: Path) -> tuple[str, dict[Split, Path]]:
    """Find the year and the tars of a folder; ('', {}) without any."""
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


def open_tar(year: str, split: Split, tar: Path) -> TarImages:
    """Open one tar of a year: labelled images, by class and name or by number.

    The development kit and patches of ILSVRC2010 are searched in the tar's folder.
    """
    truth: list[int] = []
    if year == "ILSVRC2012":
        classes = official_classes()
        if split == Split.VALIDATION:
            truth = official_order()
    else:
        classes, by_id = _synsets(tar.parent)
        if split != Split.TRAIN:
            truth = _truth(tar.parent, split, by_id)
    members: Sequence[Member]
    labels: Sequence[int]
    if split == Split.TRAIN:
        members, labels = _class_tars(year, tar, classes)
    else:
        members = _numbered(f"{year}_{WORDS[split]}", tar, len(truth))
        labels = truth[: len(members)]
    if year == "ILSVRC2010":
        members = _patched(members, tar.parent / PATCHES, split)
    return TarImages(classes, members, labels)


def _patched(members: Sequence[Member], tar: Path, split: Split) -> Sequence[Member]:
    """Replace the images for which patch_images.tar, if present, has a better one."""
    if not tar.exists():
        return members
    given = f"{KEY}: {str(tar)!r}"
    wanted = "it must be ILSVRC2010's, with images in train/, val/ and test/"
    patches: dict[str, dict[str, Member]] = {word: {} for word in WORDS.values()}
    for info in walk(tar, given, wanted):
        place = PurePosixPath(info.name)
        if info.isreg() and place.parent.name in patches:
            patches[place.parent.name][place.name] = Member.of(info.name, tar, info)
    if not any(patches.values()):
        raise InputError(f"{given}: holds no images; {wanted}")
    better = patches[WORDS[split]]
    return [better.get(PurePosixPath(m.name).name, m) for m in members]


def _class_tars(
    year: str, path: Path, classes: tuple[str, ...]
) -> tuple[Sequence[Member], Sequence[int]]:
    """The images of a tar of class tars, and their labels."""
    given = f"{KEY}: {str(path)!r}"
    wanted = f"it must be the tar of class tars, {classes[0]}.tar …, of {year}"
    label_of = {f"{name}.tar": label for label, name in enumerate(classes)}
    found = []
    outer = walk(path, given, wanted)
    for inner in tqdm(outer, path.name, unit=" class tars", disable=None):  # minutes
        name = PurePosixPath(inner.name).name
        if inner.isdir():
            continue
        if not inner.isreg() or name not in label_of:
            raise InputError(f"{given}: holds {inner.name!r}; {wanted}")
        stop = inner.offset_data + inner.size
        for info in walk(path, f"{given}: {name}", wanted, inner.offset_data, stop):
            if info.isreg():
                inside = f"{name}/{PurePosixPath(info.name).name}"
                found.append((label_of[name], Member.of(inside, path, info)))
    if not found:
        raise InputError(f"{given}: holds no images; {wanted}")
    found.sort()
    for (_, one), (_, other) in itertools.pairwise(found):
        if one.name == other.name:
            raise InputError(f"{given}: holds {one.name} twice; {wanted}")
    labels, members = zip(*found, strict=True)
    return members, labels


def _numbered(stem: str, path: Path, labelled: int) -> list[Member]:
    """The images stem_00000001.JPEG … of a flat tar, which must be 1 … N."""
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


def _synsets(folder: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The WordNet ids in label order (sorted), and the label of each ILSVRC2010_ID.

    Ids above 1,000 are inner nodes of the hierarchy and are left out.
    """
    data = _read_devkit(folder, META)
    try:
        # In a process of its own, which a damaged file may kill (SciPy 1.17).
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            numbers, names, complaint = apart.submit(_table, data).result()
        if complaint:
            raise ValueError(complaint)
    except Exception as error:  # also of a process that died
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{KEY}={str(folder)!r}: {META} is not that of ILSVRC2010 ({reason}); "
            f"put {DEVKIT} there"
        ) from None
    by_id = {n: name for n, name in zip(numbers, names, strict=True) if n <= CLASSES}
    classes = tuple(sorted(by_id.values()))
    label_of = {name: label for label, name in enumerate(classes)}
    return classes, {number: label_of[name] for number, name in by_id.items()}


def _table(meta: bytes) -> tuple[list[int], list[str], str]:
    """The ILSVRC2010_IDs in meta.mat, the WordNet ids, and what is wrong with it."""
    from scipy.io import loadmat  # imported here: it takes 0.2 s

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        numbers = [int(number) for number in synsets["ILSVRC2010_ID"]]
        return numbers, [str(name) for name in synsets["WNID"]], ""
    except Exception as error:  # many kinds, which hold parts of the file: text is sent
        return [], [], str(error) or type(error).__name__


def _truth(folder: Path, split: Split, by_id: dict[int, int]) -> list[int]:
    """The labels of the validation or test images, by number; `by_id` of `synsets`."""
    name = TRUTH[split]
    text = _read_devkit(folder, name).decode(errors="replace").split()
    try:
        return [by_id[int(number)] for number in text]
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{KEY}={str(folder)!r}: {name} must hold a number from 1 to "
            f"{len(by_id)} on each line, but has {error}; download it again"
        ) from None


def _read_devkit(folder: Path, name: str) -> bytes:
    for place in (folder, folder / "data", folder / "devkit-1.0" / "data"):
        if (place / name).is_file():
            return (place / name).read_bytes()
    try:
        with tarfile.open(folder / DEVKIT) as devkit:
            for info in devkit:
                if info.size < 0:  # it would be read for ever
                    raise tarfile.TarError(f"{info.name} has {info.size} bytes")
                if info.offset_data + info.size > DEVKIT_BYTES:
                    raise tarfile.TarError(f"unpacks to over {DEVKIT_BYTES:,} bytes")
                if info.isreg() and PurePosixPath(info.name).name == name:
                    return devkit.extractfile(info).read()  # type: ignore[union-attr]
    except FileNotFoundError:
        pass
    except Exception as error:  # tarfile and the decompressors raise many kinds
        raise InputError(
            f"{KEY}: {str(folder / DEVKIT)!r}: damaged ({error}); download it again"
        ) from None
    wanted = name if name == TRUTH[Split.TEST] else DEVKIT
    raise InputError(
        f"{KEY}={str(folder)!r}: {name} is missing; the labels of ILSVRC2010 need it: "
        f"put {wanted} there"
    )
