"""The comparisons of the input path: cores that only decode, and PyTorch's DataLoader.

Worker processes import this module, so it imports neither JAX nor PyTorch itself.
"""

import io
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from alexnet_jax.data.preprocess import decode

Images = Sequence[bytes | np.ndarray]  # image files, or pixels


def limit(pool: Executor, sample: Images, cores: int, seconds: float) -> float:
    """Images a second that a pool of `cores` processes decodes, or copies if pixels."""
    # All start at the same moment, when each has its images.
    start = time.time() + 0.5 + len(sample) / 1000
    runs = [pool.submit(_work, sample, start, seconds) for _ in range(cores)]
    return sum(run.result() for run in runs)


def _work(sample: Images, start: float, seconds: float) -> float:
    """Images a second of this process."""
    # Filled, for the pages of a new array are mapped when it is first written.
    copies = [np.full_like(x, 1) for x in sample if isinstance(x, np.ndarray)]
    time.sleep(max(start - time.time(), 0))
    done, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        for i, image in enumerate(sample):
            if isinstance(image, np.ndarray):
                copies[i][:] = image
            else:
                _bare_decode(image)
        done += len(sample)
    return done / passed


def _bare_decode(image: bytes) -> None:
    try:
        simplejpeg.decode_jpeg(image, "RGB")
    except ValueError:  # not a JPEG
        decode(image, "an image")


@dataclass
class Crops:
    """A data set as it is usually written for PyTorch: random crops and reflections.

    Pillow decodes, PyTorch draws the random numbers. Neither side subtracts the mean.
    """

    file: Path  # all images, one after another
    offsets: list[int]  # in bytes, of the start of each and of the end
    encoded: bool  # image files, or pixels
    side: int  # pixels, of the squares that are cropped
    crop: int  # pixels, of the crops
    open_file: int | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> dict[str, Any]:
        import torch

        if self.open_file is None:
            self.open_file = os.open(self.file, os.O_RDONLY)
        start, end = self.offsets[i : i + 2]
        data = os.pread(self.open_file, end - start, start)
        if self.encoded:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            size = (self.side, self.side)
            square = np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC))
        else:
            square = np.frombuffer(data, np.uint8).reshape(self.side, self.side, 3)
        y, x = torch.randint(self.side - self.crop + 1, (2,)).tolist()
        cropped = square[y : y + self.crop, x : x + self.crop]
        crop = torch.from_numpy(cropped.copy())  # read-only memory is warned of
        if self.crop < self.side and torch.rand(()) < 0.5:  # in training
            crop = crop.flip(1)
        return {"image": crop, "colour_offset": torch.randn(3), "label": 0}


def torch_batches(
    sample: Images, file: Path, side: int, crop: int, batch_size: int, workers: int
) -> Iterator[dict[str, Any]] | None:
    """Endless batches of PyTorch's DataLoader; None, and a line, without PyTorch.

    Args:
        sample: the images.
        file: where to write them.
        side: of the squares that are cropped, in pixels.
        crop: side of the crops, in pixels; as large as the squares: no reflections.
        batch_size: images in a batch.
        workers: processes.
    """
    try:
        import torch
    except ImportError:
        print("no PyTorch to compare with: pip install 'alexnet_jax[peers]'")
        return None
    images = [x if isinstance(x, bytes) else x.tobytes() for x in sample]
    file.write_bytes(b"".join(images))
    offsets = [0, *itertools.accumulate(map(len, images))]
    dataset: Any = Crops(file, offsets, isinstance(sample[0], bytes), side, crop)
    # One epoch of so many draws that the start of the next one does not matter.
    sampler = torch.utils.data.RandomSampler(dataset, True, num_samples=1 << 30)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,  # JAX has threads
    )
    return iter(loader)
