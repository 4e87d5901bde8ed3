"""What `prepare` writes beside its shards: see prepared.py for the names."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.data import files, prepared
from alexnet_jax.data.files import write_lines
from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import records
from alexnet_jax.prepare.originals import Originals
from alexnet_jax.prepare.shards import Shard
from alexnet_jax.prepare.unfinished import Unfinished

Entry = dict[str, Any]  # of Unfinished.written


def write_catalogue(
    folder: Path,
    originals: Originals,
    planned: Sequence[Shard],
    state: Unfinished,
    settings: dict[str, Any],
) -> None:
    """Write classes, statistics, the unreadable, TFDS's files, last the manifest.

    Args:
        folder: where the shards are.
        originals: of which they were made.
        planned: the shards.
        state: with all of them written.
        settings: what they were made with.

    Raises:
        InputError: a split has no picture that can be decoded.
    """
    written = {
        split: [state.written[s.file] for s in planned if s.split == split]
        for split in originals.splits
    }
    counts = {split: _count(split, written[split], originals) for split in written}
    unreadable = (
        f"{split}\t{why}"
        for split, entries in written.items()
        for entry in entries
        for why in entry["unreadable"]
    )
    write_lines(folder / prepared.CLASSES, originals.classes)
    write_lines(folder / prepared.UNREADABLE, unreadable)
    names = [prepared.CLASSES, prepared.UNREADABLE]
    if Split.TRAIN in written:
        state.sums.statistics().save(folder / prepared.STATISTICS)
        names.append(prepared.STATISTICS)
    names += _describe_to_tfds(folder, originals, written, settings)
    manifest = {
        "dataset": originals.dataset,
        "settings": settings,
        "splits": counts,
        "files": {name: files.sha256(folder / name) for name in names},
        "shards": {
            shard.file: {
                key: value
                for key, value in state.written[shard.file].items()
                if key in ("sha256", "index", "bytes", "records")
            }
            for shard in planned
        },
    }
    temporary = folder / f"{prepared.MANIFEST}{files.UNFINISHED}"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    for name in (*names, temporary.name):
        files.flush(folder / name)
    os.replace(temporary, folder / prepared.MANIFEST)
    files.flush(folder)


def _count(split: Split, entries: list[Entry], originals: Originals) -> dict[str, Any]:
    """The pictures of a split, to be compared with how many there should be."""
    pictures = len(originals.splits[split])
    records = sum(entry["records"] for entry in entries)
    if not records:
        raise InputError(
            f"--source: none of the {pictures:,} pictures of {split} can be decoded; "
            f"{entries[0]['unreadable'][0]}"
        )
    return {
        "pictures": pictures,
        "records": records,
        "unreadable": sum(len(entry["unreadable"]) for entry in entries),
        "classes": len(set().union(*(entry["classes"] for entry in entries))),
        "official": originals.official(split),
    }


def _describe_to_tfds(
    folder: Path,
    originals: Originals,
    written: dict[Split, list[Entry]],
    settings: dict[str, Any],
) -> list[str]:
    """Write what TFDS wants to know, and tell the names of the files."""
    import tensorflow_datasets as tfds

    splits = [
        tfds.core.SplitInfo(
            name=split.value,
            shard_lengths=[entry["records"] for entry in entries],
            num_bytes=sum(entry["bytes"] for entry in entries),
        )
        for split, entries in written.items()
    ]
    size, encoding = settings["--image_size"], settings["--encoding"]
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=records.features(encoding, size, originals.classes),
        split_infos=splits,
        supervised_keys=("image", "label"),
        check_data=False,
        description=f"{originals.dataset} as squares of {size} pixels.",
    )
    return ["dataset_info.json", "features.json", "label.labels.txt"]
