"""Settings and facts that a folder records: unfinished.npz, manifest.json and the rest.

data/prepared.py lists the files.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from alexnet_jax.data import prepared
from alexnet_jax.data.files import (
    arrays_of,
    flush,
    read_file,
    replaced,
    sha256,
    write_lines,
)
from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.data.images import Source
from alexnet_jax.data.prepared import Manifest
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.ilsvrc import OFFICIAL
from alexnet_jax.prepare.shards import Encoder, Shard

Recorded = dict[str, Any]  # settings as JSON keeps them
Facts = dict[str, dict[str, Any]]  # of written shards by file, as JSON keeps them
# Recorded only if they differ from these: folders made before they existed lack them.
UNRECORDED = {"--subsampling": "4:2:0", "--exif_rotation": True}
SUBSAMPLING = "4:4:4"  # of new folders; docs/input.md says why
IN_WORDS = {
    "listing": "other images than --source has now",
    "pictures": "{} images, not {}",
    "--shards": "{} files in all (--shards), not {}",
}
IN_MANIFEST = ("sha256", "index", "bytes", "records")
IN_UNFINISHED = (*IN_MANIFEST, "classes", "unreadable")


@dataclass(frozen=True)
class Originals:
    """The images of a folder."""

    dataset: str  # 'ILSVRC2012', 'ILSVRC2010' or 'pictures'
    classes: tuple[str, ...]
    splits: dict[Split, Source]
    folders: tuple[Path, ...]  # which are read, so that nothing may be written there

    def digest(self) -> str:
        """A checksum of classes, names and order; pixels are not part of it."""
        digest = hashlib.sha256()
        names_of_splits = [images.names for images in self.splits.values()]
        for names in ([self.dataset], self.classes, *names_of_splits):
            text = "\n".join([str(len(names)), *names])
            digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def require_outside(self, folder: Path) -> None:
        """Check that a folder to write is not inside one that is read."""
        for place in map(Path.resolve, self.folders):
            if place in (folder.resolve(), *folder.resolve().parents):
                raise InputError(
                    f"--destination={str(folder)!r}: is inside {str(place)!r}, which "
                    "is to be read; give a folder elsewhere"
                )


@dataclass(frozen=True)
class Settings:
    """The flags of `prepare`; a subsampling of '' means that of the folder, if any."""

    source: Path
    destination: Path
    encoding: str
    image_size: int
    shards: int  # files of each split; 0: a number that suits the images
    workers: int
    subsampling: str = ""
    exif_rotation: bool = True

    def continuing(self, begun: Recorded | None) -> "Settings":
        """The same, with the subsampling with which the folder was begun, if it was."""
        default = SUBSAMPLING
        if begun is not None:
            default = begun.get("--subsampling", UNRECORDED["--subsampling"])
        return replace(self, subsampling=self.subsampling or default)

    def encoder(self) -> Encoder:
        """The form in which images are stored."""
        square = Square(self.image_size, self.exif_rotation)
        return Encoder(self.encoding, self.subsampling, square)

    def recorded(self, originals: Originals, shards: int) -> Recorded:
        """What a folder's manifest records about its making."""
        recorded = {
            "--encoding": self.encoding,
            "--image_size": self.image_size,
            "--split": ",".join(originals.splits),
            "--shards": shards,
            "pictures": sum(map(len, originals.splits.values())),
            "listing": originals.digest(),
            "Pillow": PIL.__version__,  # another version may encode differently
            "--exif_rotation": self.exif_rotation,
        }
        if self.encoding == "jpeg":
            recorded["--subsampling"] = self.subsampling
        for name, default in UNRECORDED.items():
            if recorded.get(name) == default:
                del recorded[name]
        return recorded


def require_same(folder: Path, before: Recorded, now: Recorded) -> None:
    """Check that a folder is continued with the settings with which it was begun."""
    for name in (*now, *UNRECORDED):
        default = UNRECORDED.get(name)
        old, new = before.get(name, default), now.get(name, default)
        if old not in (None, new):
            words = IN_WORDS.get(name, f"{name}={{}}, not {{}}").format(old, new)
            raise InputError(
                f"--destination={str(folder)!r}: was begun with {words}; give the "
                "same, or another folder"
            )


