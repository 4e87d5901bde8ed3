"""PyTorch's DataLoader at the work of our input path, where PyTorch is installed."""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Pictures:
    """Pictures in one file; each is cropped and reflected at random.

    As a data set for PyTorch is usually written: Pillow decodes, PyTorch draws the
    random numbers. Neither mean nor scale is applied, by either side.
    """

    def __init__(
        self, file: Path, offsets: list[int], encoded: bool, side: int, crop: int
    ):
        """Say where the pictures are.

        Args:
            file: all of them, one after another.
            offsets: in bytes, of each one's start and of the end.
            encoded: whether Pillow has to decode them, or they are pixels.
            side: in pixels, of the squares that are cropped.
            crop: the side of what is left.
        """
        self.file, self.offsets = file, offsets
        self.encoded, self.side, self.crop = encoded, side, crop
        self.open_file: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> dict[str, Any]:
        import torch

        if self.open_file is None:
            self.open_file = os.open(self.file, os.O_RDONLY)
        start, end = self.offsets[i : i + 2]
        data = os.pread(self.open_file, end - start, start)
        if self.encoded:
            picture = np.asarray(self._square(Image.open(io.BytesIO(data))))
        else:
            picture = np.frombuffer(data, np.uint8).reshape(self.side, self.side, 3)
        y, x = torch.randint(self.side - self.crop + 1, (2,)).tolist()
        # A copy: PyTorch warns of memory that it may not write to.
        cropped = picture[y : y + self.crop, x : x + self.crop].copy()
        image = torch.from_numpy(cropped)
        if torch.rand(()) < 0.5:
            image = image.flip(1)
        return {"image": image, "colour_offset": torch.randn(3), "label": 0}

    def _square(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        if image.size == (self.side, self.side):
            return image
        half = min(image.size) / 2
        x, y = image.width / 2, image.height / 2
        box = (x - half, y - half, x + half, y + half)
        size = (self.side, self.side)
        return image.resize(size, Image.Resampling.BICUBIC, box)


def batches(
    sample: list[Any],
    file: Path,
    *,
    side: int,
    crop: int,
    batch_size: int,
    workers: int,
) -> Iterator[dict[str, Any]] | None:
    """Endless batches by PyTorch; None, and a line that says so, where it is not there.

    Args:
        sample: the pictures, image files or pixels.
        file: where to put them.
        side: of the squares that they are brought to, in pixels.
        crop: side of what is cut out of them.
        batch_size: pictures in a batch.
        workers: processes.
    """
    try:
        import torch
    except ImportError:
        print("no PyTorch to compare with: pip install 'alexnet_jax[peers]'")
        return None
    with file.open("wb") as f:
        offsets = [0]
        for image in sample:
            f.write(image)
            offsets.append(f.tell())
    encoded = isinstance(sample[0], bytes)
    dataset: Any = Pictures(file, offsets, encoded, side, crop)
    # As many draws as make starting anew for each epoch a thing of no weight.
    sampler = torch.utils.data.RandomSampler(dataset, True, num_samples=1 << 30)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        # JAX has threads, which a fork would lose.
        multiprocessing_context="spawn" if workers else None,
    )
    return iter(loader)


def described(images_per_second: float) -> dict[str, Any]:
    """The peer's part of the JSON object."""
    import torch

    return {"torch": torch.__version__, "images_per_second": images_per_second}
