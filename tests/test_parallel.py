"""The mesh changes who computes what, never the result."""

import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
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

from alexnet_jax import device, parallel
from alexnet_jax.errors import InputError
from alexnet_jax.metrics import read_metrics
from alexnet_jax.network.alexnet import FIGURE_2, AlexNet
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.step import (
    State,
    initial_params,
    make_train_step,
    state_of,
    state_shardings,
)
from alexnet_jax.train import train
from configs import paper_2012_code, quickstart

BATCH = 8
HIDDEN = ("conv1", "conv3", "conv5", "fc7")  # normalised over a batch
LAYERS_2012 = tuple(paper_2012_code.get_config().network.layers)
NETWORK = small_network()
OF_2012 = small_network(layers=LAYERS_2012)
IN_FOURS = small_network(  # images are normalised
    layers=tuple(
        new
        for stage in FIGURE_2
        if stage != "normalise"
        for new in ((stage, "batch_normalise") if stage in HIDDEN else (stage,))
    ),
    batch_group=4,
)
NAMES = {NETWORK: "paper", OF_2012: "2012", IN_FOURS: "batch normalisation"}
RATE, OPTIMIZER = 0.01, momentum_with_decay(0.9, 0.0005)
STEPS = 50


class Layout(NamedTuple):
    """How a batch is computed."""

    data: int
    tower: int
    fc: int = 1
    micro_batches: int = 1

    def mesh(self):
        towers = NETWORK.towers
        return parallel.make_mesh(
            self.data, self.tower, towers, BATCH, self.fc, self.micro_batches
        )


ONE_DEVICE = Layout(1, 1)
LAYOUTS = [
    *[Layout(1, 2), Layout(2, 1), Layout(2, 2), Layout(4, 1), Layout(4, 2)],
    *[Layout(2, 1, fc=2), Layout(4, 2, fc=2), Layout(4, 2, fc=4)],
    *[Layout(1, 1, micro_batches=4), Layout(2, 2, micro_batches=2)],
    Layout(4, 2, fc=2, micro_batches=2),
]


def test_eight_devices_are_there():
    assert jax.device_count() == 8, "tests/conftest.py asks XLA for them"


# --- the same result -----------------------------------------------------------------


class Trainer:
    """Training steps of a network on a layout, one batch after another.

    Every step sees another batch: other crops, reflections, colours and dropout.
    """

    def __init__(self, layout: Layout, network: AlexNet):
        self.mesh = layout.mesh()
        self.shapes = jax.eval_shape(lambda: start(network))
        self.shardings = state_shardings(self.shapes, network, self.mesh)
        mean = mean_image().astype(self.shapes.sums.loss.dtype)
        self.mean = parallel.replicate(self.mesh, mean)
        self.rates = jax.tree.map(lambda _: RATE, self.shapes.params)
        self.train_step = quick_jit(
            make_train_step(
                network, OPTIMIZER, self.mesh, 0, SIDE, "crop", layout.micro_batches
            ),
            out_shardings=(self.shardings, parallel.replicated(self.mesh)),
        )

    def step(self, state: State, index: int) -> tuple[State, float]:
        batch = parallel.to_mesh(self.mesh, small_batch(BATCH, seed=index))
        state = jax.device_put(state, self.shardings)
        state, loss = self.train_step(state, batch, self.mean, self.rates)
        return state, float(loss)


def start(network: AlexNet) -> State:
    return state_of(initial_params(network, 3, SIDE), OPTIMIZER)


@functools.cache
def first_state(network: AlexNet) -> State:
    """The state that all layouts train from, on the host."""
    return jax.device_get(quick_jit(lambda: start(network))())


@functools.cache
def exact_training(layout: Layout, network: AlexNet):
    """In float64: the losses of fifty steps, the first gradient, the last weights."""
    network = network.clone(dtype=jnp.float64)
    with device.float64(True):
        trainer, state = Trainer(layout, network), first_state(network)
        losses, gradient = [], None
        for index in range(STEPS):
            state, loss = trainer.step(state, index)
            losses.append(loss)
            if gradient is None:
                gradient = jax.device_get(state.opt_state.trace)
                for own in gradient.values():  # averages have none
                    own.pop("mean", None), own.pop("variance", None)
        return np.array(losses), gradient, jax.device_get(state.params)


def test_the_steps_that_are_compared_change_something():
    losses, gradient, params = exact_training(ONE_DEVICE, NETWORK)
    assert losses.dtype == gradient["conv1"]["kernel"].dtype == np.float64
    assert len(set(losses.tolist())) == STEPS
    with device.float64(True):
        before = first_state(NETWORK.clone(dtype=jnp.float64)).params
    for layer, leaves in before.items():
        kernel = params[layer]["kernel"]
        assert relative_difference(kernel, leaves["kernel"]) > 0.01, layer


@pytest.mark.parametrize(
    ("layout", "network"),
    [
        *((layout, NETWORK) for layout in LAYOUTS),
        (Layout(2, 2), OF_2012),
        (Layout(2, 2, fc=2), IN_FOURS),
        (Layout(1, 1, micro_batches=2), IN_FOURS),
    ],
    ids=lambda x: str(x) if isinstance(x, Layout) else NAMES[x],
)
def test_in_float64_every_layout_computes_what_one_device_does(layout, network):
    losses, gradient, params = exact_training(layout, network)
    expected_losses, expected_gradient, expected = exact_training(ONE_DEVICE, network)
    differences = (
        np.abs(losses / expected_losses - 1).max(),
        relative_difference(gradient, expected_gradient),
        relative_difference(params, expected),
    )
    print(
        "\n{}: losses {:.1e}, gradient {:.1e}, weights {:.1e}".format(
            layout, *differences
        )
    )
    assert max(differences) <= 1e-10


