"""The mesh, the sharding of every tensor, and the network as a per-device program.

Two axes: 'data' holds replicas of the network, which see different examples; 'tower'
holds the two halves of Figure 2. A third one, 'fc', exists where several replicas share
their fully-connected layers (Krizhevsky, 'One weird trick', 2014): along it lie the
examples in the convolutions and the units in the layers after them.

Under `jit` alone, XLA gathers the whole batch at every grouped convolution; as a
per-device program under `shard_map` the compiled forward pass communicates at the
paper's four places and nowhere else.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import AlexNet

DATA, FC, TOWER = "data", "fc", "tower"


def make_mesh(
    data: int,
    tower: int,
    towers: int,
    batch_size: int,
    fc: int = 1,
    micro_batches: int = 1,
) -> Mesh:
    """Arrange the devices as a ('data', 'tower') mesh.

    Where several replicas share one copy of the fully-connected layers it is ('data',
    'fc', 'tower'), and 'data' counts the groups of such replicas.

    Args:
        data: replicas of the convolutions; −1 takes all devices that are left.
        tower: devices of one replica.
        towers: of the network.
        batch_size: global; every replica takes an equal share.
        fc: replicas of the convolutions that share one copy of fc6 to fc8.
        micro_batches: into which each replica cuts its share of a batch.
    """
    devices = jax.devices()
    if tower < 1 or towers % tower:
        allowed = "1 or 2" if towers == 2 else "1"
        raise InputError(
            f"mesh.tower={tower}: a network of {towers} tower(s) (network.towers) "
            f"spreads over {allowed} device(s); change mesh.tower"
        )
    replicas = len(devices) // tower if data == -1 else data
    if replicas < 1 or replicas * tower > len(devices):
        fitting = ", ".join(
            f"{len(devices) // t}×{t}"
            for t in range(1, towers + 1)
            if towers % t == 0 and t <= len(devices)
        )
        raise InputError(
            f"mesh.data={data}, mesh.tower={tower}: there are {len(devices)} device(s);"
            f" the largest meshes (data×tower) that fit are {fitting}; change mesh.data"
            " or mesh.tower"
        )
    if replicas % fc:
        fitting = ", ".join(str(n) for n in range(1, replicas + 1) if replicas % n == 0)
        raise InputError(
            f"mesh.fc={fc}: does not divide mesh.data={replicas}; change mesh.fc to "
            f"one of {fitting}"
        )
    if batch_size % (replicas * micro_batches):
        cut = f" in accumulation={micro_batches} parts" if micro_batches > 1 else ""
        raise InputError(
            f"batch_size={batch_size}: does not divide over mesh.data={replicas}{cut}; "
            "change batch_size to a multiple, or mesh.data"
        )
    used = np.array(devices[: replicas * tower])
    if fc == 1:
        return Mesh(used.reshape(replicas, tower), (DATA, TOWER))
    return Mesh(used.reshape(replicas // fc, fc, tower), (DATA, FC, TOWER))


def example_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes along which examples are spread: all but the towers."""
    return tuple(axis for axis in mesh.axis_names if axis != TOWER)


def on_this_device(network: AlexNet, mesh: Mesh) -> AlexNet:
    """The part of a network that one device of a mesh computes."""
    shared = FC in mesh.axis_names
    return network.clone(
        towers_here=network.towers // mesh.shape[TOWER],
        tower_axis=TOWER,
        fc_axis=FC if shared else None,
        fc_parts=mesh.shape[FC] if shared else 1,
    )


def parameter_specs(network: AlexNet, mesh: Mesh) -> Any:
    """`AlexNet.parameter_specs` of a network on a mesh."""
    return on_this_device(network, mesh).parameter_specs()


def parameter_shardings(network: AlexNet, mesh: Mesh) -> Any:
    """`parameter_specs` as shardings."""
    specs = parameter_specs(network, mesh)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shapes and dtypes, each with its sharding (`jax.ShapeDtypeStruct`)."""
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, P())


def replicate(mesh: Mesh, value: Any) -> Any:
    """Put a tree of host arrays, the same in every process, on every device."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(replicated(mesh), x), value
    )


