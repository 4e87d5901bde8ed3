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

import jax
import ml_collections
import numpy as np
import psutil

from alexnet_jax import experiment, inputs
from alexnet_jax.benchmark import clock, input_peers
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
    threads = c.threads or cores
    apart = max(len(source) // SAMPLE, 1)
    stored = [source[i][1] for i in range(0, len(source), apart)][:SAMPLE]
    sample = [x if isinstance(x, bytes) else np.asarray(x) for x in stored]
    raw = isinstance(sample[0], np.ndarray)
    size = sum(x.nbytes if isinstance(x, np.ndarray) else len(x) for x in sample)
    print(
        f"{len(source):,} {'raw' if raw else 'encoded'} images of "
        f"{size / len(sample) / 1e3:,.0f} kB; batch of {config.batch_size}; "
        f"{threads} threads; {cores} cores",
        flush=True,
    )
    colours = Statistics(np.full((c.image_size,) * 2 + (3,), GREY), STDDEV, np.eye(3))
    spawn = multiprocessing.get_context("spawn")
    with (
        closing(inputs.training_input(config, source, colours, part=(0, 1))) as ours,
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(cores, spawn) as pool,
    ):
        file, crop = Path(folder) / "sample", config.augment.crop
        theirs = input_peers.torch_batches(
            sample, file, c.image_size, crop, config.batch_size, workers=cores
        )
        sides: dict[str, Callable[[], float]] = {
            "training's batches": lambda: _rate(ours, seconds, 2 * threads + 2),
            f"limit: {'copying' if raw else 'decoding'} only": lambda: (
                input_peers.limit(pool, sample, cores, seconds)
            ),
        }
        if theirs:
            sides["PyTorch's DataLoader"] = lambda: _rate(theirs, seconds, 3 * cores)
        input_peers.limit(pool, sample, cores, 0.01)  # starts all before any is timed
        next(theirs or ours)
        rates: dict[str, list[float]] = {side: [] for side in sides}
        memory, this = [], psutil.Process()
        for _ in range(ROUNDS):
            for side, rate in sides.items():
                rates[side].append(rate())
            processes = [this, *this.children(recursive=True)]
            # Shared pages count once.
            memory.append(sum(p.memory_full_info().pss for p in processes))
        images = next(ours)["image"]
    speed, limit, *others = map(statistics.median, rates.values())
    peer = None
    print(f"{'':24}{'images/s':>10}{'per core':>10}   in each round")
    for side, of_side in rates.items():
        median = statistics.median(of_side)
        rounds = " ".join(f"{rate:,.0f}" for rate in of_side)
        print(f"{side:24}{median:10,.0f}{median / cores:10,.0f}   {rounds}")
    print(f"{speed / limit:.0%} of the limit")
    if others:
        peer = {"torch": version("torch"), "images_per_second": others[0]}
        print(f"{speed / others[0]:.2f} times PyTorch's DataLoader, {cores} workers")
    sizes = ", ".join(f"{size / 1e6:,.0f}" for size in memory)
    print(f"memory of all processes after each round: {sizes} MB")
    sent = transfers(images, jax.local_devices()[0])
    return {
        "images_per_second": speed,
        "images_per_second_per_core": speed / cores,
        "limit_images_per_second": limit,
        "limit_share": speed / limit,
        "peer": peer,
        "memory_bytes": memory,
        "gigabytes_per_second_to_one_device": sent,
        "cores": cores,
        "threads": threads,
        "batch_size": config.batch_size,
    }


def transfers(images: np.ndarray, device: jax.Device) -> dict[str, float]:
    """Print GB/s from an array of the host to one device, by each way that it knows.

    'copied' is what training does: on a GPU XLA copies an array of less than 1 GiB into
    page-locked memory of its own and sends it from there. 'mapped' is without that
    copy, from memory that is page-locked where it lies; a CPU refuses it.
    """
    send = clock.on_device(lambda: jax.device_put(images, device))
    times = clock.in_turn({"copied": send}, ROUNDS)
    client, address = device.client, images.ctypes.data
    try:
        client.dma_map(address, images.nbytes)
    except jax.errors.JaxRuntimeError as error:
        print(f"to one device, mapped: {device} refuses: {error}")
    else:
        times |= clock.in_turn({"mapped": send}, ROUNDS)
        client.dma_unmap(address)
    rates = {way: images.nbytes / t.median / 1e9 for way, t in times.items()}
    for way, rate in rates.items():
        print(f"to one device, {way}: {rate:.1f} GB/s")
    return rates


def _rate(batches: Iterator[Any], seconds: float, ahead: int) -> float:
    """Images a second, after the batches that were prefetched."""
    for _ in range(ahead):
        next(batches)
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        count += len(next(batches)["label"])
    return count / passed
