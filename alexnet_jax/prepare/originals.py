"""The images to prepare, in whichever layout their folder has."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from alexnet_jax.data.folders import folders_in, images_below, open_folder
from alexnet_jax.data.ilsvrc import Split, official_classes
from alexnet_jax.data.images import Source
from alexnet_jax.data.prepared import Manifest
from alexnet_jax.data.sources import match_classes
from alexnet_jax.data.tfds import Tfds, splits_in
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.ilsvrc import KEY, TARS, open_tar, tars_in
from alexnet_jax.prepare.manifest import Originals

FOLDERS = {
    "train": Split.TRAIN,
    "val": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
}
WANTED = (
    "give a folder with the tars of ILSVRC2012 or ILSVRC2010, with class folders in "
    "train/ and val/ (ILSVRC2012's val/ may be flat), or one that TFDS prepared"
)


def open_originals(source: Path, wanted: Sequence[Split]) -> Originals:
    """Find out which layout a folder has, and open some splits of it, or all."""
    given = f"{KEY}={str(source)!r}"
    if not source.is_dir():
        raise InputError(f"{given}: no such folder; {WANTED}")
    year, tars = tars_in(source)
    if year:
        chosen = _choose(wanted, list(tars), given)
        if not wanted:
            _require_no_folders(source, tars, given)
        splits: dict[Split, Source] = {s: open_tar(year, s, tars[s]) for s in chosen}
        return Originals(year, splits[chosen[0]].classes, splits, ())
    if (source / "dataset_info.json").is_file():
        return _of_tfds(source, wanted, given)
    return _of_folders(source, wanted, given)


def _require_no_folders(source: Path, tars: dict[Split, Path], given: str) -> None:
    """Refuse class folders next to tars that have not their images."""
    for name in folders_in(source):
        split = Split.TRAIN if name in official_classes() else FOLDERS.get(name)
        if split and split not in tars:
            there = ", ".join(tar.name for tar in tars.values())
            raise InputError(
                f"{given}: holds {there} and the folder {name!r}, of which only the "
                f"tars are read; put them into two folders, or give --split="
                f"{','.join(tars)}"
            )


def _choose(wanted: Sequence[Split], there: list[Split], given: str) -> list[Split]:
    for split in wanted:
        if split not in there:
            raise InputError(
                f"--split={split}: not in {given}, which has {', '.join(there)}"
            )
    return [split for split in Split if split in (wanted or there)]


def _of_tfds(source: Path, wanted: Sequence[Split], given: str) -> Originals:
    manifest = Manifest.read(source)  # None: `prepare` did not make the folder
    names = splits_in(str(source), KEY)
    there = [split for split in Split if split in names]
    splits: dict[Split, Source] = {}
    for split in _choose(wanted, there, given):
        images = Tfds(split, KEY, directory=str(source))
        # The test images of TFDS's imagenet2012 all have the label −1.
        if len(images) and images[0].label >= 0:
            splits[split] = images
        elif wanted:
            raise InputError(f"--split={split}: has no labels in {given}; leave it out")
    if not splits:
        raise InputError(f"{given}: has no labelled {', '.join(Split)}; {WANTED}")
    named = _named(splits, next(iter(splits.values())).classes, (source,))
    return replace(named, dataset=manifest.dataset) if manifest else named


def _of_folders(source: Path, wanted: Sequence[Split], given: str) -> Originals:
    found = {n: s for n, s in FOLDERS.items() if (source / n).is_dir()}
    if "val" in found and "validation" in found:
        raise InputError(f"{given}: holds both val/ and validation/; remove one")
    if not found:
        if not any(source.iterdir()):
            raise InputError(f"{given}: is empty; {WANTED}")
        if any(source.glob("*.tar")) and not folders_in(source):
            tars = ", ".join(name for tars in TARS.values() for name in tars.values())
            raise InputError(f"{given}: the only tars that it may hold are {tars}")
        found = {".": Split.TRAIN}  # class folders without train/ around them
    elif not wanted:
        _require_no_others(source, list(found), given)
    paths = {split: source / name for name, split in found.items()}
    test = paths.get(Split.TEST)
    if test and not wanted and len(paths) > 1 and not folders_in(test):
        del paths[Split.TEST]  # flat like ILSVRC2012's, whose labels are secret
    chosen = _choose(wanted, list(paths), given)
    opened = {
        split: open_folder(path, KEY)
        for split, path in paths.items()
        if split in chosen or split == Split.TRAIN  # which defines the classes
    }
    classes = next(opened[s] for s in Split if s in opened).classes
    splits: dict[Split, Source] = {}
    for split in chosen:
        images, key = opened[split], f"{KEY}: {str(paths[split])!r}"
        splits[split] = match_classes(images, classes, key)
    return _named(splits, classes, tuple(paths.values()))


def _require_no_others(source: Path, found: list[str], given: str) -> None:
    """Refuse folders of images next to those of the splits: they would not be read."""
    for name in folders_in(source):
        if name not in found and images_below(source / name):
            raise InputError(
                f"{given}: holds {found[0]}/ and images in {name}/, which is none of "
                f"{', '.join(FOLDERS)}; rename it or move it away, or, if these are "
                "classes, put all of them into a folder train/"
            )


def _named(
    splits: dict[Split, Source], classes: tuple[str, ...], folders: tuple[Path, ...]
) -> Originals:
    """Recognise ILSVRC2012 by its classes, in whichever layout."""
    for name in classes:  # TFDS keeps names as lines of text
        if {"\n", "\r"} & set(name) or name != name.encode(errors="replace").decode():
            raise InputError(f"{KEY}: the class {name!r} is no line of text; rename it")
    dataset = "ILSVRC2012" if classes == official_classes() else "pictures"
    return Originals(dataset, classes, splits, folders)
