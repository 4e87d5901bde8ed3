"""App: from ImageNet as it is distributed to the 256-pixel squares of training.

python -m alexnet_jax.prepare --source=ILSVRC2012 --destination=prepared

The source is a folder with the tars of ILSVRC2012 or ILSVRC2010 (prepare/ilsvrc.py
lists them), with class folders in train/ and val/ (val/ may be flat, as ILSVRC2012's
tar unpacks), or one that TFDS prepared. Interrupt it at any moment: the same command
continues, and the result is the same, byte for byte.
"""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from absl import flags
from tqdm import tqdm

from alexnet_jax import cli
from alexnet_jax.cli import say
from alexnet_jax.data import tfds
from alexnet_jax.data.files import locked
from alexnet_jax.data.ilsvrc import CLASSES, Split
from alexnet_jax.data.prepared import UNREADABLE, Manifest
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.folder import Folder, gigabytes
from alexnet_jax.prepare.manifest import SUBSAMPLING, Settings
from alexnet_jax.prepare.originals import open_originals
from alexnet_jax.prepare.shards import ENCODINGS, SUBSAMPLINGS
from alexnet_jax.values import one_of

bar = partial(tqdm, unit=" images", smoothing=0.05, disable=None)  # not in a pipe


def prepare(settings: Settings, splits: Sequence[Split] = ()) -> None:
    """Make a folder of prepared images, of some splits or (by default) all."""
    started = time.perf_counter()
    tfds.library("alexnet_jax.prepare")  # writes the description that TFDS reads
    originals = open_originals(settings.source, splits)
    say(f"{originals.dataset}, {len(originals.classes):,} classes")
    for split, images in originals.splits.items():
        say(f"  {split}: {len(images):,} images")
    originals.require_outside(settings.destination)
    with locked(settings.destination, "--destination", "`prepare`"):
        folder = Folder(originals, settings)
        verify(folder)
        missing = sum(map(len, folder.missing()))
        if missing:
            require_space(folder, settings)
        with folder.naming_the_space():
            if missing:
                with bar(total=missing, desc="prepare") as progress:
                    folder.write(progress.update)
            manifest = folder.finish()
    summarise(manifest, settings.destination, time.perf_counter() - started)


def verify(folder: Folder) -> None:
    """Check the finished shards, and report damaged ones."""
    if folder.damaged_file:
        say(f"{folder.damaged_file}: damaged; all images are read again")
    written = folder.written()
    if not written:
        return
    with bar(total=sum(map(len, written)), desc="verify") as progress:
        folder.verify(progress.update)
    for file in folder.damaged:
        say(f"{file}: damaged; it is written again")
    say(f"{len(written) - len(folder.damaged):,} finished shards are kept")


def require_space(folder: Folder, settings: Settings) -> None:
    """Report how much will be written; refuse if the disk has less."""
    sizes, free = folder.sizes(), shutil.disk_usage(settings.destination).free
    words = {e: f"about {gigabytes(sizes[e])} as --encoding={e}" for e in sizes}
    chosen = words.pop(settings.encoding)
    others = ", ".join(words.values())
    say(f"to be written: {chosen} ({others}); {gigabytes(free)} are free")
    if sizes[settings.encoding] > free:
        raise InputError(
            f"--destination={str(settings.destination)!r}: needs {chosen} ({others}), "
            f"and {gigabytes(free)} are free; make room or give another folder"
        )


def summarise(manifest: Manifest, folder: Path, seconds: float) -> None:
    """Report the images of each split, with a warning if any are missing."""
    size = sum(shard["bytes"] for shard in manifest.shards.values())
    for split, counts in manifest.splits.items():
        there = f"{counts['records']:,} images of {counts['classes']:,} classes"
        say(f"{split}: {there}")
        if counts["unreadable"]:
            warn(
                f"{split}: {counts['unreadable']:,} images cannot be decoded and are "
                f"left out; see {folder / UNREADABLE}"
            )
        official = counts["official"]
        wanted = (counts["records"], counts["classes"])
        if official is not None and wanted != (official, CLASSES):
            warn(
                f"{split}: {there}, where {manifest.dataset} has {official:,} of "
                f"{CLASSES:,}"
            )
    say(f"{folder}: {gigabytes(size)}, after {seconds:,.0f} s")


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    SOURCE = flags.DEFINE_string(
        "source", None, "Folder of tars, of class folders, or of TFDS.", required=True
    )
    DESTINATION = flags.DEFINE_string(
        "destination", None, "Folder to make, or to continue.", required=True
    )
    SPLIT = flags.DEFINE_list(
        "split", [], f"Some of {', '.join(Split)}; default: all that the source has."
    )
    ENCODING = flags.DEFINE_enum(
        "encoding", "jpeg", ENCODINGS, "JPEGs are small, raw pixels are read faster."
    )
    SUBSAMPLED = flags.DEFINE_enum(
        "subsampling",
        None,
        list(SUBSAMPLINGS),
        "Chroma of JPEGs: 4:4:4 has a third less error than 4:2:0, is 29 % larger and "
        f"decodes 41 % slower; default: as the folder was begun, {SUBSAMPLING} if new.",
    )
    IMAGE_SIZE = flags.DEFINE_integer(
        "image_size", 256, "Side of the squares in pixels (§2).", lower_bound=1
    )
    EXIF_ROTATION = flags.DEFINE_boolean(
        "exif_rotation", True, "Rotate images as their EXIF orientation says."
    )
    SHARDS = flags.DEFINE_integer(
        "shards", 0, "Files of each split; 0: 1,024 for ImageNet's train.", 0, 99_999
    )
    WORKERS = flags.DEFINE_integer(
        "workers", os.cpu_count() or 1, "Processes; default: all cores.", lower_bound=1
    )

    def main(argv: Sequence[str]) -> None:
        """Prepare as the flags say."""
        cli.no_more_arguments(argv)
        settings = Settings(
            cli.path(SOURCE.value, "--source"),
            cli.path(DESTINATION.value, "--destination"),
            ENCODING.value,
            IMAGE_SIZE.value,
            SHARDS.value,
            WORKERS.value,
            SUBSAMPLED.value or "",
            EXIF_ROTATION.value,
        )
        names = [one_of(name, list(Split), "--split") for name in SPLIT.value]
        prepare(settings, list(map(Split, names)))

    cli.run(main)
