"""The mesh changes who computes what, never the result, and talks where it must."""

import functools
from typing import NamedTuple

import jax
import numpy as np
import pytest
from compare import relative_difference
from jax.sharding import PartitionSpec as P
from small import (
    SIDE,
    mean_image,
    quick_jit,
    small_batch,
    small_network,
    small_params,
    small_pixels,
)

from alexnet_jax import parallel
from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.optimizer import momentum_with_decay, velocities
from alexnet_jax.step import initial_state, make_train_step, state_shardings

BATCH = 8
NETWORK = small_network()
OF_2012 = small_network(normalise_before_relu=True, spatial_alpha=4e-5)
NAMES = {NETWORK: "paper", OF_2012: "2012"}
RATE, OPTIMIZER = 0.01, momentum_with_decay(0.9, 0.0)
UPDATES = 20


class Layout(NamedTuple):
    """How a batch is computed."""

    data: int
    tower: int
    fc: int = 1
    parts: int = 1

    def mesh(self):
        towers = NETWORK.towers
        return parallel.make_mesh(
            self.data, self.tower, towers, BATCH, self.fc, self.parts
        )


ONE_DEVICE = Layout(1, 1)
LAYOUTS = [
    *[Layout(1, 2), Layout(2, 1), Layout(2, 2), Layout(4, 1), Layout(4, 2)],
    *[Layout(2, 1, fc=2), Layout(4, 2, fc=2), Layout(4, 2, fc=4)],
    *[Layout(1, 1, parts=4), Layout(2, 2, parts=2), Layout(4, 2, fc=2, parts=2)],
]


def test_eight_devices_are_there():
    assert jax.device_count() == 8, "tests/conftest.py asks XLA for them"


# --- the same result -----------------------------------------------------------------


@functools.cache
def start(network: AlexNet):
    """The state that all train from."""
    return quick_jit(lambda: initial_state(network, OPTIMIZER, 3, SIDE))()


@functools.cache
def training(layout: Layout, network: AlexNet):
    """Losses of twenty updates, the first one's gradient and the last weights.

    Every update sees another batch: other crops, reflections, colours and dropout.
    """
    mesh = layout.mesh()
    shardings = state_shardings(start(network), mesh)
    state = jax.device_put(start(network), shardings)
    mean = parallel.everywhere(mesh, mean_image())
    rates = jax.tree.map(lambda _: RATE, state.params)
    train_step = quick_jit(
        make_train_step(network, OPTIMIZER, mesh, 0, SIDE, "crop", layout.parts),
        out_shardings=(shardings, parallel.replicated(mesh)),
    )
    losses, gradient = [], None
    for update in range(UPDATES):
        batch = parallel.to_mesh(mesh, small_batch(BATCH, seed=update))
        state, loss = train_step(state, batch, mean, rates)
        losses.append(float(loss))
        if gradient is None:
            velocity = jax.device_get(velocities(state.velocity))
            gradient = jax.tree.map(lambda v: -v / RATE, velocity)
    return np.array(losses), gradient, jax.device_get(state.params)


def test_the_updates_that_are_compared_change_something():
    losses, _, params = training(ONE_DEVICE, NETWORK)
    assert len(set(losses.tolist())) == UPDATES
    for layer, before in start(NETWORK).params.items():
        kernel = params[layer]["kernel"]
        assert relative_difference(kernel, before["kernel"]) > 0.01, layer


@pytest.mark.parametrize(
    ("layout", "network"),
    [*((layout, NETWORK) for layout in LAYOUTS), (Layout(2, 2), OF_2012)],
    ids=lambda x: str(x) if isinstance(x, Layout) else NAMES[x],
)
def test_losses_gradients_and_weights_are_those_of_one_device(layout, network):
    losses, gradient, params = training(layout, network)
    expected = training(ONE_DEVICE, network)
    expected_losses, expected_gradient, expected_params = expected
    differences = (
        np.abs(losses / expected_losses - 1).max(),
        relative_difference(gradient, expected_gradient),
        relative_difference(params, expected_params),
    )
    print(
        "\n{}: losses {:.1e}, gradient {:.1e}, weights {:.1e}".format(
            layout, *differences
        )
    )
    assert max(differences) <= 1e-5


def test_a_batch_is_dealt_out_row_by_row_over_the_copies():
    mesh = Layout(4, 2).mesh()
    rows = np.arange(BATCH, dtype=np.int32)
    for shard in parallel.to_mesh(mesh, {"label": rows})["label"].addressable_shards:
        copy, _ = np.argwhere(mesh.devices == shard.device)[0]
        np.testing.assert_array_equal(shard.data, [2 * copy, 2 * copy + 1])


