"""The exchange of maps against NumPy, in the form of every target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from against_torch import normal
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from alexnet_jax.network import exchange


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("shape", [(8, 3, 2, 24), (8, 24)])
@pytest.mark.parametrize("axes", [("tower",), ("tower", "fc")])
def test_each_device_has_all_maps_and_gives_back_its_share_of_the_gradient(shape, axes):
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fc", "tower"))
    parts = [mesh.shape[axis] for axis in axes]
    channels = [*[None] * (len(shape) - 1), axes]
    spread, whole = P("data", *channels[1:]), P("data", *[None] * (len(shape) - 1))
    x, upstream = normal(*shape), normal(*parts, *shape, seed=1)

    def both(x, upstream):
        """All maps, as a device has them, and the gradient of its own."""
        value, pull_back = jax.vjp(lambda x: exchange.gather(x, axes), x)
        (gradient,) = pull_back(upstream.reshape(value.shape))
        same = jax.lax.pmax(value, axes) - jax.lax.pmin(value, axes)
        return jax.lax.pmax(value, axes), same, gradient

    run = jax.shard_map(
        both,
        mesh=mesh,
        in_specs=(spread, P(*axes, "data")),
        out_specs=(whole, whole, spread),
    )
    value, differences, gradient = jax.jit(run)(x, jnp.asarray(upstream))
    np.testing.assert_array_equal(value, x)
    assert not np.array(differences).any()
    # Each share's gradient is the sum of those that all devices along the axes have.
    np.testing.assert_allclose(
        gradient, upstream.sum(axis=tuple(range(len(parts)))), rtol=1e-6
    )
