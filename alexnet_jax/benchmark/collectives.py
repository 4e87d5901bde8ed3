"""The communication of each device in a training step.

The step is compiled for the mesh of a config and not run, so any machine will do: XLA
makes as many devices of its processor as the mesh has, or compiles for the accelerators
of `targets`, of whose memory and time it then says more.
"""

from typing import Any

import jax
import ml_collections

from alexnet_jax import experiment
from alexnet_jax.benchmark import kernels, targets
from alexnet_jax.benchmark.instructions import Instructions
from alexnet_jax.benchmark.program_text import Collective, read_program
from alexnet_jax.data.ilsvrc import CLASSES
from alexnet_jax.network.shapes import training_flop

BYTES = {"bf16": 2, "f32": 4, "f64": 8}  # of a number
PAPERS_FLOATS = 58_624  # an image, between the GPUs, forward, by §3.5


def measure(config: ml_collections.ConfigDict, target: str = "") -> dict[str, Any]:
    """Print the collectives of a config's training step; mesh.data=-1 counts as 1.

    Args:
        config: of the training.
        target: accelerators to compile it for, such as 'h200-8'; then mesh.data=-1
            takes all of them, each replica a batch of batch_size.

    Returns:
        The JSON object of `benchmark collectives`.
    """
    jax.config.update("jax_platforms", "cpu")
    aim = targets.find(target) if target else None
    if config.mesh.data == -1:
        devices = len(aim.devices) if aim else config.mesh.tower
        config.mesh.data = max(1, devices // config.mesh.tower)
        config.batch_size *= config.mesh.data if aim else 1
    if not aim:
        jax.config.update("jax_num_cpu_devices", config.mesh.data * config.mesh.tower)
    experiment.check(config)
    mesh = experiment.make_mesh(config, aim.devices if aim else None)
    step = experiment.make_program(config, CLASSES, mesh)
    compiled = step.compile(aim.options if aim else None)
    program = Instructions(compiled.as_text())
    found = list(read_program(program, mesh.shape))
    sizes = compiled.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    images = config.batch_size // config.mesh.data
    shape = "×".join(f"{size} {axis}" for axis, size in mesh.shape.items())
    print(
        f"mesh of {shape}, batch of {config.batch_size:,}, {images:,} images a "
        f"replica\n{table(found)}\nmemory of a device: {memory:,} bytes"
    )
    if config.precision == "bfloat16" and not aim:
        print("a CPU communicates bfloat16 as float32, accelerators half the bytes")
    result: dict[str, Any] = {
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "memory_bytes": memory,
    }
    if config.mesh.tower > 1 and config.mesh.fc == 1:
        forward = [c for c in found if (c.direction, c.axes) == ("forward", "tower")]
        received = (c.bytes / BYTES[c.dtype] for c in forward)
        floats = round(sum(received)) * config.mesh.tower // images
        print(
            f"between the towers, forward: {floats:,} floats an image "
            f"(the paper's GPUs: {PAPERS_FLOATS:,})"
        )
        result["tower_floats_per_image"] = floats
    if aim:
        flop = training_flop(step.network, config.augment.crop) * config.batch_size
        own = kernels.read_kernels(program, aim.chip)
        sums = kernels.totals(own, aim.chip, flop / mesh.size)
        cost = compiled.cost_analysis() or {}  # None of a GPU
        result |= {
            "target": aim.name,
            "precision": config.precision,
            "jax": jax.__version__,
            "memory_limit_bytes": aim.chip.memory,
            "bytes_accessed": cost.get("bytes accessed"),
            "images_per_second": config.batch_size / sums["milliseconds"] * 1e3,
            **sums,
            "exchanges": [c._asdict() for c in found],
        }
        print(f"{kernels.table(sums)}\n{summary(result, aim.chip)}")
    return {**result, **totals(found)}


def table(found: list[Collective]) -> str:
    """A line for each collective."""
    if not found:
        return "no communication between devices; --config.mesh.tower=2 has some"
    head = f"{'':9}{'collective':20}{'axis':11}{'carries':11}{'dtype':6}{'times':>6}"
    rows = [f"{head}{'bytes per device':>18}{'overlaps kernels':>18}"]
    for c in found:
        rows.append(
            f"{c.direction:9}{c.kind:20}{c.axes:11}{c.carries:11}{c.dtype:6}{c.times:6}"
            f"{c.bytes:18,}{c.overlaps or '':>18}"
        )
    return "\n".join([*rows, f"{'sum':63}{sum(c.bytes for c in found):18,}"])


def summary(result: dict[str, Any], chip: targets.Chip) -> str:
    """What a target's memory, products and time allow, in a few lines."""
    r, least = result, result["roofline_milliseconds"]
    known = r["milliseconds"] - r["assumed_milliseconds"]
    compilers = r["bytes_accessed"]
    counted = f" ({compilers / 1e9:,.1f} by the compiler's count)" if compilers else ""
    return (
        f"{r['target']}: memory {r['memory_bytes'] / chip.memory:.1%} of "
        f"{chip.memory / 1e9:,.0f} GB; {r['flop'] / 1e9:,.0f} GFLOP; "
        f"{r['bytes'] / 1e9:,.1f} GB between kernels{counted}\n"
        f"roofline: {least['flop']:.2f} ms of products at {chip.flops / 1e12:,.0f} "
        f"TFLOP/s, {least['bytes']:.2f} ms of memory at {chip.bytes / 1e9:,.0f} GB/s\n"
        f"model: {r['milliseconds']:.2f} ms, {r['images_per_second']:,.0f} images/s; "
        f"{known:.2f} ms by the compiler's own figures, the others assumed at "
        f"{kernels.SHARE_OF_FLOPS:.0%} and {kernels.SHARE_OF_BYTES:.0%} of these limits"
    )


def totals(found: list[Collective]) -> dict[str, Any]:
    """{direction: {kind: {axes: {'count', 'bytes'}}}}."""
    summed: dict[str, Any] = {"forward": {}, "backward": {}}
    for c in found:
        by_axes = summed[c.direction].setdefault(c.kind, {})
        total = by_axes.setdefault(c.axes, {"count": 0, "bytes": 0})
        total["count"] += c.times
        total["bytes"] += c.bytes
    return summed
