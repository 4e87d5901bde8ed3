"""The mesh changes who computes what, never the result, and talks where it must."""

import collections
import functools
import re

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
from alexnet_jax.optimizer import momentum_with_decay, velocities
from alexnet_jax.step import initial_state, make_train_step, state_shardings

BATCH = 8
NETWORK = small_network()
RATE, OPTIMIZER = 0.01, momentum_with_decay(0.9, 0.0)
MESHES = [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]  # data × tower


def mesh_of(data: int, tower: int):
    return parallel.make_mesh(data, tower, NETWORK.towers, BATCH)


def test_eight_devices_are_there():
    assert jax.device_count() == 8, "tests/conftest.py asks XLA for them"


# --- the same result -----------------------------------------------------------------


@functools.cache
def start():
    """The state that all meshes train from."""
    return quick_jit(lambda: initial_state(NETWORK, OPTIMIZER, 3, SIDE))()


@functools.cache
def update(data: int, tower: int):
    """A mesh's compiled update, and what it is called with the first time."""
    mesh = mesh_of(data, tower)
    shardings = state_shardings(start(), mesh)
    arguments = (
        jax.device_put(start(), shardings),
        parallel.to_mesh(mesh, small_batch(BATCH)),
        jax.device_put(mean_image(), parallel.replicated(mesh)),
        jax.tree.map(lambda _: RATE, start().params),
    )
    step = make_train_step(NETWORK, OPTIMIZER, mesh, 0, "crop")
    step = quick_jit(step, out_shardings=(shardings, parallel.replicated(mesh)))
    return step.lower(*arguments).compile(), arguments


@functools.cache
def training(data: int, tower: int):
    """Losses of eight updates, the first one's gradient and the last weights."""
    step, (state, *rest) = update(data, tower)
    losses, states = [], []
    for _ in range(8):
        state, loss = step(state, *rest)
        losses.append(float(loss))
        states.append(jax.device_get(state))
    first_step = velocities(states[0].velocity)
    gradient = jax.tree.map(lambda v: -v / RATE, first_step)
    return np.array(losses), gradient, states[-1].params


def test_the_updates_that_meshes_are_compared_by_change_something():
    losses, _, params = training(1, 1)
    assert len(set(losses.tolist())) == 8
    for layer, before in start().params.items():
        kernel = params[layer]["kernel"]
        assert relative_difference(kernel, before["kernel"]) > 0.01, layer


@pytest.mark.parametrize(("data", "tower"), MESHES)
def test_losses_gradients_and_weights_are_those_of_one_device(data, tower):
    losses, gradient, params = training(data, tower)
    expected_losses, expected_gradient, expected_params = training(1, 1)
    differences = (
        np.abs(losses / expected_losses - 1).max(),
        relative_difference(gradient, expected_gradient),
        relative_difference(params, expected_params),
    )
    print(
        "\n{}×{}: losses {:.1e}, gradient {:.1e}, weights {:.1e}".format(
            data, tower, *differences
        )
    )
    assert max(differences) <= 1e-5


def test_a_batch_is_dealt_out_row_by_row_over_the_copies():
    mesh = mesh_of(4, 2)
    rows = np.arange(BATCH, dtype=np.int32)
    for shard in parallel.to_mesh(mesh, {"label": rows})["label"].addressable_shards:
        copy, _ = np.argwhere(mesh.devices == shard.device)[0]
        np.testing.assert_array_equal(shard.data, [2 * copy, 2 * copy + 1])


def test_a_tower_keeps_its_own_kernels_and_its_share_of_fc8():
    params = small_params(NETWORK)
    mesh = mesh_of(1, 2)
    placed = jax.device_put(params, parallel.parameter_shardings(mesh, params))
    second = jax.tree.map(lambda p: np.array(p.addressable_shards[1].data), placed)
    jax.tree.map(np.testing.assert_array_equal, second, tower_slice(params, tower=1))


def test_velocities_lie_beside_their_parameters():
    shardings = state_shardings(start(), mesh_of(2, 2))
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


# --- what is said between devices ----------------------------------------------------

COLLECTIVE = re.compile(
    r"= (?P<type>\S+|\(.*?\)) (?P<kind>all-[a-z]+|reduce-scatter|collective-[a-z]+)"
    r"(?:-start)?\(.*?replica_groups=(?P<groups>.*?), (?:[a-z_]+=|$)"
)


