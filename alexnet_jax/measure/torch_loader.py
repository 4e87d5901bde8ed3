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

    def __init__(self, file: Path, offsets: list[int], shape: Any, crop: int):
        """Say where the pictures are.

        Args:
            file: all of them, one after another.
            offsets: in bytes, of each one's start and of the end.
            shape: of each, where they are pixels; None where Pillow has to decode them.
            crop: side in pixels.
        """
        self.file, self.offsets, self.shape, self.crop = file, offsets, shape, crop
        self.open_file: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> dict[str, Any]:
        import torch

        if self.open_file is None:
            self.open_file = os.open(self.file, os.O_RDONLY)
        start, end = self.offsets[i : i + 2]
        data = os.pread(self.open_file, end - start, start)
        if self.shape:
            picture = np.frombuffer(data, np.uint8).reshape(self.shape)
        else:
            picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        spare = torch.tensor(picture.shape[:2]) - self.crop
        y, x = (torch.rand(2) * (spare + 1)).int().tolist()
        # A copy: PyTorch warns of memory that it may not write to.
        cropped = picture[y : y + self.crop, x : x + self.crop].copy()
        image = torch.from_numpy(cropped)
        if torch.rand(()) < 0.5:
            image = image.flip(1)
        return {"image": image, "colour_offset": torch.randn(3), "label": 0}


def batches(
    sample: list[Any], file: Path, crop: int, batch_size: int, workers: int
) -> Iterator[dict[str, Any]] | None:
    """Endless batches by PyTorch; None, and a line that says so, where it is not there.

    Args:
        sample: the pictures, image files or pixels.
        file: where to put them.
        crop: side in pixels.
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
    shape = sample[0].shape if isinstance(sample[0], np.ndarray) else None
    dataset: Any = Pictures(file, offsets, shape, crop)
    # As many draws as make starting anew for each epoch a thing of no weight.
    sampler = torch.utils.data.RandomSampler(dataset, True, num_samples=1 << 30)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="spawn",  # JAX has threads, which a fork would lose
    )
    return iter(loader)


def described(images_per_second: float) -> dict[str, Any]:
    """The peer's part of the JSON object."""
    import torch

    return {"torch": torch.__version__, "images_per_second": images_per_second}
