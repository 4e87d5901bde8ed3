"""The mesh, the sharding of every tensor, and the network as a per-device program.

Two axes: 'data' holds replicas of the network, which see different examples; 'tower'
holds the two halves of Figure 2. A third one, 'fc', exists where several replicas share
their fully-connected layers (Krizhevsky, 'One weird trick', 2014): it splits the
examples of the convolutions and the units of the layers after them.

Under `jit` alone, XLA gathers the whole batch at every grouped convolution; under
`shard_map` the forward pass communicates at the paper's four places and nowhere else.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax.errors import InputError
from alexnet_jax.network.layers import AVERAGES

DATA, FC, TOWER = "data", "fc", "tower"


def make_mesh(
    data: int,
    tower: int,
    towers: int,
    batch_size: int,
    fc: int = 1,
    micro_batches: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Arrange the devices as ('data', 'tower'), or with fc > 1 ('data', 'fc', 'tower').

    Then 'data' counts groups of replicas that share their fully-connected layers.

    Args:
        data: replicas of the convolutions; −1 takes all devices that are left.
        tower: devices of one replica.
        towers: of the network.
        batch_size: global; every replica takes an equal share.
        fc: replicas of the convolutions that share one copy of fc6 to fc8.
        micro_batches: into which each replica cuts its share of a batch.
        devices: None: those of JAX's default backend.
    """
    devices = jax.devices() if devices is None else devices
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


def on_this_device(network: nn.Module, mesh: Mesh) -> nn.Module:
    """The part of a network that one device of a mesh computes."""
    shared = FC in mesh.axis_names
    return network.clone(
        towers_here=network.towers // mesh.shape[TOWER],
        tower_axis=TOWER,
        fc_axis=FC if shared else None,
        fc_parts=mesh.shape[FC] if shared else 1,
    )


def parameter_specs(network: nn.Module, mesh: Mesh) -> Any:
    """`AlexNet.parameter_specs` on a mesh."""
    return on_this_device(network, mesh).parameter_specs()


def parameter_shardings(network: nn.Module, mesh: Mesh) -> Any:
    """`parameter_specs` as shardings."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), parameter_specs(network, mesh)
    )


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Shapes and dtypes, each with its sharding (`jax.ShapeDtypeStruct`)."""
    return jax.tree.map(lambda a, s: a.update(sharding=s), shapes, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, P())


def replicate(mesh: Mesh, value: Any) -> Any:
    """Put a tree of host arrays, the same in every process, on every device."""
    return jax.make_array_from_process_local_data(replicated(mesh), value)


def to_mesh(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Put this process's part of a batch on its devices, spread over the replicas."""
    sharding = NamedSharding(mesh, P(example_axes(mesh)))
    return jax.make_array_from_process_local_data(sharding, batch)


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
    """(B, …) → (count, B/count, …), each with some examples of every replica.

    So nothing is communicated. 'row' is added, the position of an example in the batch.
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


def replicas(network: nn.Module, mesh: Mesh, params: Any) -> Any:
    """Parameters → one replica for each set of devices that computes with them.

    A leading axis counts the replicas; nothing is communicated. Differentiate with
    respect to the replicas: the transpose of this function adds up their gradients, the
    one reduction over 'data' of a step.
    """

    def replica(leaf: jax.Array, spec: P) -> jax.Array:
        axes = _replica_axes(mesh, spec)
        count = math.prod(mesh.shape[axis] for axis in axes)
        copies = jnp.broadcast_to(leaf, (count, *leaf.shape))
        sharding = NamedSharding(mesh, P(axes, *spec))
        return lax.with_sharding_constraint(copies, sharding)

    return jax.tree.map(replica, params, parameter_specs(network, mesh))


def _replica_axes(mesh: Mesh, spec: P) -> tuple[str, ...]:
    """All axes of the examples but those that split the parameter."""
    split = jax.tree.leaves(tuple(spec))
    return tuple(axis for axis in example_axes(mesh) if axis not in split)


def evaluation_forward(
    network: nn.Module, mesh: Mesh, until: str = ""
) -> Callable[..., jax.Array]:
    """The per-device program as a function of global arrays, without dropout.

    Args:
        network: with all towers.
        mesh: `make_mesh`; one device has all towers where `until` is given.
        until: a layer whose activations are wanted; '': the logits.

    Returns:
        forward(params, pixels (B, H, W, 3)) → logits (B, classes), or activations.
    """
    local, examples = on_this_device(network, mesh), P(example_axes(mesh))

    @jax.shard_map(
        mesh=mesh,
        in_specs=(parameter_specs(network, mesh), examples),
        out_specs=examples,
    )
    def forward(params, pixels):
        # Both towers of a replica look at the same images.
        pixels = lax.pcast(pixels, TOWER, to="varying")
        result = local.apply({"params": params}, pixels, until=until)
        return lax.psum(result, TOWER) if until else result  # over one device

    return forward


def training_forward(network: nn.Module, mesh: Mesh) -> Callable[..., Any]:
    """The same with dropout, for gradients with respect to `replicas`.

    Differentiate outside of it: the gradients are then those of the global loss,
    whatever the mesh.

    Returns:
        forward(replicas, pixels (B, H, W, 3), rows int32 (B,), key) → logits
        (B, classes), where rows are positions in the global batch; and the means over
        the batch of what `layers.AVERAGES` follow, {} without batch normalisation.
    """
    local, examples = on_this_device(network, mesh), P(example_axes(mesh))
    specs = parameter_specs(network, mesh)
    replica_specs = jax.tree.map(
        lambda spec: P(_replica_axes(mesh, spec), *spec), specs
    )
    statistics_specs = {
        layer: {name: specs[layer][name] for name in AVERAGES}
        for layer in network.batch_normalised
    }

    @jax.shard_map(
        mesh=mesh,
        in_specs=(replica_specs, examples, P(DATA), P()),
        out_specs=(examples, statistics_specs),
    )
    def forward(replicas, pixels, rows, key):
        params = jax.tree.map(lambda replica: replica[0], replicas)
        pixels = lax.pcast(pixels, TOWER, to="varying")
        logits, left = local.apply(
            {"params": params},
            pixels,
            rows,
            rngs={"dropout": key},
            mutable=["statistics"],
        )
        # XLA reduces these together with the gradients.
        statistics = jax.tree.map(
            lambda own, spec: lax.pmean(own, _replica_axes(mesh, spec)),
            dict(left.get("statistics", {})),
            statistics_specs,
        )
        return logits, statistics

    return forward