def to_mesh(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put this process's part of a batch on its devices, spread over the replicas."""
    sharding = NamedSharding(mesh, P(example_axes(mesh)))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def process_part(mesh: Mesh) -> tuple[int, int]:
    """The part of every batch that this process feeds: (its index, number of parts).

    Processes that hold towers of the same replicas feed them the same examples.
    """
    replicas = mesh.devices.reshape(-1, mesh.shape[TOWER])
    owners = [frozenset(device.process_index for device in row) for row in replicas]
    blocks = [(owner, len(list(same))) for owner, same in itertools.groupby(owners)]
    holders = sorted(process for owner, _ in blocks for process in owner)
    even = len({length for _, length in blocks}) == 1
    if not even or holders != list(range(jax.process_count())):
        raise InputError(
            f"mesh.data={len(replicas)}, mesh.tower={mesh.shape[TOWER]}: does not "
            f"spread evenly over the {jax.process_count()} processes with "
            f"{jax.local_device_count()} device(s) each; every process must hold the "
            "same whole number of replicas, or of towers of one replica"
        )
    here = [jax.process_index() in owner for owner, _ in blocks]
    return here.index(True), len(blocks)


def micro_batches(mesh: Mesh, batch: dict[str, jax.Array], count: int) -> dict:
    """(B, …) → (count, B/count, …): each has the next few examples of every replica.

    So each device cuts its own examples, and nothing is communicated. 'row' is added,
    int32: the position of each example in the batch.
    """
    replicas = mesh.size // mesh.shape[TOWER]
    sharding = NamedSharding(mesh, P(None, example_axes(mesh)))

    def cut(x):
        dealt = x.reshape(replicas, count, -1, *x.shape[1:]).swapaxes(0, 1)
        return dealt.reshape(count, -1, *x.shape[1:])

    rows = cut(np.arange(len(batch["label"]), dtype=np.int32))  # a constant
    return {
        name: lax.with_sharding_constraint(cut(x), sharding)
        for name, x in batch.items()
    } | {"row": jnp.asarray(rows)}


def replicas(network: AlexNet, mesh: Mesh, params: Any) -> Any:
    """Give each set of devices that computes with parameters its own replica of them.

    A leading axis counts the replicas; nothing is communicated. Differentiate with
    respect to the replicas: the transpose of this function adds their gradients up, and
    is the one reduction over 'data' of a step.
    """

    def replica(leaf: jax.Array, spec: P) -> jax.Array:
        count = math.prod(mesh.shape[axis] for axis in _axes(P(spec[0])))
        copies = jnp.broadcast_to(leaf, (count, *leaf.shape))
        return lax.with_sharding_constraint(copies, NamedSharding(mesh, spec))

    return jax.tree.map(replica, params, replica_specs(network, mesh))


def replica_specs(network: AlexNet, mesh: Mesh) -> Any:
    """`parameter_specs` with the axis of the replicas before them.

    A parameter is the same along all axes of the examples but those that split it.
    """

    def with_replicas(spec: P) -> P:
        over = [axis for axis in example_axes(mesh) if axis not in _axes(spec)]
        return P(tuple(over), *spec)

    return jax.tree.map(with_replicas, parameter_specs(network, mesh))


def _axes(spec: P) -> set[str]:
    return {a for axes in spec for a in (axes if isinstance(axes, tuple) else (axes,))}


def evaluation_forward(network: AlexNet, mesh: Mesh) -> Callable[..., jax.Array]:
    """The per-device program as a function of global arrays, without dropout.

    Returns:
        forward(params, pixels (B, H, W, 3)) → logits (B, classes).
    """
    local, examples = on_this_device(network, mesh), P(example_axes(mesh))

    def program(params, pixels):
        # Both towers of a replica look at the same images.
        pixels = lax.pcast(pixels, TOWER, to="varying")
        return local.apply({"params": params}, pixels)

    return jax.shard_map(
        program,
        mesh=mesh,
        in_specs=(parameter_specs(network, mesh), examples),
        out_specs=examples,
    )


def training_forward(network: AlexNet, mesh: Mesh) -> Callable[..., jax.Array]:
    """The same with dropout, for gradients with respect to `replicas`.

    Differentiate outside of it: the gradients are then those of the global loss,
    whatever the mesh.

    Returns:
        forward(replicas, pixels (B, H, W, 3), rows int32 (B,), key) → logits
        (B, classes), where rows are positions in the global batch.
    """
    local, examples = on_this_device(network, mesh), P(example_axes(mesh))

    def program(replicas, pixels, rows, key):
        params = jax.tree.map(lambda replica: replica[0], replicas)
        pixels = lax.pcast(pixels, TOWER, to="varying")
        return local.apply({"params": params}, pixels, rows, rngs={"dropout": key})

    return jax.shard_map(
        program,
        mesh=mesh,
        in_specs=(replica_specs(network, mesh), examples, P(DATA), P()),
        out_specs=examples,
    )
