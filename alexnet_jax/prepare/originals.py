"""What stands in the folder that is to be prepared, whatever its layout."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet_jax.data import prepared
from alexnet_jax.data.folders import folders_in
from alexnet_jax.data.ilsvrc import Split, official_classes, open_folder
from alexnet_jax.data.images import Source
from alexnet_jax.data.sources import match_classes
from alexnet_jax.data.tfds import Tfds, splits_in
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.ilsvrc import KEY, OFFICIAL, TARS, open_tar, tars_in

FOLDERS = {
    "train": Split.TRAIN,
    "val": Split.VALIDATION,
    "validation": Split.VALIDATION,
    "test": Split.TEST,
}
WANTED = (
    "give a folder with the tars of ILSVRC2012 or ILSVRC2010, with class folders in "
    "train/ and val/ (of which ILSVRC2012's may be flat), or one that TFDS prepared"
)


@dataclass(frozen=True)
class Originals:
    """Pictures to be prepared.

    Attributes:
        dataset: 'ILSVRC2012', 'ILSVRC2010' or 'pictures'.
        classes: their names, in label order.
        splits: the pictures.
        folders: in which nothing may be written.
    """

    dataset: str
    classes: tuple[str, ...]
    splits: dict[Split, Source]
    folders: tuple[Path, ...]

    def official(self, split: Split) -> int | None:
        """How many pictures a split has officially, where that is known."""
        return OFFICIAL.get(self.dataset, {}).get(split)

    def digest(self) -> str:
        """Tells these pictures from others: by names and order, not by their pixels."""
        digest = hashlib.sha256()
        names_of_splits = [pictures.names for pictures in self.splits.values()]
        for names in ([self.dataset], self.classes, *names_of_splits):
            text = "\n".join([str(len(names)), *names])
            digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def require_outside(self, folder: Path) -> None:
        """Checks that a folder to be written does not lie in one that is read.

        Raises:
            InputError: it does.
        """
        for place in map(Path.resolve, self.folders):
            if place in (folder.resolve(), *folder.resolve().parents):
                raise InputError(
                    f"--destination={str(folder)!r}: lies in {str(place)!r}, which is "
                    "to be read; give a folder elsewhere"
                )


def open_originals(source: Path, wanted: Sequence[Split]) -> Originals:
    """Find out what a folder holds, and open it.

    Args:
        source: the folder.
        wanted: the splits to take; none: all that are there.

    Raises:
        InputError: there is nothing to prepare, or not what is wanted.
    """
    given = f"{KEY}={str(source)!r}"
    if not source.is_dir():
        raise InputError(f"{given}: no such folder; {WANTED}")
    year, tars = tars_in(source)
    if year:
        chosen = _choose(wanted, list(tars), given)
        splits: dict[Split, Source] = {s: open_tar(year, s, tars[s]) for s in chosen}
        classes = next(iter(splits.values())).classes
        return Originals(year, classes, splits, ())
    if (source / "dataset_info.json").is_file():
        return _of_tfds(source, wanted, given)
    return _of_folders(source, wanted, given)


def _choose(wanted: Sequence[Split], there: list[Split], given: str) -> list[Split]:
    for split in wanted:
        if split not in there:
            raise InputError(
                f"--split={split}: not in {given}, which has {', '.join(there)}"
            )
    return [split for split in Split if split in (wanted or there)]


def _of_tfds(source: Path, wanted: Sequence[Split], given: str) -> Originals:
    names = splits_in(str(source), KEY)
    there = [split for split in Split if split in names]
    splits: dict[Split, Source] = {}
    for split in _choose(wanted, there, given):
        pictures = Tfds(split, KEY, directory=str(source), test=True)
        # The test pictures of TFDS's imagenet2012 all have the label −1.
        if len(pictures) and pictures[0].label >= 0:
            splits[split] = pictures
        elif wanted:
            raise InputError(f"--split={split}: has no labels in {given}; leave it out")
    if not splits:
        raise InputError(f"{given}: has no labelled {', '.join(Split)}; {WANTED}")
    named = _named(splits, next(iter(splits.values())).classes, (source,))
    manifest = prepared.read_manifest(source)  # of `prepare`, from what it was told
    return replace(named, dataset=manifest["dataset"]) if manifest else named


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
        found = {".": Split.TRAIN}  # the class folders themselves
    paths = {split: source / name for name, split in found.items()}
    test = paths.get(Split.TEST)
    if test and not wanted and len(paths) > 1 and not folders_in(test):
        del paths[Split.TEST]  # flat as ILSVRC2012's, of which nobody has the labels
    chosen = _choose(wanted, list(paths), given)
    opened = {
        split: open_folder(path, KEY)
        for split, path in paths.items()
        if split in chosen or split == Split.TRAIN  # which knows the classes
    }
    classes = next(opened[s] for s in Split if s in opened).classes
    splits: dict[Split, Source] = {}
    for split in chosen:
        pictures, key = opened[split], f"{KEY}: {str(paths[split])!r}"
        splits[split] = match_classes(pictures, classes, key)
    return _named(splits, classes, tuple(paths.values()))


def _named(
    splits: dict[Split, Source],
    classes: tuple[str, ...],
    folders: tuple[Path, ...],
) -> Originals:
    """ILSVRC2012 is known by its classes, however it lies there.

    Raises:
        InputError: TFDS, which keeps names as lines of text, could not keep one.
    """
    for name in classes:
        if "\n" in name or name != name.encode(errors="replace").decode():
            raise InputError(f"{KEY}: the class {name!r} is no line of text; rename it")
    dataset = "ILSVRC2012" if classes == official_classes() else "pictures"
    return Originals(dataset, classes, splits, folders)
