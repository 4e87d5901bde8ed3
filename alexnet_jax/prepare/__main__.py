"""App: ImageNet as it is handed out → squares of 256 pixels, as training reads them.

python -m alexnet_jax.prepare --source=ILSVRC2012 --destination=prepared

The source is a folder with the tars of ILSVRC2012 or ILSVRC2010 (data/ilsvrc.py says
which), with class folders in train/ and val/ (val/ may be flat, as ILSVRC2012's tar
unpacks), or one that TFDS prepared. Kill it at any moment: the same command goes on,
and what it makes is the same, byte for byte.

python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper \
    --config.dataset.source=records --config.dataset.train=prepared \
    --config.dataset.validation=prepared
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from alexnet_jax import cli
from alexnet_jax.cli import say
from alexnet_jax.data.files import locked
from alexnet_jax.data.ilsvrc import CLASSES, Split
from alexnet_jax.data.prepared import UNREADABLE
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.originals import Originals, open_originals
from alexnet_jax.prepare.preparation import Preparation, Wish, gigabytes
from alexnet_jax.prepare.records import ENCODINGS


def prepare(wish: Wish, splits: Sequence[Split] = ()) -> None:
    """Makes a folder of prepared pictures, or goes on with one.

    Args:
        wish: what of, where, and how.
        splits: which ones; none: all that are there.

    Raises:
        InputError: there is nothing to prepare, no place for it, or it cannot be
            written.
    """
    started = time.perf_counter()
    originals = open_originals(wish.source, splits)
    tell(originals)
    originals.require_outside(wish.destination)
    with locked(wish.destination, "--destination", "`prepare`"):
        preparation = Preparation(originals, wish)
        verify(preparation)
        missing = sum(s.stop - s.start for s in preparation.missing())
        if missing:
            require_space(preparation)
            with bar(missing, "prepare") as progress:
                preparation.write(progress)
        manifest = preparation.finish()
    summarise(manifest, wish.destination, time.perf_counter() - started)


def tell(originals: Originals) -> None:
    """Says what was found."""
    classes = f"{len(originals.classes):,} classes"
    say(f"{originals.dataset}, {classes}")
    for split, pictures in originals.splits.items():
        say(f"  {split}: {len(pictures):,} pictures")


def verify(preparation: Preparation) -> None:
    """Looks once more at what is finished already, and says what is damaged."""
    if preparation.damaged_beside:
        say(f"{preparation.damaged_beside}: damaged; all pictures are looked at again")
    finished = preparation.finished_shards()
    if not finished:
        return
    pictures = sum(s.stop - s.start for s in finished)
    with bar(pictures, "verify") as progress:
        preparation.verify(progress)
    for shard in preparation.damaged:
        say(f"{shard.file}: damaged; it is written again")
    whole = len(finished) - len(preparation.damaged)
    say(f"{whole:,} finished shards are kept")


def require_space(preparation: Preparation) -> None:
    """Says how much will be written.

    Raises:
        InputError: the disk has less.
    """
    encoding, sizes = preparation.wish.encoding, preparation.sizes()
    free = preparation.free()
    told = {
        e: f"about {gigabytes(size)} as --encoding={e}" for e, size in sizes.items()
    }
    others = [text for e, text in told.items() if e != encoding]
    say(
        f"to be written: {told[encoding]} ({', '.join(others)}); "
        f"{gigabytes(free)} are free"
    )
    if sizes[encoding] > free:
        raise InputError(
            f"--destination={str(preparation.wish.destination)!r}: needs "
            f"{told[encoding]} ({', '.join(others)}), and {gigabytes(free)} are free; "
            "make room or give another folder"
        )


@contextmanager
def bar(pictures: int, what: str) -> Iterator[Any]:
    """A progress bar on stderr: pictures a second, and the time left."""
    with tqdm(total=pictures, unit=" pictures", desc=what, smoothing=0.05) as shown:
        yield shown.update


def summarise(manifest: dict[str, Any], folder: Path, seconds: float) -> None:
    """Says what there is now, loudly where it is not what it should be."""
    size = sum(shard["bytes"] for shard in manifest["shards"].values())
    for split, counts in manifest["splits"].items():
        say(f"{split}: {counts['records']:,} pictures of {counts['classes']:,} classes")
        if counts["unreadable"]:
            warn(
                f"{split}: {counts['unreadable']:,} pictures cannot be decoded and are "
                f"left out; see {folder / UNREADABLE}"
            )
        official = counts["official"]
        if official is None:
            continue
        if (counts["records"], counts["classes"]) != (official, CLASSES):
            warn(
                f"{split}: {counts['records']:,} pictures of {counts['classes']:,} "
                f"classes, where {manifest['dataset']} has {official:,} of {CLASSES:,}"
            )
    say(f"{folder}: {gigabytes(size)}, after {seconds:,.0f} s")


def warn(text: str) -> None:
    """Prints a line that is not to be missed."""
    print(f"WARNING: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    SOURCE = flags.DEFINE_string(
        "source", None, "Folder of tars, of class folders, or of TFDS.", required=True
    )
    DESTINATION = flags.DEFINE_string(
        "destination", None, "Folder to make, or to go on with.", required=True
    )
    SPLIT = flags.DEFINE_list(
        "split", [], f"Of {', '.join(Split)}; without it, all that are there."
    )
    ENCODING = flags.DEFINE_enum(
        "encoding", "jpeg", ENCODINGS, "JPEGs are small, raw pixels are read faster."
    )
    IMAGE_SIZE = flags.DEFINE_integer(
        "image_size", 256, "Side of the squares in pixels (§2).", lower_bound=1
    )
    SHARDS = flags.DEFINE_integer(
        "shards",
        0,
        "Files of each split; 0: as suits its pictures, 1,024 for ImageNet's.",
        lower_bound=0,
        upper_bound=99_999,
    )
    WORKERS = flags.DEFINE_integer(
        "workers", os.cpu_count() or 1, "Processes; all cores.", lower_bound=1
    )

    def main(argv: Sequence[str]) -> None:
        """Prepares as the flags say."""
        cli.no_more_arguments(argv)
        wish = Wish(
            cli.path(SOURCE.value, "--source"),
            cli.path(DESTINATION.value, "--destination"),
            ENCODING.value,
            IMAGE_SIZE.value,
            SHARDS.value,
            WORKERS.value,
        )
        splits = [cli.one_of(name, list(Split), "--split") for name in SPLIT.value]
        prepare(wish, [Split(name) for name in splits])

    cli.run(main)
