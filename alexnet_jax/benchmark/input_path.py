"""How fast pictures come, beside PyTorch and what the machine does at best."""

import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import psutil

from alexnet_jax import experiment, pictures
from alexnet_jax.benchmark import input_limit, torch_loader
from alexnet_jax.data.images import StoredImage
from alexnet_jax.data.loader import training_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import Source
from alexnet_jax.data.statistics import Statistics

ROUNDS = 3
SAMPLE = 1000  # pictures that the limit and PyTorch are measured on
# §2's and §4.1's of ImageNet, nearly; what they are changes no speed.
GREY, STDDEV = 118.0, (113.8, 33.7, 16.8)


def measure(config: ml_collections.ConfigDict, seconds: float) -> dict[str, Any]:
    """Prints how many pictures a second the input path of a config gives.

    Three sides take turns: batches as training gets them (§4.1's crop and colours
    drawn, reflection left to the device), the same work by PyTorch's DataLoader on the
    same pictures with as many workers as cores, and all cores at once at nothing but
    decoding JPEGs, or copying where pictures are raw pixels.

    Args:
        config: its dataset.*, augment.* and batch_size.
        seconds: for which each side is timed in each of the rounds.

    Returns:
        The JSON object of `benchmark input`.

    Raises:
        InputError: there are no such pictures, or fewer than a batch.
    """
    experiment.check(config)
    source = pictures.open_pictures(config, "train")
    pictures.require_a_batch(source, config)
    cores = len(os.sched_getaffinity(0))
    sample = [_stored(source[i][1]) for i in _spread(len(source), SAMPLE)]
    kind = "raw pixels" if isinstance(sample[0], np.ndarray) else "encoded pictures"
    size = sum(map(_bytes, sample)) / len(sample)
    c = config.dataset
    print(
        f"{len(source):,} {kind} of {size / 1e3:,.0f} kB; batch of {config.batch_size};"
        f" {c.workers} worker processes, {c.threads} threads each; {cores} cores",
        flush=True,
    )
    with ExitStack() as stack:
        ours = stack.enter_context(closing(_ours(source, config)))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        theirs = torch_loader.batches(
            sample,
            Path(folder) / "sample",
            side=c.image_size,
            crop=config.augment.crop,
            batch_size=config.batch_size,
            workers=cores,
        )
        pool = stack.enter_context(
            ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"))
        )
        limit = input_limit.prepare(pool, sample, cores)
        ahead = (c.workers or 1) * (c.threads + 2) + 2
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda: _rate(ours, seconds, ahead),
            "limit": lambda: limit(seconds),
        }
        if theirs:
            sides["peer"] = lambda: _rate(theirs, seconds, 3 * cores)
        taken: dict[str, list[float]] = {side: [] for side in sides}
        memory = []
        limit(0.01)  # all have started before any is timed
        next(theirs or ours)
        for _ in range(ROUNDS):
            for side, rate in sides.items():
                taken[side].append(rate())
                if side == "ours":
                    memory.append(_memory())
    return _told(taken, memory, cores, kind, config)


def _ours(source: Source, config: ml_collections.ConfigDict) -> Any:
    c = config.dataset
    mean = np.full((c.image_size, c.image_size, 3), GREY, np.float32)
    colours = np.array(STDDEV, np.float32), np.eye(3, dtype=np.float32)
    return training_batches(
        source,
        Square(c.image_size),
        experiment.make_augmentation(config, Statistics(mean, *colours), len(source)),
        batch_size=config.batch_size,
        seed=config.seed,
        workers=c.workers,
        threads=c.threads,
    )


def _spread(of: int, count: int) -> Iterator[int]:
    """That many indices, evenly spread."""
    return itertools.islice(range(0, of, max(of // count, 1)), count)


def _stored(image: StoredImage) -> bytes | np.ndarray:
    return image if isinstance(image, bytes) else np.asarray(image)


def _bytes(image: bytes | np.ndarray) -> int:
    return image.nbytes if isinstance(image, np.ndarray) else len(image)


def _rate(batches: Iterator[Any], seconds: float, ahead: int) -> float:
    """Pictures a second, after those that were computed ahead of their reader."""
    for _ in range(ahead):
        next(batches)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        count += len(next(batches)["label"])
    return count / passed


def _memory() -> int:
    """Bytes of this process and those that it started; shared pages count once."""
    this = psutil.Process()
    everyone = [this, *this.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in everyone)


def _told(
    taken: dict[str, list[float]],
    memory: list[int],
    cores: int,
    kind: str,
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Prints the table, and makes the JSON object of it."""
    median = {side: statistics.median(rates) for side, rates in taken.items()}
    what = "copying them" if kind == "raw pixels" else "decoding them"
    names = {
        "ours": "training's batches",
        "limit": f"limit: {what}",
        "peer": "PyTorch's DataLoader",
    }
    print(f"{'':24}{'images/s':>10}{'per core':>10}   in each round")
    for side, rates in taken.items():
        rounds = " ".join(f"{rate:,.0f}" for rate in rates)
        print(
            f"{names[side]:24}{median[side]:10,.0f}{median[side] / cores:10,.0f}   "
            f"{rounds}"
        )
    result: dict[str, Any] = {
        "images_per_second": median["ours"],
        "images_per_second_per_core": median["ours"] / cores,
        "limit_images_per_second": median["limit"],
        "limit_share": median["ours"] / median["limit"],
        "peer": None,
        "memory_bytes": memory,
        "cores": cores,
        "workers": config.dataset.workers,
        "threads": config.dataset.threads,
        "batch_size": config.batch_size,
    }
    print(f"{result['limit_share']:.0%} of the limit")
    if "peer" in median:
        result["peer"] = torch_loader.described(median["peer"])
        ratio = median["ours"] / median["peer"]
        print(f"{ratio:.2f} times PyTorch's DataLoader with {cores} workers")
    rounds = ", ".join(f"{size / 1e6:,.0f}" for size in memory)
    print(f"memory of all processes after each round: {rounds} MB")
    return result
