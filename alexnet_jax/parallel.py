"""The mesh, where every tensor lives on it, and the network as a per-device program.

Two axes: 'data' holds copies of the network, which see different examples; 'tower'
holds the two halves of Figure 2. Under `jit` alone, XLA gathers the whole batch at
every grouped convolution; as a per-device program under `shard_map` the compiled
forward pass talks at the paper's four places and nowhere else.
"""

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

DATA, TOWER = "data", "tower"

Forward = Callable[..., jax.Array]


def make_mesh(data: int, tower: int, towers: int, batch_size: int) -> Mesh:
    """Lays the devices out as a ('data', 'tower') mesh.

    Args:
        data: copies of the network; −1 takes all devices that are left.
        tower: devices that share one copy.
        towers: of the network.
        batch_size: global; every copy takes an equal part.

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
    if batch_size % copies:
        raise InputError(
            f"batch_size={batch_size}: does not divide over mesh.data={copies}; "
            "change batch_size to a multiple of it, or mesh.data"
        )
    grid = np.array(devices[: copies * tower]).reshape(copies, tower)
    return Mesh(grid, (DATA, TOWER))


def parameter_specs(params: Any) -> Any:
    """Which axis of each parameter lies along the towers.

    Kernels of conv1 to fc7 are split by their outputs: a tower owns the kernels whose
    maps it makes. fc8 is split by its inputs: see `AlexNet.add_towers`.
    """

    def spec(path, leaf) -> P:
        layer, name = path[-2].key, path[-1].key
        if layer == "fc8":
            return P(TOWER, None) if name == "kernel" else P()
        return P(*[None] * (leaf.ndim - 1), TOWER)

    return jax.tree_util.tree_map_with_path(spec, params)


def parameter_shardings(mesh: Mesh, params: Any) -> Any:
    """`parameter_specs` on a mesh."""
    specs = parameter_specs(params)
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


def to_mesh(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch on its devices, rows along 'data'."""
    sharding = NamedSharding(mesh, P(DATA))
    return {
        name: jax.make_array_from_process_local_data(sharding, rows)
        for name, rows in batch.items()
    }


def per_device(network: AlexNet, mesh: Mesh) -> Forward:
    """The network as one program a device, joined into a function of whole arrays.

    Differentiate outside of it: the gradients are then those of the global loss,
    whatever the mesh.

    Returns:
        forward(params, pixels (B, H, W, 3), dropout_key=None) → logits (B, classes);
        with a key it trains (dropout masks), without one it tests.
    """
    local = network.clone(
        towers_here=network.towers // mesh.shape[TOWER], tower_axis=TOWER
    )

    def copies(params, pixels):
        # Every pair of towers has a copy of the parameters (backward: the one sum of
        # gradients over 'data') and both towers of a pair have a copy of the images.
        params = jax.tree.map(lambda p: lax.pcast(p, DATA, to="varying"), params)
        return {"params": params}, lax.pcast(pixels, TOWER, to="varying")

    def test(params, pixels):
        return local.apply(*copies(params, pixels))

    def train(params, pixels, rows, key):
        return local.apply(*copies(params, pixels), rows, rngs={"dropout": key})

    def forward(params, pixels, dropout_key=None):
        specs = parameter_specs(params)
        if dropout_key is None:
            return jax.shard_map(
                test, mesh=mesh, in_specs=(specs, P(DATA)), out_specs=P(DATA)
            )(params, pixels)
        rows = jnp.arange(pixels.shape[0], dtype=jnp.int32)
        return jax.shard_map(
            train,
            mesh=mesh,
            in_specs=(specs, P(DATA), P(DATA), P()),
            out_specs=P(DATA),
        )(params, pixels, rows, dropout_key)

    return forward
