"""The folder that `prepare` makes: what it holds beside its shards, and what it is for.

manifest.json     settings, counts, and the SHA-256 of every other file
statistics.npz    mean image and colour covariance of the training pictures
classes.txt       a name a line, in label order
unreadable.txt    the pictures that cannot be decoded, and why
dataset_info.json, features.json, label.labels.txt    what TFDS wants to know
*.index.npy       where in a shard its pictures lie
unfinished.npz    only until everything is there: what is finished so far
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.data.files import read_lines, sha256
from alexnet_jax.errors import InputError

MANIFEST = "manifest.json"
STATISTICS = "statistics.npz"
CLASSES = "classes.txt"
UNREADABLE = "unreadable.txt"
UNFINISHED = "unfinished.npz"
AGAIN = "run `python -m alexnet_jax.prepare` again with the same flags"


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """The manifest of a finished folder; None if `prepare` did not make it.

    Raises:
        InputError: the folder is not finished, or its manifest is damaged.
    """
    if (Path(folder) / UNFINISHED).exists():
        raise InputError(f"{folder}: is not prepared to the end; {AGAIN}")
    return load_manifest(Path(folder) / MANIFEST)


def load_manifest(path: Path) -> dict[str, Any] | None:
    """What a manifest says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        manifest = json.loads(path.read_text())
        for key in ("settings", "splits", "files"):
            manifest[key].items()
        return manifest
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path}: damaged; remove its folder's contents and prepare it again"
        ) from None


def require_size(folder: str, image_size: int, given: str) -> None:
    """Checks that prepared pictures have the size that a config asks for.

    Raises:
        InputError: they do not.
    """
    manifest = read_manifest(folder)
    if manifest and manifest["settings"]["--image_size"] != image_size:
        there = manifest["settings"]["--image_size"]
        raise InputError(
            f"dataset.image_size={image_size}: the pictures of {given} were prepared "
            f"with {there} pixels; set dataset.image_size={there}, or prepare them "
            f"again with --image_size={image_size}"
        )


def require_no_test(folder: str | Path, split: str, given: str) -> None:
    """Checks that nobody trains on ImageNet's test pictures, or chooses by them.

    Raises:
        InputError: the split, 'train+test[:10%]' say, has some of them.
    """
    manifest = read_manifest(folder)
    dataset = manifest["dataset"] if manifest else ""
    named = {part.partition("[")[0].strip() for part in split.split("+")}
    if named & {"test", "all"} and dataset.startswith("ILSVRC"):
        raise InputError(
            f"{given}: the test pictures of {dataset} are for a last word, never for "
            "training or validation; prepare its validation pictures too"
        )


def stand_in(folder: str, split: str, splits: Sequence[str], given: str) -> str:
    """Which split to take: for a missing 'validation' 'test', or the only one.

    Raises:
        InputError: `prepare` made the folder, and nothing in it may be validated on.
    """
    if split != "validation" or split in splits:
        return split
    manifest = read_manifest(folder)
    if manifest is None:
        return splits[0] if len(splits) == 1 else "test"
    if manifest["dataset"].startswith("ILSVRC") or "test" not in splits:
        raise InputError(
            f"{given}: has no validation pictures, only {', '.join(splits)}; prepare "
            "them too"
        )
    return "test"


def classes_of(folder: str | Path) -> tuple[str, ...]:
    """The names of the classes, in label order.

    Raises:
        InputError: they are not what they were.
    """
    manifest = read_manifest(folder)
    assert manifest is not None
    _require_whole(folder, CLASSES, manifest)
    return tuple(read_lines(Path(folder) / CLASSES))


def statistics_of(folder: str | Path) -> Path | None:
    """The statistics of the prepared training pictures, where there are some.

    Raises:
        InputError: they are not what they were.
    """
    manifest = read_manifest(folder)
    if manifest is None or STATISTICS not in manifest["files"]:
        return None
    _require_whole(folder, STATISTICS, manifest)
    return Path(folder) / STATISTICS


def _require_whole(folder: str | Path, name: str, manifest: dict[str, Any]) -> None:
    path = Path(folder) / name
    if not path.is_file() or sha256(path) != manifest["files"][name]:
        raise InputError(f"{path}: damaged, not what it was; {AGAIN}")