def test_a_tower_keeps_its_own_kernels_and_its_share_of_fc8():
    params = small_params(NETWORK)
    mesh = Layout(1, 2).mesh()
    placed = jax.device_put(params, parallel.parameter_shardings(mesh, params))
    second = jax.tree.map(lambda p: np.array(p.addressable_shards[1].data), placed)
    jax.tree.map(np.testing.assert_array_equal, second, tower_slice(params, tower=1))


def test_velocities_lie_beside_their_parameters():
    shardings = state_shardings(start(NETWORK), Layout(2, 2).mesh())
    assert velocities(shardings.velocity) == shardings.params
    assert shardings.params["conv2"]["kernel"].spec == P(None, None, None, "tower")
    assert shardings.step.spec == shardings.sums.loss.spec == P()


def tower_slice(params, tower: int):
    """The part of the parameters that §3.2's GPU `tower` holds, by hand."""

    def half(array, axis):
        return np.split(np.array(array), 2, axis=axis)[tower]

    own = {
        layer: {name: half(array, -1) for name, array in leaves.items()}
        for layer, leaves in params.items()
    }
    fc8 = params["fc8"]
    own["fc8"] = {"kernel": half(fc8["kernel"], 0), "bias": np.array(fc8["bias"])}
    return own


def test_the_per_device_program_runs_under_a_literal_pmap():
    params, pixels = small_params(NETWORK), small_pixels(2)
    local = NETWORK.clone(towers_here=1, tower_axis="tower")
    both = jax.tree.map(
        lambda *halves: np.stack(halves), *(tower_slice(params, t) for t in (0, 1))
    )
    on_each = jax.pmap(
        lambda params, pixels: local.apply({"params": params}, pixels),
        axis_name="tower",
        in_axes=(0, None),
        devices=jax.devices()[:2],
    )(both, pixels)
    one_device = quick_jit(NETWORK.apply)({"params": params}, pixels)
    for logits in on_each:
        assert relative_difference(logits, one_device) <= 1e-5


# --- the mesh ------------------------------------------------------------------------


def test_the_rest_of_the_devices_become_copies():
    assert parallel.make_mesh(-1, 1, 2, 8).shape == {"data": 8, "tower": 1}
    assert parallel.make_mesh(-1, 2, 2, 8).shape == {"data": 4, "tower": 2}
    assert parallel.make_mesh(1, 1, 1, 8).devices.tolist() == [[jax.devices()[0]]]


def test_the_towers_of_a_copy_are_neighbouring_devices():
    ids = [[device.id for device in row] for row in Layout(4, 2).mesh().devices]
    assert ids == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("data", "tower", "towers", "batch_size", "words"),
    [
        (1, 3, 2, 8, ["mesh.tower=3", "2 tower(s)", "1 or 2 device(s)"]),
        (1, 0, 2, 8, ["mesh.tower=0"]),
        (1, 2, 1, 8, ["mesh.tower=2", "1 tower(s)", "over 1 device(s)"]),
        (16, 1, 2, 16, ["mesh.data=16", "8 device(s)", "8×1, 4×2"]),
        (5, 2, 2, 10, ["mesh.data=5", "mesh.tower=2", "8×1, 4×2"]),
        (0, 1, 2, 8, ["mesh.data=0"]),
        (-2, 1, 2, 8, ["mesh.data=-2"]),
        (4, 1, 2, 10, ["batch_size=10", "mesh.data=4"]),
        (-1, 2, 2, 6, ["batch_size=6", "mesh.data=4"]),
    ],
)
def test_a_mesh_that_cannot_be_is_refused_in_one_line(
    data, tower, towers, batch_size, words
):
    with pytest.raises(InputError) as refused:
        parallel.make_mesh(data, tower, towers, batch_size)
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("fc", "parts", "message"),
    [
        (3, 1, r"mesh.fc=3: does not divide mesh.data=4; .* one of 1, 2, 4"),
        (1, 3, r"batch_size=8: .* over mesh.data=4 in accumulation=3 parts"),
    ],
)
def test_sharing_and_parts_that_do_not_divide_are_refused(fc, parts, message):
    with pytest.raises(InputError, match=message):
        parallel.make_mesh(4, 2, 2, 8, fc, parts)
