"""Folders that tests prepare in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
from pictures import (
    class_tars,
    numbered_tar,
)

from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.__main__ import prepare
from alexnet_jax.prepare.manifest import Settings

SIZE = 32
CLASSES = ("bird", "cat", "dog")


def made(source: Path, destination: Path, splits=(), **changes) -> dict:
    """Prepare in this process, and read the manifest."""
    values = {
        "encoding": "jpeg",
        "image_size": SIZE,
        "shards": 5,
        "workers": 1,
        **changes,
    }
    prepare(Settings(source, destination, **values), splits)
    return json.loads((destination / "manifest.json").read_text())


def refused(make, *parts):
    """Check that `make` raises an InputError of one line with all the parts."""
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def records(folder: Path, role: str = "train", size: int = SIZE):
    return open_source(
        "records", str(folder), role, key=f"dataset.{role}", image_size=size, seed=0
    )


def prepared_with(tmp_path: Path, splits: dict[str, int]) -> Path:
    """ILSVRC2010 with so many pictures in each split, prepared."""
    folder = tmp_path / "2010"
    folder.mkdir()
    make_devkit(folder)
    for split, count in splits.items():
        stem = "val" if split == "validation" else split
        data = class_tars({"n01": count, "n02": 1})
        if split != "train":
            data = numbered_tar(f"ILSVRC2010_{stem}", range(1, count + 1))
        (folder / f"ILSVRC2010_images_{stem}.tar").write_bytes(data)
    made(folder, tmp_path / "prepared")
    return tmp_path / "prepared"


def make_devkit(folder: Path):
    from scipy.io import savemat

    kinds = [("ILSVRC2010_ID", "O"), ("WNID", "O")]
    synsets = np.array([(1, "n02"), (2, "n01")], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": synsets})
    for split in ("validation", "test"):
        truth = folder / f"ILSVRC2010_{split}_ground_truth.txt"
        truth.write_text("1\n2\n" * 20)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but its lock."""
    files = (path for path in folder.iterdir() if path.name != ".lock")
    return {path.name: path.read_bytes() for path in files}
