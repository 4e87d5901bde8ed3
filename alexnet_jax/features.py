"""The activations of images in an .npz file, for other programs."""

import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from zipfile import ZipFile

import jax
import numpy as np

from alexnet_jax.cli import say
from alexnet_jax.data.files import UNFINISHED, replaced
from alexnet_jax.data.folders import Files
from alexnet_jax.errors import InputError
from alexnet_jax.inference import make_features
from alexnet_jax.predictor import Predictor


def write_features(
    predictor: Predictor,
    files: Files,
    names: Sequence[str],
    path: Path,
    progress: bool = False,
) -> list[int]:
    """Write an .npz file, whole or not at all, with a few batches in memory.

    It holds for each name float32 (N, …) of `Predictor.features`; `image` (N,), the
    paths as they were given; and `folder` (N,), the folders directly around the images,
    which are the classes in a folder of class folders. Layers wait in a folder next to
    the file until N, the number of images that could be read, is known.

    Args:
        predictor: of one network.
        files: the images.
        names: of `inference.feature_names`.
        path: of the file, which must not exist.
        progress: shows a bar on stderr.

    Returns:
        The rows of images that cannot be read, and are left out.
    """
    _require_new(path)
    read = predictor.reader(names)
    shapes = _shapes(predictor, names)
    sizes = {name: 4 * len(files) * math.prod(shapes[name]) for name in shapes}
    each = ", ".join(f"{name} {'×'.join(map(str, shapes[name]))}" for name in shapes)
    say(f"{path}: {sum(sizes.values()) / 1e6:,.1f} MB: {len(files):,} images, {each}")
    need, free = (
        sum(sizes.values()) + max(sizes.values()),
        shutil.disk_usage(path.parent).free,
    )
    if need > free:
        raise InputError(
            f"--output={path}: writing it takes {need / 1e9:,.1f} GB, and its disk has "
            f"{free / 1e9:,.1f} GB free; name fewer layers or images, or another disk"
        )
    rows: list[int] = []
    left_out: list[int] = []
    with tempfile.TemporaryDirectory(
        UNFINISHED, f"{path.name}.", path.parent
    ) as folder:
        parts = {name: Path(folder, name) for name in shapes}
        with ExitStack() as opened:
            written = {
                name: opened.enter_context(part.open("wb"))
                for name, part in parts.items()
            }
            for block in predictor.over(files, read, progress):
                rows += block.rows.tolist()
                left_out += block.unreadable
                for name, features in block.results.items():
                    written[name].write(features.astype("<f4").data)
        if not rows:
            raise InputError(f"none of {len(files)} images can be read")
        images = [files.names[row] for row in rows]
        folders = [
            os.path.basename(os.path.dirname(os.path.abspath(i))) for i in images
        ]
        with replaced(path) as temporary, ZipFile(temporary, "w") as archive:
            for name, values in (("image", images), ("folder", folders)):
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(values))
            for name, shape in shapes.items():
                _pack(archive, name, parts[name], (len(rows), *shape))
    return left_out


def _require_new(path: Path) -> None:
    if path.suffix != ".npz":
        raise InputError(f"--output={path}: must end in .npz")
    if path.exists():
        raise InputError(f"--output={path}: exists; delete it or name another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"--output={path}: {path.parent} is no folder to write to")


def _shapes(predictor: Predictor, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Of the features of one image."""
    size, devices, (model,) = (
        predictor.square.size,
        predictor.mesh.size,
        predictor.models,
    )
    features = make_features(predictor.network, predictor.mesh, predictor.crop, names)
    image = jax.ShapeDtypeStruct((devices, size, size, 3), np.uint8)
    shapes = jax.eval_shape(features, model.params, image, model.mean_image)
    return {name: shapes[name].shape[1:] for name in names}


def _pack(archive: ZipFile, name: str, part: Path, shape: tuple[int, ...]) -> None:
    """Move raw float32 numbers into a member of the archive."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        with part.open("rb") as numbers:
            shutil.copyfileobj(numbers, member, 1 << 20)
    part.unlink()
