"""The speed of the input path, compared with PyTorch's and with the machine's limit."""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import psutil

from alexnet_jax import experiment, inputs
from alexnet_jax.benchmark import input_peers
from alexnet_jax.data.statistics import Statistics

ROUNDS = 3
SAMPLE = 1000  # images of the limit and of PyTorch
# About ImageNet's; they change no speed.
GREY, STDDEV = np.float32(118), np.array([113.8, 33.7, 16.8], np.float32)


def measure(config: ml_collections.ConfigDict, seconds: float) -> dict[str, Any]:
    """Print the images a second of a config's input path.

    Three sides take turns: the batches of training (§4.1's crops and colours drawn, the
    reflection left to the device); the same work by PyTorch's DataLoader on the same
    images with a worker for each core; and all cores that only decode JPEGs, or only
    copy where images are raw pixels.

    Args:
        config: its dataset.*, augment.* and batch_size.
        seconds: of each side in each round.

    Returns:
        The JSON object of `benchmark input`.
    """
    experiment.check(config)
    source = inputs.open_images(config, "train")
    inputs.require_a_batch(source, config)
    c, cores = config.dataset, len(os.sched_getaffinity(0))
    apart = max(len(source) // SAMPLE, 1)
    stored = [source[i][1] for i in range(0, len(source), apart)][:SAMPLE]
    sample = [x if isinstance(x, bytes) else np.asarray(x) for x in stored]
    raw = isinstance(sample[0], np.ndarray)
    size = sum(x.nbytes if isinstance(x, np.ndarray) else len(x) for x in sample)
    print(
        f"{len(source):,} {'raw' if raw else 'encoded'} images of "
        f"{size / len(sample) / 1e3:,.0f} kB; batch of {config.batch_size}; "
        f"{c.workers} worker processes, {c.threads} threads each; {cores} cores",
        flush=True,
    )
    colours = Statistics(np.full((c.image_size,) * 2 + (3,), GREY), STDDEV, np.eye(3))
    spawn = multiprocessing.get_context("spawn")
    with (
        closing(inputs.training_input(config, source, colours, part=(0, 1))) as ours,
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(cores, spawn) as pool,
    ):
        theirs = input_peers.torch_batches(
            sample,
            Path(folder) / "sample",
            side=c.image_size,
            crop=config.augment.crop,
            batch_size=config.batch_size,
            workers=cores,
        )
        ahead = (c.workers or 1) * (c.threads + 2) + 2
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda: _rate(ours, seconds, ahead),
            "limit": lambda: input_peers.limit(pool, sample, cores, seconds),
        }
        if theirs:
            sides["peer"] = lambda: _rate(theirs, seconds, 3 * cores)
        rates: dict[str, list[float]] = {side: [] for side in sides}
        memory = []
        input_peers.limit(pool, sample, cores, 0.01)  # starts all before any is timed
        next(theirs or ours)
        for _ in range(ROUNDS):
            for side, rate in sides.items():
                rates[side].append(rate())
                if side == "ours":
                    memory.append(_memory())
    median = {side: statistics.median(of_side) for side, of_side in rates.items()}
    peer = theirs and {
        "torch": version("torch"),
        "images_per_second": median["peer"],
    }
    result: dict[str, Any] = {
        "images_per_second": median["ours"],
        "images_per_second_per_core": median["ours"] / cores,
        "limit_images_per_second": median["limit"],
        "limit_share": median["ours"] / median["limit"],
        "peer": peer,
        "memory_bytes": memory,
        "cores": cores,
        "workers": c.workers,
        "threads": c.threads,
        "batch_size": config.batch_size,
    }
    print(table(rates, result, "copying" if raw else "decoding"))
    return result


def table(rates: dict[str, list[float]], result: dict[str, Any], work: str) -> str:
    """A line for each side, and the figures in a few more."""
    names = {"ours": "training's batches", "limit": f"limit: {work} only"}
    names["peer"] = "PyTorch's DataLoader"
    cores, memory = result["cores"], result["memory_bytes"]
    lines = [f"{'':24}{'images/s':>10}{'per core':>10}   in each round"]
    for side, of_side in rates.items():
        median = statistics.median(of_side)
        rounds = " ".join(f"{rate:,.0f}" for rate in of_side)
        lines.append(
            f"{names[side]:24}{median:10,.0f}{median / cores:10,.0f}   {rounds}"
        )
    lines.append(f"{result['limit_share']:.0%} of the limit")
    if peer := result["peer"]:
        ratio = result["images_per_second"] / peer["images_per_second"]
        lines.append(f"{ratio:.2f} times PyTorch's DataLoader with {cores} workers")
    sizes = ", ".join(f"{size / 1e6:,.0f}" for size in memory)
    return "\n".join([*lines, f"memory of all processes after each round: {sizes} MB"])


def _rate(batches: Iterator[Any], seconds: float, ahead: int) -> float:
    """Images a second, after the batches that were prefetched."""
    for _ in range(ahead):
        next(batches)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        count += len(next(batches)["label"])
    return count / passed


def _memory() -> int:
    """Bytes of this process and its children; shared pages count once."""
    this = psutil.Process()
    processes = [this, *this.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes)