def save_unfinished(
    folder: Path, settings: Recorded, shards: Iterable[Shard], sums: Sums
) -> None:
    """Record the written shards, and the sums over their training images."""
    written = {shard.file: _facts(shard, IN_UNFINISHED) for shard in shards}
    text = json.dumps({"settings": settings, "written": written})
    arrays = {"text": np.frombuffer(text.encode(), np.uint8), **vars(sums)}
    with replaced(folder / prepared.UNFINISHED) as path, path.open("wb") as file:
        np.savez(file, **arrays)


def load_unfinished(folder: Path) -> tuple[Recorded, Facts, Sums] | None:
    """The settings, the facts by shard and the sums; None if there are none."""
    try:
        arrays = arrays_of(read_file(folder / prepared.UNFINISHED))
        tree = json.loads(arrays["text"].tobytes())
        settings, written = tree["settings"], tree["written"]
        sums = Sums(int(arrays["count"]), arrays["image"], arrays["products"])
        side = settings["--image_size"]
        for own, shape in ((sums.image, (side, side, 3)), (sums.products, (3, 3))):
            if own.shape != shape or own.dtype != np.int64:
                raise ValueError
        if not all(facts.keys() <= {*IN_UNFINISHED} for facts in written.values()):
            raise ValueError
        return settings, written, sums
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_manifest(
    folder: Path,
    originals: Originals,
    shards: dict[str, Shard],
    sums: Sums,
    settings: Recorded,
) -> Manifest:
    """Write classes, unreadable, statistics and TFDS's files, and last the manifest."""
    by_split = {
        split: [shard for shard in shards.values() if shard.split == split]
        for split in originals.splits
    }
    counts = {str(s): _count(s, originals, by_split[s]) for s in by_split}
    unreadable = [(s.split, why) for s in shards.values() for why in s.unreadable]
    write_lines(folder / prepared.CLASSES, originals.classes)
    write_lines(folder / prepared.UNREADABLE, map("\t".join, unreadable))
    names = [prepared.CLASSES, prepared.UNREADABLE]
    if Split.TRAIN in by_split:
        sums.statistics().save(folder / prepared.STATISTICS)
        names.append(prepared.STATISTICS)
    names += _write_tfds_metadata(folder, originals, by_split, settings)
    for name in names:
        flush(folder / name)
    written = Manifest(
        dataset=originals.dataset,
        settings=settings,
        splits=counts,
        files={name: sha256(folder / name) for name in names},
        shards={file: _facts(shards[file], IN_MANIFEST) for file in shards},
    )
    written.write(folder / prepared.MANIFEST)
    return written


def _facts(shard: Shard, names: Sequence[str]) -> dict[str, Any]:
    # A folder older than index files stays without.
    return {n: vars(shard)[n] for n in names if n != "index" or shard.index}


def _count(split: Split, originals: Originals, shards: list[Shard]) -> dict[str, Any]:
    """The numbers of images of a split: there were, are stored, should be."""
    images = len(originals.splits[split])
    records = sum(shard.records for shard in shards)
    if not records:
        raise InputError(
            f"--source: none of the {images:,} images of {split} can be decoded; "
            f"{shards[0].unreadable[0]}"
        )
    return {
        "pictures": images,
        "records": records,
        "unreadable": sum(len(shard.unreadable) for shard in shards),
        "classes": len(set().union(*(shard.classes for shard in shards))),
        "official": OFFICIAL.get(originals.dataset, {}).get(split),
    }


def _write_tfds_metadata(
    folder: Path,
    originals: Originals,
    shards: dict[Split, list[Shard]],
    settings: Recorded,
) -> list[str]:
    """Write the description that TFDS reads, and return the names of its files."""
    import tensorflow_datasets as tfds

    size = settings["--image_size"]
    shape = (size, size, 3)
    if settings["--encoding"] == "jpeg":
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        plain = tfds.features.Encoding.BYTES
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=plain)
    label = tfds.features.ClassLabel(names=list(originals.classes))
    features = {"image": image, "label": label, "file_name": tfds.features.Text()}
    splits = [
        tfds.core.SplitInfo(
            split.value, [s.records for s in own], sum(s.bytes for s in own)
        )
        for split, own in shards.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_infos=splits,
        supervised_keys=("image", "label"),
        check_data=False,
        description=f"{originals.dataset} as squares of {size} pixels.",
    )
    return ["dataset_info.json", "features.json", "label.labels.txt"]