def exchanges(compiled) -> list[tuple[str, str]]:
    """(kind, groups of devices that take part) of every collective.

    Those of a device with itself are left out: they are copies. One that carries a
    single number is told apart: 'all-reduce of a number'.
    """
    found = []
    for line in compiled.as_text().splitlines():
        if re.search(r" (?:all-|reduce-scatter|collective-)[a-z-]*\(", line):
            collective = COLLECTIVE.search(line)
            assert collective, f"unread: {line}"
            groups = device_groups(collective["groups"])
            kind = collective["kind"]
            if collective["type"] == "f32[]":
                kind += " of a number"
            if groups.shape[1] > 1:
                found.append((kind, str(groups.tolist())))
    return found


def device_groups(text: str) -> np.ndarray:
    """(groups, devices in each) from XLA's three ways of writing them."""
    numbers = [int(digits) for digits in re.findall(r"(?<![_\d])\d+", text)]
    if text.startswith("{{"):  # {{0,1},{2,3}}
        return np.array(numbers).reshape(text.count("{") - 1, -1)
    if text.startswith("mesh"):  # mesh['axis_0'=2,'axis_1'=2] {'axis_0'}
        every, along = (re.findall(r"axis_\d+", part) for part in text.split("]"))
        sizes = np.array(numbers)
        own = [every.index(axis) for axis in along]
        others = [axis for axis in range(len(every)) if axis not in own]
        ids = np.arange(sizes.prod()).reshape(sizes).transpose(others + own)
        return ids.reshape(-1, sizes[own].prod())
    # [2,2]<=[4] or [2,2]<=[2,2]T(1,0)
    shape, sizes, *order = (
        [int(n) for n in part.split(",")] for part in re.findall(r"[\d,]*\d", text)
    )
    return np.arange(np.prod(sizes)).reshape(sizes).transpose(*order).reshape(shape)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{{0},{1}}", [[0], [1]]),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", [[0, 2], [1, 3]]),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", [[0, 1], [2, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ],
)
def test_groups_of_devices_are_read(text, groups):
    assert device_groups(text).tolist() == groups


def said_in_test(data: int, tower: int) -> list[tuple[str, str]]:
    mesh = mesh_of(data, tower)
    params = start().params
    params = jax.device_put(params, parallel.parameter_shardings(mesh, params))
    pixels = parallel.to_mesh(mesh, {"pixels": small_pixels(BATCH)})["pixels"]
    forward = quick_jit(parallel.testing(NETWORK, mesh))
    return exchanges(forward.lower(params, pixels).compile())


def said_in_training(data: int, tower: int) -> list[tuple[str, str]]:
    return exchanges(update(data, tower)[0])


def kinds(exchanged) -> dict[str, int]:
    return dict(collections.Counter(kind for kind, _ in exchanged))


def test_one_device_talks_to_nobody():
    assert said_in_test(1, 1) == said_in_training(1, 1) == []


def test_two_towers_meet_at_the_four_places_of_figure_2():
    # conv3, fc6 and fc7 read both towers; fc8 adds what each tower contributes.
    assert kinds(said_in_test(1, 2)) == {"all-gather": 3, "all-reduce": 1}


def test_backward_towers_return_gradients_at_three_places_and_sum_nothing():
    assert kinds(said_in_training(1, 2)) == {
        "all-gather": 3,
        "all-reduce": 1,
        "reduce-scatter": 3,
    }


def test_copies_are_silent_until_they_sum_their_gradients_once():
    # The number is that of the examples, which the loss is divided by.
    assert said_in_test(2, 1) == []
    assert kinds(said_in_training(2, 1)) == {
        "all-reduce": 1,
        "all-reduce of a number": 1,
    }


def test_towers_talk_within_a_copy_and_copies_within_a_tower():
    within_copy, within_tower = "[[0, 1], [2, 3]]", "[[0, 2], [1, 3]]"
    assert collections.Counter(said_in_training(2, 2)) == {
        ("all-gather", within_copy): 3,
        ("all-reduce", within_copy): 1,
        ("reduce-scatter", within_copy): 3,
        ("all-reduce", within_tower): 1,
        ("all-reduce of a number", within_tower): 1,
    }


# --- the mesh ------------------------------------------------------------------------


def test_the_rest_of_the_devices_become_copies():
    assert parallel.make_mesh(-1, 1, 2, 8).shape == {"data": 8, "tower": 1}
    assert parallel.make_mesh(-1, 2, 2, 8).shape == {"data": 4, "tower": 2}
    assert parallel.make_mesh(1, 1, 1, 8).devices.tolist() == [[jax.devices()[0]]]


def test_the_towers_of_a_copy_are_neighbouring_devices():
    ids = [[device.id for device in row] for row in mesh_of(4, 2).devices]
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
