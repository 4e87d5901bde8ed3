"""The speed of predict, compared with the same network in PyTorch with a DataLoader."""

import itertools
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import jax
import ml_collections
import numpy as np

from alexnet_jax import device, experiment, inputs, parallel
from alexnet_jax.benchmark import clock, input_peers, torch_peer
from alexnet_jax.data.ilsvrc import CLASSES
from alexnet_jax.data.images import View
from alexnet_jax.inference import Model
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.predictor import BATCH, Predictor
from alexnet_jax.step import initial_params

ROUNDS, VIEWS = 3, 10
GREY = 118  # the mean of all pixels
SAMPLE, ENDLESS = 1000, 1 << 22  # images, which are read over and over


def measure(config: ml_collections.ConfigDict, seconds: float) -> dict[str, Any]:
    """Print the images a second of predict and of PyTorch, from image file to answer.

    Both sides decode the same images to the same squares, average ten views by the same
    network with the same random weights, in batches of the same size on one device, and
    take turns. PyTorch's DataLoader has a worker for each core.

    Args:
        config: its network.*, augment.crop, and dataset.*, whose training images both
            sides read.
        seconds: of each side in each round.

    Returns:
        The JSON object of `benchmark predict`.
    """
    experiment.check(config)
    source, size = inputs.open_images(config, "train"), config.dataset.image_size
    rows = np.arange(0, len(source), max(len(source) // SAMPLE, 1))[:SAMPLE]
    stored = [source[int(row)][1] for row in rows]
    images = [x if isinstance(x, bytes) else np.asarray(x) for x in stored]
    network, crop = experiment.make_network(config, CLASSES), config.augment.crop
    mesh = parallel.make_mesh(1, 1, network.towers, BATCH)
    experiment.require_memory(config, CLASSES, mesh)
    params = device.jit(initial_params, static_argnums=(0, 1, 2))(
        network, config.seed, crop
    )
    mean_image = parallel.replicate(mesh, np.full((size, size, 3), GREY, np.float32))
    probabilities = experiment.make_probabilities(config, network, mesh, VIEWS)
    model, names = Model(probabilities, params, mean_image), [""] * CLASSES
    square = inputs.make_square(config)
    predictor = Predictor([model], network, names, square, crop, mesh)
    kind = jax.devices()[0].device_kind
    print(
        f"{len(rows):,} images to {size}×{size}, {VIEWS} views of {crop}×{crop}, batch "
        f"of {BATCH}; {kind}, {config.precision}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder, clock.peer_process(
        start_peer, network, jax.device_get(params), images, Path(folder, "images"),
        size, crop, jax.default_backend(),
    ) as peers:  # fmt: skip
        endless = View(source, np.resize(rows, ENDLESS))
        blocks = predictor.over(endless, predictor.predict)

        def predict(times: int) -> None:
            for _ in range(times):
                next(blocks)

        sides = {"predict": predict, **peers}
        rates: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(ROUNDS):
            for side, run in sides.items():
                rates[side].append(_rate(run, seconds))
        blocks.close()
    print(f"{'':32}{'images/s':>10}   in each round")
    medians = {side: statistics.median(own) for side, own in rates.items()}
    for side, own in rates.items():
        rounds = " ".join(f"{rate:,.1f}" for rate in own)
        print(f"{side:32}{medians[side]:10,.1f}   {rounds}")
    speed, peer = medians.pop("predict"), None
    if medians:
        best = max(medians, key=lambda side: medians[side])
        peer = {"torch": version("torch"), "images_per_second": medians[best]}
        print(f"{speed / medians[best]:.2f} times {best}")
    return {
        "images_per_second": speed,
        "views": VIEWS,
        "batch_size": BATCH,
        "device": kind,
        "peer": peer,
    }


def _rate(run: Callable[[int], None], seconds: float) -> float:
    """Images a second, after as long a time for what was decoded ahead."""
    for _ in range(2):
        count, start = 0, perf_counter()
        while (passed := perf_counter() - start) < seconds:
            run(1)
            count += BATCH
    return count / passed


def start_peer(
    network: AlexNet,
    params: Any,
    images: input_peers.Images,
    file: Path,
    size: int,
    crop: int,
    platform: str,
) -> clock.Runs:
    """The same in PyTorch: a run for each mode, of so many batches.

    Args:
        network: only its fields are read.
        params: of `alexnet_jax`.
        images: as for `input_peers.torch_batches`, as is `file`.
        file: where to write them.
        size: of the squares, in pixels.
        crop: side of a view, in pixels.
        platform: JAX's name of its kind of device.
    """
    batches = input_peers.torch_batches(
        *(images, file, size, size, BATCH), workers=len(os.sched_getaffinity(0))
    )
    if batches is None:
        return {}
    import torch

    device = "cuda" if platform == "gpu" and torch.cuda.is_available() else "cpu"
    rounded = np.dtype(network.dtype) != np.float32

    def run(answer: Any, tensors: Any, format: Any, times: int) -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=rounded),
        ):
            for _ in range(times):
                image = next(batches)["image"].to(device).permute(0, 3, 1, 2)
                x = image.float().sub(GREY).contiguous(memory_format=format)
                answer(tensors, x).cpu().numpy()

    runs = {}
    for mode, (channels_last, compiled) in torch_peer.MODES.items():
        format = torch.channels_last if channels_last else torch.contiguous_format
        tensors = torch_peer.as_tensors(params, device=device, memory_format=format)
        answer = make_answer(network, crop, compiled)
        runs[f"PyTorch, {mode}"] = partial(run, answer, tensors, format)
    return runs


def make_answer(
    network: AlexNet, crop: int, compiled: bool = False
) -> Callable[[Any, Any], Any]:
    """The average over ten views in PyTorch, written without ours.

    Args:
        network: only its fields are read.
        crop: side of a view, in pixels.
        compiled: by `torch.compile`, when it is first called.

    Returns:
        answer(tensors, mean-free squares (B, 3, S, S)) → (B, classes).
    """
    import torch

    kept = 1 - network.dropout
    forward = torch_peer.make_forward(network)
    if compiled:
        forward = torch.compile(forward)

    def drop(units: Any, layer: str) -> Any:
        return units * kept

    def answer(tensors: Any, image: Any) -> Any:
        margin = image.shape[-1] - crop
        ends = itertools.product((0, margin), (0, margin))
        corners = [(margin // 2, margin // 2), *ends]
        answers = []
        for square in (image, image.flip(3)):
            for y, x in corners:
                pixels = square[:, :, y : y + crop, x : x + crop]
                logits = forward(tensors, pixels, drop)
                answers.append(logits.float().softmax(dim=1))
        return sum(answers) / len(answers)

    return answer
