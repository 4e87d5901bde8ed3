"""What all cores do at best with pictures, when that is all that they do."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, wait

import numpy as np
import simplejpeg

from alexnet_jax.data.preprocess import decode

Images = Sequence[bytes | np.ndarray]


def prepare(pool: Executor, sample: Images, cores: int) -> Callable[[float], float]:
    """Makes ready to decode, or where they are pixels to copy, pictures on all cores.

    Args:
        pool: of as many processes as cores.
        sample: the pictures, in memory.
        cores: how many.

    Returns:
        rate(seconds) → pictures a second.
    """

    def rate(seconds: float) -> float:
        # All start at the same moment, when each has its pictures.
        start = time.time() + 0.5 + len(sample) / 1000
        runs = [pool.submit(_work, sample, start, seconds) for _ in range(cores)]
        wait(runs)
        return sum(run.result() for run in runs)

    return rate


def _work(sample: Images, start: float, seconds: float) -> float:
    """Pictures a second of this process."""
    there = [np.empty_like(image) for image in sample if isinstance(image, np.ndarray)]
    for copy in there:
        copy[:] = 1  # for a new array, an operating system first has to find the pages
    time.sleep(max(start - time.time(), 0))
    done, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        for i, image in enumerate(sample):
            if isinstance(image, np.ndarray):
                there[i][:] = image
            else:
                _bare_decode(image)
        done += len(sample)
    return done / passed


def _bare_decode(image: bytes) -> None:
    try:
        simplejpeg.decode_jpeg(image, "RGB")
    except ValueError:  # no JPEG
        decode(image, "a picture")