def moved_by_one_ulp(params):
    """Every parameter at the next larger float."""
    return jax.tree.map(lambda p: np.nextafter(p, np.float32(np.inf)), params)


@functools.cache
def path_of_one_device(moved: bool) -> list[tuple[State, float]]:
    """In float32: the state before each step on one device, and its loss."""
    trainer, state = Trainer(ONE_DEVICE, NETWORK), first_state(NETWORK)
    if moved:
        state = state.replace(params=moved_by_one_ulp(state.params))
    path = []
    for index in range(12):
        following, loss = trainer.step(state, index)
        path.append((jax.device_get(state), loss))
        state = following
    return path


@functools.cache
def float32_trainer(layout: Layout) -> Trainer:
    return Trainer(layout, NETWORK)


@pytest.mark.parametrize("moved", [False, True], ids=["as drawn", "moved by one ulp"])
@pytest.mark.parametrize(
    "layout", [Layout(2, 2), Layout(4, 2, fc=2), Layout(1, 1, micro_batches=4)], ids=str
)
def test_in_float32_each_step_from_the_same_state_has_the_same_loss(layout, moved):
    # Step by step: where two pixels of a pooling window differ only by rounding, the
    # gradient goes to one or the other, and from there on two float32 runs part
    # (docs/machines.md). The loss of a single step does not depend on such a choice.
    trainer = float32_trainer(layout)
    for index, (state, expected) in enumerate(path_of_one_device(moved)):
        _, loss = trainer.step(state, index)
        assert abs(loss / expected - 1) <= 1e-5, index


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_fifty_steps_of_the_quickstart_in_float64(layout, tmp_path):
    losses, expected = quickstart_losses(layout, tmp_path), one_device_quickstart()
    difference = np.abs(losses / expected - 1).max()
    print(f"\n{layout}: losses {difference:.1e}")
    assert difference <= 1e-10


@functools.cache
def one_device_quickstart():
    with tempfile.TemporaryDirectory() as folder:
        return quickstart_losses(ONE_DEVICE, Path(folder))


def quickstart_losses(layout: Layout, folder: Path) -> np.ndarray:
    """The losses of fifty steps as the app trains them and metrics.jsonl has them."""
    config = quickstart.get_config()
    config.update_from_flattened_dict({
        "precision": "float64",
        "steps": STEPS,
        "log_every_steps": 1,
        "validate_every_epochs": 0.0,
        "dataset.validation": "10",
        "mesh.data": layout.data,
        "mesh.tower": layout.tower,
        "mesh.fc": layout.fc,
        "accumulation": layout.micro_batches,
    })  # fmt: skip
    assert train(config, folder / "run") is None
    lines = read_metrics(folder / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return np.array([line["train/loss"] for line in lines])


def test_a_batch_is_dealt_out_row_by_row_over_the_copies():
    mesh = Layout(4, 2).mesh()
    rows = np.arange(BATCH, dtype=np.int32)
    for shard in parallel.to_mesh(mesh, {"label": rows})["label"].addressable_shards:
        copy, _ = np.argwhere(mesh.devices == shard.device)[0]
        np.testing.assert_array_equal(shard.data, [2 * copy, 2 * copy + 1])


def test_a_tower_keeps_its_own_kernels_and_its_share_of_fc8():
    params = small_params(NETWORK)
    mesh = Layout(1, 2).mesh()
    placed = jax.device_put(params, parallel.parameter_shardings(NETWORK, mesh))
    second = jax.tree.map(lambda p: np.array(p.addressable_shards[1].data), placed)
    jax.tree.map(np.testing.assert_array_equal, second, tower_slice(params, tower=1))


def test_velocities_lie_beside_their_parameters():
    shapes = jax.eval_shape(lambda: start(NETWORK))
    shardings = state_shardings(shapes, NETWORK, Layout(2, 2).mesh())
    assert shardings.opt_state.trace == shardings.params
    assert shardings.params["conv2"]["kernel"].spec == P(None, None, None, "tower")
    assert shardings.step.spec == shardings.sums.loss.spec == P()


@pytest.mark.parametrize("layout", [Layout(1, 2), Layout(4, 2, fc=2)], ids=str)
def test_rates_by_layer_see_whole_layers_wherever_their_parts_are(layout):
    lars = momentum_with_decay(0.9, 0.0005, trust=0.001)
    with device.float64(True):
        network = NETWORK.clone(dtype=jnp.float64)
        state = first_state(network)
        shardings = state_shardings(state, network, layout.mesh()).params
        gradients = jax.tree.map(lambda w: np.cos(7 * w), state.params)

        def moves(params, gradients):
            rates = jax.tree.map(lambda _: RATE, params)
            return lars.update(gradients, lars.init(params), params, rates=rates)[0]

        expected = moves(state.params, gradients)
        spread = jax.device_put((state.params, gradients), (shardings, shardings))
        assert relative_difference(jax.jit(moves)(*spread), expected) <= 1e-14


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
