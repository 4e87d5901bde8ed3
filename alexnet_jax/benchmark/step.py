"""The speed of training and inference, compared with PyTorch and with the roofline."""

import os
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import jax
import ml_collections
import numpy as np

from alexnet_jax import experiment
from alexnet_jax.benchmark import clock, operations, torch_peer
from alexnet_jax.data.ilsvrc import CLASSES
from alexnet_jax.errors import InputError
from alexnet_jax.feed import CachedTransfer
from alexnet_jax.network.shapes import inference_flop, training_flop
from alexnet_jax.step import training_pixels

ROUNDS, READING = 3, 2.0  # seconds


def measure(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Print the speed of a config's training and inference on one device.

    Returns:
        The JSON object of `benchmark step`.
    """
    # JAX would otherwise take nearly all memory of an accelerator at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    require_one_device(config)
    experiment.check(config)
    mesh = experiment.make_mesh(config)
    experiment.require_memory(config, CLASSES, mesh, training=True)
    program = experiment.make_program(config, CLASSES, mesh)
    network, images, crop = program.network, config.batch_size, config.augment.crop
    device = jax.devices()[0]
    print(f"{device.device_kind}, batch of {images:,}, {config.precision}", flush=True)

    batch, mean_image = random_batch(program)
    ours, compile_seconds, peak = prepare(config, program, batch, mean_image)
    pixels = training_pixels(batch, mean_image, crop, config.augment.mean_at)
    params = program.initialise().params
    arrays = jax.device_get((params, pixels, batch["label"]))
    with clock.peer_process(
        torch_peer.start, network, arrays, device.platform, torch_peer.MODES
    ) as peers:
        limit_runs = operations.limit_runs(network.dtype)
        times = clock.in_turn({**ours, **peers, **limit_runs}, ROUNDS, READING)
    limits = operations.Limits.read(times)
    rows = operations.measure(operations.operations_of(config, program), limits)
    seconds, forward = times["train"].median, times["inference"].median
    flop = training_flop(network, crop)
    rate = limits.flops / images  # at which an image is computed
    result = {
        "train_images_per_second": images / seconds,
        "inference_images_per_second": images / forward,
        "batch_size": images,
        "precision": config.precision,
        "device": device.device_kind,
        "jax": jax.__version__,
        "train_milliseconds": 1e3 * seconds,
        "train_gflop_per_image": flop / 1e9,
        "matmul_gflops": limits.flops / 1e9,
        "copy_gigabytes_per_second": limits.bytes / 1e9,
        "roofline_share": flop / rate / seconds,
        "inference_roofline_share": inference_flop(network, crop) / rate / forward,
        "roofline_share_with_memory": operations.least_seconds(rows) / seconds,
        "compile_seconds": compile_seconds,
        "peak_memory_bytes": peak,
        "peer": torch_peer.speeds(times, images),
        "layers": rows,
    }
    tables = operations.table(rows, seconds), table(times, images), summary(result)
    print(*tables, sep="\n\n")
    return result


def require_one_device(config: ml_collections.ConfigDict) -> None:
    """Settle mesh.data=-1 on one device; refuse a mesh of more."""
    if config.mesh.data == -1:
        config.mesh.data = 1
    for axis, devices in config.mesh.items():
        if devices != 1:
            raise InputError(
                f"mesh.{axis}={devices}: benchmark step measures one device; set 1"
            )


def random_batch(program: experiment.Program) -> tuple[dict[str, jax.Array], jax.Array]:
    """A batch of noise and a grey mean image, on the device."""
    rng = np.random.default_rng(0)
    shapes = program.batch, program.mean_image
    batch, grey = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)
    batch["image"] = rng.integers(0, 256, batch["image"].shape, np.uint8)
    batch["label"] = rng.integers(0, CLASSES, batch["label"].shape, np.int32)
    shardings = jax.tree.map(lambda x: x.sharding, shapes)
    return jax.device_put((batch, 127 * grey), shardings)


def prepare(
    config: ml_collections.ConfigDict,
    program: experiment.Program,
    batch: Any,
    mean_image: Any,
) -> tuple[dict[str, Callable[[int], None]], float, int]:
    """Compile the training step and the prediction of one view, and run each once.

    Returns:
        {'train', 'inference': runs}, seconds to compile the step, bytes of its memory.
    """
    start = perf_counter()
    train_step = program.compile()
    compile_seconds = perf_counter() - start
    mesh = experiment.make_mesh(config)
    schedule = experiment.make_schedule(config)
    rates = CachedTransfer(mesh).put(schedule.rates(0, program.network.weighted))
    held = [program.initialise()]  # each state is donated to the next step

    def step() -> jax.Array:
        held[0], loss = train_step(held[0], batch, mean_image, rates)
        return loss

    jax.block_until_ready(step())
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        peak = statistics["peak_bytes_in_use"]
    else:  # a CPU does not count: what XLA planned
        plan = train_step.memory_analysis()
        peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes
        peak += plan.output_size_in_bytes - plan.alias_size_in_bytes

    probabilities = experiment.make_probabilities(config, program.network, mesh)
    params = program.initialise().params
    infer = clock.on_device(lambda: probabilities(params, batch["image"], mean_image))
    infer(1)
    return {"train": clock.on_device(step), "inference": infer}, compile_seconds, peak


def table(times: Mapping[str, clock.Times], images: int) -> str:
    """A line for each run."""
    rows = [f"{f'median of {ROUNDS} rounds':28}{'ms':>10}{'images/s':>10}{'spread':>8}"]
    for name, taken in times.items():
        rate = "" if name in operations.LIMITS else f"{images / taken.median:,.1f}"
        ms = f"{taken.median * 1e3:10,.2f}"
        rows.append(f"{name:28}{ms}{rate:>10}{taken.spread:8.0%}")
    return "\n".join(rows)


def summary(result: dict[str, Any]) -> str:
    """The figures of the JSON object in a few lines."""
    r, peer = result, result["peer"]
    lines = [
        f"training   {r['train_images_per_second']:,.1f} images/s: "
        f"{r['roofline_share']:.0%} of the matrix product's rate, "
        f"{r['roofline_share_with_memory']:.0%} of the roofline of all operations",
        f"inference  {r['inference_images_per_second']:,.1f} images/s: "
        f"{r['inference_roofline_share']:.0%} of the matrix product's rate",
        f"compiled in {r['compile_seconds']:.1f} s; peak memory "
        f"{r['peak_memory_bytes'] / 1e9:,.2f} GB",
    ]
    for kind in ("train", "inference") if peer else ():
        ours, theirs = (side[f"{kind}_images_per_second"] for side in (r, peer))
        lines.append(
            f"{kind}: {ours / theirs:.2f} times PyTorch {peer['torch']}'s best, "
            f"{theirs:,.1f} images/s ({peer[f'{kind}_mode']})"
        )
    return "\n".join(lines)
