"""How fast a training step is: beside PyTorch's, and beside what the machine can do."""

import os
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from alexnet_jax import experiment
from alexnet_jax.benchmark import clock, elsewhere, limits, operations, torch_peer, work
from alexnet_jax.benchmark.clock import Times
from alexnet_jax.data.ilsvrc import CLASSES
from alexnet_jax.errors import InputError
from alexnet_jax.feed import SeldomChanging
from alexnet_jax.network.alexnet import LAYERS
from alexnet_jax.program import Program, make_program
from alexnet_jax.step import training_pixels

ROUNDS, READING = 3, 2.0  # seconds


def measure(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Prints the speed of training and inference on one device.

    Args:
        config: its network, batch size and precision; mesh.data=-1 counts as 1.

    Returns:
        The JSON object of `benchmark step`.

    Raises:
        InputError: the config is wrong, or asks for more than one device.
    """
    # JAX would otherwise take nearly all memory of an accelerator at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    one_device(config)
    experiment.check(config)
    mesh = experiment.make_mesh(config)
    program, images = make_program(config, CLASSES, mesh), config.batch_size
    device = jax.devices()[0]
    print(f"{device.device_kind}, batch of {images:,}, {config.precision}", flush=True)

    batch, mean_image = random_batch(program)
    ours = prepare(config, program, batch, mean_image)
    with elsewhere.running(
        torch_peer.start,
        program.network,
        jax.device_get(program.initialise().params),
        np.asarray(
            training_pixels(
                batch, mean_image, config.augment.crop, config.augment.mean_at
            )
        ),
        np.asarray(batch["label"]),
        device.platform,
        torch_peer.MODES,
    ) as peers:
        own = {"train": ours.train, "answer": ours.answer}
        limit = limits.make_runs(program.network.dtype)
        times = clock.in_turn({**own, **peers, **limit}, ROUNDS, READING)
    found = limits.read(times)
    parts = operations.measure(operations.operations_of(config, program), found)

    layers = work.layers_of(program.network, images, config.augment.crop)
    seconds, answer_seconds = times["train"].median, times["answer"].median
    flop = work.training_flop(layers)
    result = {
        "train_images_per_second": images / seconds,
        "inference_images_per_second": images / answer_seconds,
        "batch_size": images,
        "precision": config.precision,
        "device": device.device_kind,
        "jax": jax.__version__,
        "train_milliseconds": 1e3 * seconds,
        "train_gflop_per_image": flop / images / 1e9,
        "matmul_gflops": found.flops / 1e9,
        "copy_gigabytes_per_second": found.bytes / 1e9,
        "roofline_share": flop / found.flops / seconds,
        "inference_roofline_share": work.inference_flop(layers)
        / found.flops
        / answer_seconds,
        "roofline_share_with_memory": sum(p.least_seconds for p in parts) / seconds,
        "compile_seconds": ours.compile_seconds,
        "peak_memory_bytes": ours.peak_memory_bytes,
        "peer": torch_peer.speeds(times, images),
        "layers": [part.as_json() for part in parts],
    }
    print(operations.table(parts, seconds), table(times, images), sep="\n\n")
    print("\n".join(summary(result)))
    return result


def one_device(config: ml_collections.ConfigDict) -> None:
    """Settles the mesh of a config on one device.

    Raises:
        InputError: it asks for more.
    """
    if config.mesh.data == -1:
        config.mesh.data = 1
    for axis, devices in config.mesh.items():
        if devices != 1:
            raise InputError(
                f"mesh.{axis}={devices}: benchmark step measures one device; set "
                f"--config.mesh.{axis}=1"
            )


def random_batch(program: Program) -> tuple[dict[str, jax.Array], jax.Array]:
    """A batch of noise and a grey mean image, on the device."""
    rng = np.random.default_rng(0)
    batch = {
        name: np.zeros(shape.shape, shape.dtype)
        for name, shape in program.batch.items()
    }
    batch["image"] = rng.integers(0, 256, batch["image"].shape, np.uint8)
    batch["label"] = rng.integers(0, CLASSES, batch["label"].shape, np.int32)
    batch["scale"] += 1
    batch["weight"] += 1
    shardings = {name: shape.sharding for name, shape in program.batch.items()}
    grey = np.full(program.mean_image.shape, 127, np.float32)
    return (
        jax.device_put(batch, shardings),
        jax.device_put(grey, program.mean_image.sharding),
    )


class Ours(NamedTuple):
    """Our side of the comparison.

    Attributes:
        train: runs so many updates.
        answer: predicts a batch so many times, of one view.
        compile_seconds: to lower and compile the update.
        peak_memory_bytes: of the update with its state and its batch.
    """

    train: Callable[[int], None]
    answer: Callable[[int], None]
    compile_seconds: float
    peak_memory_bytes: int


def prepare(
    config: ml_collections.ConfigDict,
    program: Program,
    batch: dict[str, jax.Array],
    mean_image: jax.Array,
) -> Ours:
    """Compiles the update and the prediction, and runs each once."""
    start = perf_counter()
    train_step = program.compile()
    compile_seconds = perf_counter() - start
    rates = experiment.make_schedule(config).rates(0, LAYERS)
    mesh = experiment.make_mesh(config)
    rates = SeldomChanging(mesh).there(rates)
    held = [program.initialise()]  # each state is used up by the next update

    def update() -> jax.Array:
        held[0], loss = train_step(held[0], batch, mean_image, rates)
        return loss

    jax.block_until_ready(update())
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        peak = statistics["peak_bytes_in_use"]
    else:  # a CPU does not count: what XLA planned
        plan = train_step.memory_analysis()
        peak = plan.argument_size_in_bytes + plan.temp_size_in_bytes
        peak += plan.output_size_in_bytes - plan.alias_size_in_bytes

    probabilities = experiment.make_probabilities(config, program.network, mesh)
    params = program.initialise().params
    ours = Ours(
        train=clock.on_device(update),
        answer=clock.on_device(
            lambda: probabilities(params, batch["image"], mean_image)
        ),
        compile_seconds=compile_seconds,
        peak_memory_bytes=peak,
    )
    ours.answer(1)
    return ours


def table(times: Mapping[str, Times], images: int) -> str:
    """A line for all that was timed in turn, for people."""
    rows = [f"{f'median of {ROUNDS} rounds':28}{'ms':>10}{'images/s':>10}{'spread':>8}"]
    for name, taken in times.items():
        speed = f"{images / taken.median:,.1f}" if name not in limits.RUNS else ""
        rows.append(
            f"{name:28}{taken.median * 1e3:10,.2f}{speed:>10}{taken.spread:8.0%}"
        )
    return "\n".join(rows)


def summary(result: dict[str, Any]) -> list[str]:
    """What the figures say, for people."""
    lines = [
        "",
        f"training   {result['train_images_per_second']:,.1f} images/s; "
        f"{result['train_gflop_per_image']:.3f} GFLOP an image are "
        f"{result['roofline_share']:.0%} of the matrix product's "
        f"{result['matmul_gflops']:,.0f} GFLOP/s",
        f"           {result['roofline_share_with_memory']:.0%} of what is possible "
        "where each operation also reads its arguments and writes its results once, "
        f"at {result['copy_gigabytes_per_second']:,.0f} GB/s",
        f"inference  {result['inference_images_per_second']:,.1f} images/s; "
        f"{result['inference_roofline_share']:.0%} of the matrix product's rate",
        f"compiled in {result['compile_seconds']:.1f} s; peak memory "
        f"{result['peak_memory_bytes'] / 1e9:,.2f} GB",
    ]
    if peer := result["peer"]:
        for kind in ("train", "inference"):
            speed = f"{kind}_images_per_second"
            lines.append(
                f"{kind}: {result[speed] / peer[speed]:.2f} times PyTorch "
                f"{peer['torch']}'s best, {peer[speed]:,.1f} images/s "
                f"({peer[f'{kind}_mode']})"
            )
    return lines
