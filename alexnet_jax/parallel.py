"""The mesh, where every tensor lives on it, and the network as a per-device program.

Two axes: 'data' holds copies of the network, which see different examples; 'tower'
holds the two halves of Figure 2. A third, 'fc', is there where several copies share
their fully-connected layers (Krizhevsky, 'One weird trick', 2014): it deals out the
examples in the convolutions and the units after them.

Under `jit` alone, XLA gathers the whole batch at every grouped convolution; as a
per-device program under `shard_map` the compiled forward pass talks at the paper's four
places and nowhere else.
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
    data: int, tower: int, towers: int, batch_size: int, fc: int = 1, parts: int = 1
) -> Mesh:
    """Lays the devices out as a ('data', 'tower') mesh.

    Where several copies of the convolutions share one copy of the fully-connected
    layers it is ('data', 'fc', 'tower'), and 'data' counts the groups of such copies.

    Args:
        data: copies of the convolutions; −1 takes all devices that are left.
        tower: devices that share one copy.
        towers: of the network.
        batch_size: global; every copy takes an equal part.
        fc: copies of the convolutions that share one copy of fc6 to fc8.
        parts: in which each copy computes its share of a batch.

    Raises:
        InputError: the devices, the towers or the batch do not divide so.
    """
    devices = jax.devices()
    if tower < 1 or towers % tower:
        allowed = "1 or 2" if towers == 2 else "1"
        raise InputError(
            f"mesh.tower={tower}: a network of {towers} tower(s) (network.towers) "
            f"spreads over {allowed} device(s); change mesh.tower"
        )
    copies = len(devices) // tower if data == -1 else data
    if copies < 1 or copies * tower > len(devices):
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
    if copies % fc:
        fitting = ", ".join(str(n) for n in range(1, copies + 1) if copies % n == 0)
        raise InputError(
            f"mesh.fc={fc}: does not divide mesh.data={copies}; change mesh.fc to one "
            f"of {fitting}"
        )
    if batch_size % (copies * parts):
        cut = f" in accumulation={parts} parts" if parts > 1 else ""
        raise InputError(
            f"batch_size={batch_size}: does not divide over mesh.data={copies}{cut}; "
            "change batch_size to a multiple, or mesh.data"
        )
    used = np.array(devices[: copies * tower])
    if fc == 1:
        return Mesh(used.reshape(copies, tower), (DATA, TOWER))
    return Mesh(used.reshape(copies // fc, fc, tower), (DATA, FC, TOWER))


def example_axes(mesh: Mesh) -> tuple[str, ...]:
    """Along which examples are dealt out: all but the towers."""
    return tuple(axis for axis in mesh.axis_names if axis != TOWER)


def unit_axes(mesh: Mesh) -> tuple[str, ...]:
    """Along which fully-connected units are dealt out: towers, then their slices."""
    return (TOWER, FC) if FC in mesh.axis_names else (TOWER,)


def parameter_specs(mesh: Mesh, params: Any) -> Any:
    """Which axis of each parameter lies along which axes of the mesh.

    Kernels of conv1 to fc7 are split by their outputs: a tower owns the kernels whose
    maps it makes. fc8 is split by its inputs: see `AlexNet.add_towers`.
    """
    units = unit_axes(mesh)

    def spec(path, _) -> P:
        match path[-2].key, path[-1].key:
            case "fc8", "kernel":
                return P(units, None)
            case "fc8", "bias":
                return P()
            case "fc6" | "fc7", "kernel":
                return P(None, units)
            case "fc6" | "fc7", "bias":
                return P(units)
            case _, "kernel":
                return P(None, None, None, TOWER)
            case _:
                return P(TOWER)

    return jax.tree_util.tree_map_with_path(spec, params)


def parameter_shardings(mesh: Mesh, params: Any) -> Any:
    """`parameter_specs` as shardings."""
    specs = parameter_specs(mesh, params)
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def placed(shapes: Any, shardings: Any) -> Any:
    """Arrays yet to be read: shapes and dtypes, each with where it will live."""
    return jax.tree.map(
        lambda a, sharding: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same value on every device."""
    return NamedSharding(mesh, P())


