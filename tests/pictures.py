"""Pictures made on the spot, and the sources that tests read."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.data.augment import Augmentation

# The colours of ImageNet as cuda-convnet2 ships them (docs/sources.md, section 10).
STDDEV = (19.7208, 37.0939, 121.7801)
AXES = (
    (0.418, -0.713, -0.5635),
    (-0.817, -0.024, -0.5762),
    (0.397, 0.701, -0.5920),
)


def augmentation(**changes) -> Augmentation:
    """The 2012 code's augmentation of 40-pixel pictures, with 33 offsets."""
    values = {
        "seed": 7,
        "crop": 8,
        "offsets": 33,
        "chunk": 32,
        "reflect": True,
        "noise": 0.1,
        "noise_until": 1 << 60,
        "noise_divisor": 1.1,
        "color_stddev": STDDEV,
        "color_axes": AXES,
    }
    return Augmentation(**{**values, **changes})


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """An image file of height×width×3 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


class Numbered:
    """Pictures in memory: the pixels of picture i are all i, its label is i mod 3."""

    classes = ("a", "b", "c")

    def __init__(self, count: int, unreadable: int = -1):
        self.count, self.unreadable = count, unreadable

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        image = np.full((40, 40, 3), i, np.uint8)
        return f"n/{i}", b"no" if i == self.unreadable else image, i % 3


def write_class_folders(top: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """A folder with that many pictures of random sizes in each class."""
    rng = np.random.default_rng(seed)
    for name, count in classes.items():
        (top / name).mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
            (top / name / f"{i}.JPEG").write_bytes(encoded(pixels, "JPEG"))
    return top


def write_tar(path: Path, folder: Path, inside: str, mode: str = "w") -> Path:
    """A tar of a folder, under the name `inside`."""
    with tarfile.open(path, mode) as tar:
        tar.add(folder, arcname=inside)
    return path


def drawn(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """A picture without sharp edges, which JPEG keeps: three waves, one a colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y * a + x * b + c) for a, b, c in rng.uniform(-0.1, 0.1, (3, 3))]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """A tar with these files in this order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def class_tars(classes: dict[str, int], backwards: bool = False) -> bytes:
    """A tar of class tars, each with that many drawn pictures."""
    tars = {}
    for name, count in classes.items():
        files = {
            f"{name}_{i}.JPEG": encoded(drawn(i + int(name[1:])), "JPEG")
            for i in range(count)
        }
        tars[f"{name}.tar"] = tar_bytes(reverse(files) if backwards else files)
    return tar_bytes(reverse(tars) if backwards else tars)


def numbered_tar(stem: str, numbers: Iterable[int]) -> bytes:
    """A flat tar of stem_00000001.JPEG …."""
    picture = encoded(drawn(0), "JPEG")
    return tar_bytes({f"{stem}_{n:08}.JPEG": picture for n in numbers})


def reverse(files: dict[str, bytes]) -> dict[str, bytes]:
    """The same, in the opposite order."""
    return dict(reversed(files.items()))
