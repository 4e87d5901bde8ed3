"""The communication of each device in a training step.

The step is compiled for the mesh of a config and not run, so any machine will do: XLA
makes as many devices of its processor as the mesh has.
"""

from typing import Any

import jax
import ml_collections

from alexnet_jax import experiment
from alexnet_jax.benchmark.program_text import Collective, read_collectives
from alexnet_jax.data.ilsvrc import CLASSES

PAPERS_FLOATS = 58_624  # an image, between the GPUs, forward, by §3.5


def measure(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Print the collectives of a config's training step; mesh.data=-1 counts as 1.

    Returns:
        The JSON object of `benchmark collectives`.
    """
    if config.mesh.data == -1:
        config.mesh.data = 1
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", config.mesh.data * config.mesh.tower)
    experiment.check(config)
    mesh = experiment.make_mesh(config)
    compiled = experiment.make_program(config, CLASSES, mesh).compile()
    found = read_collectives(compiled, mesh)
    sizes = compiled.memory_analysis()
    memory = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
    images = config.batch_size // config.mesh.data
    shape = "×".join(f"{size} {axis}" for axis, size in mesh.shape.items())
    print(
        f"mesh of {shape}, batch of {config.batch_size:,}, {images:,} images a "
        f"replica\n{table(found)}\nmemory of a device: {memory:,} bytes"
    )
    if config.precision == "bfloat16":
        print("a CPU communicates bfloat16 as float32, accelerators half the bytes")
    result: dict[str, Any] = {
        "mesh": dict(mesh.shape),
        "batch_size": config.batch_size,
        "memory_bytes": memory,
    }
    if config.mesh.tower > 1 and config.mesh.fc == 1:
        forward = (c for c in found if (c.direction, c.axes) == ("forward", "tower"))
        item = 8 if config.precision == "float64" else 4
        floats = sum(c.bytes for c in forward) * config.mesh.tower // images // item
        print(
            f"between the towers, forward: {floats:,} floats an image "
            f"(the paper's GPUs: {PAPERS_FLOATS:,})"
        )
        result["tower_floats_per_image"] = floats
    return {**result, **totals(found)}


def table(found: list[Collective]) -> str:
    """A line for each collective."""
    if not found:
        return "no communication between devices; --config.mesh.tower=2 has some"
    head = f"{'':9}{'collective':20}{'axis':11}{'carries':11}{'times':>6}"
    rows = [f"{head}{'bytes per device':>18}"]
    for c in found:
        rows.append(
            f"{c.direction:9}{c.kind:20}{c.axes:11}{c.carries:11}{c.times:6}"
            f"{c.bytes:18,}"
        )
    return "\n".join([*rows, f"{'sum':57}{sum(c.bytes for c in found):18,}"])


def totals(found: list[Collective]) -> dict[str, Any]:
    """{direction: {kind: {axes: {'count', 'bytes'}}}}."""
    summed: dict[str, Any] = {"forward": {}, "backward": {}}
    for c in found:
        by_axes = summed[c.direction].setdefault(c.kind, {})
        total = by_axes.setdefault(c.axes, {"count": 0, "bytes": 0})
        total["count"] += c.times
        total["bytes"] += c.bytes
    return summed