def everywhere(mesh: Mesh, value: Any) -> Any:
    """Puts the same value, which every process has, on every device."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(replicated(mesh), x), value
    )


def to_mesh(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch on its devices, dealt out over the copies."""
    sharding = NamedSharding(mesh, P(example_axes(mesh)))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def own_part(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process feeds: (its index, number of parts).

    Processes that hold towers of the same copies feed them the same examples.

    Raises:
        InputError: in every process, where one has no device in the mesh or they do
            not divide the batch into equal parts.
    """
    copies = mesh.devices.reshape(-1, mesh.shape[TOWER])
    owners = [frozenset(device.process_index for device in copy) for copy in copies]
    blocks = [(owner, len(list(same))) for owner, same in itertools.groupby(owners)]
    holders = sorted(process for owner, _ in blocks for process in owner)
    even = len({length for _, length in blocks}) == 1
    if not even or holders != list(range(jax.process_count())):
        raise InputError(
            f"mesh.data={len(copies)}, mesh.tower={mesh.shape[TOWER]}: does not spread "
            f"evenly over the {jax.process_count()} processes with "
            f"{jax.local_device_count()} device(s) each; every process must hold the "
            "same whole number of copies, or of towers of one copy"
        )
    here = [jax.process_index() in owner for owner, _ in blocks]
    return here.index(True), len(blocks)


def in_parts(mesh: Mesh, batch: dict[str, jax.Array], parts: int) -> dict[str, Any]:
    """(B, …) → (parts, B/parts, …): a part has the next few examples of every copy.

    So each device cuts what it has, and nothing moves. 'row' is added, int32: where in
    the batch each example was.
    """
    copies = mesh.size // mesh.shape[TOWER]
    sharding = NamedSharding(mesh, P(None, example_axes(mesh)))

    def cut(x):
        dealt = x.reshape(copies, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        return dealt.reshape(parts, -1, *x.shape[1:])

    rows = cut(np.arange(len(batch["label"]), dtype=np.int32))  # known everywhere
    return {
        name: jax.lax.with_sharding_constraint(cut(x), sharding)
        for name, x in batch.items()
    } | {"row": jnp.asarray(rows)}


def copied(mesh: Mesh, params: Any) -> Any:
    """Gives each set of devices that computes with parameters its own copy of them.

    A leading axis counts the copies; none is moved, for every device has its part.
    Differentiate with respect to the copies: the transpose of this function adds their
    gradients up, and is the one reduction over 'data' of an update.
    """

    def copy(leaf: jax.Array, spec: P) -> jax.Array:
        count = math.prod(mesh.shape[axis] for axis in _axes(P(spec[0])))
        copies = jnp.broadcast_to(leaf, (count, *leaf.shape))
        return jax.lax.with_sharding_constraint(copies, NamedSharding(mesh, spec))

    return jax.tree.map(copy, params, copy_specs(mesh, params))


def copy_specs(mesh: Mesh, params: Any) -> Any:
    """`parameter_specs` with the axis of the copies before them.

    A parameter is the same along all axes of the examples but those that split it.
    """

    def copies(spec: P) -> P:
        over = [axis for axis in example_axes(mesh) if axis not in _axes(spec)]
        return P(tuple(over), *spec)

    return jax.tree.map(copies, parameter_specs(mesh, params))


def _axes(spec: P) -> set[str]:
    return {a for axes in spec for a in (axes if isinstance(axes, tuple) else (axes,))}


def on_this_device(network: AlexNet, mesh: Mesh) -> AlexNet:
    """The part of a network that one device of a mesh computes."""
    shared = FC in mesh.axis_names
    return network.clone(
        towers_here=network.towers // mesh.shape[TOWER],
        tower_axis=TOWER,
        fc_axis=FC if shared else None,
        fc_parts=mesh.shape[FC] if shared else 1,
    )


def testing(network: AlexNet, mesh: Mesh) -> Callable[..., jax.Array]:
    """The network as one program a device, joined into a function of whole arrays.

    Returns:
        forward(params, pixels (B, H, W, 3)) → logits (B, classes).
    """
    local, examples = on_this_device(network, mesh), P(example_axes(mesh))

    def forward(params, pixels):
        specs = parameter_specs(mesh, params)

        def program(params, pixels):
            # Both towers of a pair look at the same pictures.
            pixels = lax.pcast(pixels, TOWER, to="varying")
            return local.apply({"params": params}, pixels)

        return jax.shard_map(
            program, mesh=mesh, in_specs=(specs, examples), out_specs=examples
        )(params, pixels)

    return forward


def training(network: AlexNet, mesh: Mesh) -> Callable[..., jax.Array]:
    """The same with dropout, for gradients with respect to `copied` parameters.

    Differentiate outside of it: the gradients are then those of the global loss,
    whatever the mesh.

    Returns:
        forward(copies, pixels (B, H, W, 3), rows int32 (B,), key) → logits (B, classes)
        where rows are positions in the global batch.
    """
    local, examples = on_this_device(network, mesh), P(example_axes(mesh))

    def program(copies, pixels, rows, key):
        params = jax.tree.map(lambda copy: copy[0], copies)
        pixels = lax.pcast(pixels, TOWER, to="varying")
        return local.apply({"params": params}, pixels, rows, rngs={"dropout": key})

    def forward(copies, pixels, rows, key):
        specs = copy_specs(mesh, copies)
        return jax.shard_map(
            program,
            mesh=mesh,
            in_specs=(specs, examples, P(DATA), P()),
            out_specs=examples,
        )(copies, pixels, rows, key)

    return forward
