"""One update: its pixels, its loss and whose gradient it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import relative_difference
from small import SIDE, mean_image, quick_jit, small_batch, small_network

from alexnet_jax import step
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.parallel import make_mesh
from alexnet_jax.step import (
    initial_params,
    make_train_step,
    state_of,
    training_pixels,
)

NETWORK = small_network()
ROUNDED = small_network(dtype=jnp.bfloat16)
# Without momentum and decay at rate 1, an update is the gradient.
BARE = momentum_with_decay(0.0, 0.0)
SEED = 2


@functools.cache
def start(network=NETWORK, seed: int = 3):
    return quick_jit(lambda: state_of(initial_params(network, seed, SIDE), BARE))()


@functools.cache
def train_step(network=NETWORK):
    mesh = make_mesh(1, 1, 2, batch_size=1)
    return quick_jit(make_train_step(network, BARE, mesh, SEED, SIDE, "crop"))


def update(state, batch, network=NETWORK):
    """The loss, the gradient and the new state of an update."""
    rates = jax.tree.map(lambda _: 1.0, state.params)
    new, loss = train_step(network)(state, batch, mean_image(), rates)
    gradient = jax.tree.map(np.negative, jax.device_get(new.opt_state.trace))
    return float(loss), gradient, new


def with_weights(batch, real):
    """The batch, in which only these examples are more than padding."""
    weight = np.zeros(len(batch["label"]), np.float32)
    weight[real] = 1
    return {**batch, "weight": weight}


# --- pixels --------------------------------------------------------------------------


def pixels_by_hand(batch, mean, mean_at: str) -> np.ndarray:
    """Picture by picture, the mean image at its place in the original picture."""
    pictures = []
    for i, image in enumerate(batch["image"]):
        y, x = batch["crop"][i]
        picture = np.float64(image[y : y + SIDE, x : x + SIDE])
        if mean_at == "crop":
            picture = picture - mean[y : y + SIDE, x : x + SIDE]
        if batch["flip"][i]:
            picture = np.flip(picture, axis=1)
        if mean_at == "centre":
            picture = picture - mean[4 : 4 + SIDE, 4 : 4 + SIDE]
        pictures.append((picture + batch["colour_offset"][i]) * batch["scale"][i])
    return np.stack(pictures)


@pytest.mark.parametrize("mean_at", ["crop", "centre"])
def test_pixels_are_mean_free_reflected_and_coloured(mean_at):
    batch, mean = small_batch(8), mean_image()
    batch["scale"][:] = np.linspace(0.5, 1, 8)
    assert 0 < batch["flip"].sum() < 8
    pixels = training_pixels(batch, mean, SIDE, mean_at)
    assert pixels.dtype == np.float32
    expected = pixels_by_hand(batch, mean, mean_at)
    assert relative_difference(pixels, expected) <= 1e-6
    other = {"crop": "centre", "centre": "crop"}[mean_at]
    assert relative_difference(pixels_by_hand(batch, mean, other), expected) > 0.01


@pytest.mark.parametrize("mean_at", ["crop", "centre"])
def test_pixels_are_the_same_on_a_tpu(mean_at, monkeypatch):
    batch = small_batch(9)
    batch["image"] = np.arange(batch["image"].size).reshape(batch["image"].shape)
    batch["image"] = batch["image"].astype(np.uint8)  # every level
    ours = training_pixels(batch, mean_image(), SIDE, mean_at)
    monkeypatch.setattr(step, "by_target", lambda *of, default, tpu: tpu(*of))
    on_a_tpu = training_pixels(batch, mean_image(), SIDE, mean_at)
    np.testing.assert_array_equal(on_a_tpu, ours)


def test_a_picture_like_the_mean_is_black_wherever_it_was_cropped():
    mean = np.round(mean_image())
    batch = small_batch(6)
    batch["colour_offset"][:] = 0
    batch["image"][:] = mean
    assert not np.array(training_pixels(batch, mean, SIDE, "crop")).any()


# --- the update ----------------------------------------------------------------------


@functools.cache
def each_alone():
    """Loss and gradient of each of four examples, the others being padding."""
    batch = small_batch(4)
    return [update(start(), with_weights(batch, [i]))[:2] for i in range(4)]


@pytest.mark.parametrize("real", [[0, 1, 2, 3], [0, 1, 2], [1, 3]])
def test_loss_and_gradient_are_the_means_over_the_real_examples(real):
    loss, gradient, new = update(start(), with_weights(small_batch(4), real))
    losses, gradients = zip(*(each_alone()[i] for i in real), strict=True)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *gradients)
    assert relative_difference(loss, np.mean(losses)) <= 1e-5
    assert relative_difference(gradient, mean) <= 1e-5
    assert new.sums.images == len(real)
    np.testing.assert_allclose(new.sums.loss, np.sum(losses), rtol=1e-5)


def test_padding_may_hold_anything():
    batch = with_weights(small_batch(4), [0, 2])
    other = {**batch, "image": batch["image"].copy(), "label": batch["label"].copy()}
    other["image"][[1, 3]] = 255 - other["image"][[1, 3]]
    other["label"][[1, 3]] = 0
    one, another = update(start(), batch), update(start(), other)
    assert relative_difference(one[:2], another[:2]) <= 1e-6


def test_weights_move_against_the_gradient():
    _, gradient, new = update(start(), small_batch(4))
    expected = jax.tree.map(np.subtract, jax.device_get(start().params), gradient)
    assert relative_difference(new.params, expected) <= 1e-6


@pytest.mark.parametrize("number", [0, 5])
def test_loss_is_that_of_the_logits_under_the_masks_of_seed_and_step(number):
    batch = small_batch(4)
    pixels = pixels_by_hand(batch, mean_image(), "crop").astype(np.float32)
    key = jax.random.fold_in(jax.random.key(SEED), number)
    logits = np.float64(logits_in_training(start().params, pixels, key))
    log_sum = np.log(np.exp(logits).sum(axis=1))
    expected = log_sum - logits[np.arange(4), batch["label"]]

    loss, _, _ = update(start().replace(step=np.int32(number)), batch)
    assert relative_difference(loss, expected.mean()) <= 1e-5
    if number == 0:
        each = np.array([loss for loss, _ in each_alone()])
        assert relative_difference(each, expected) <= 1e-5


@quick_jit
def logits_in_training(params, pixels, key):
    rows = np.arange(len(pixels))
    return NETWORK.apply({"params": params}, pixels, rows, rngs={"dropout": key})


def test_state_counts_updates_and_sums_over_them():
    _, _, once = update(start(), small_batch(4))
    loss, _, twice = update(jax.device_get(once), small_batch(4))
    assert (start().step, once.step, twice.step) == (0, 1, 2)
    assert (once.sums.images, twice.sums.images) == (4, 8)
    np.testing.assert_allclose(
        twice.sums.loss, float(once.sums.loss) + 4 * loss, rtol=1e-5
    )


def test_bfloat16_only_rounds():
    # Of other noise rounding may turn a unit on or off, and whole gradients with it.
    batch = small_batch(4, seed=12)
    exact_loss, exact, _ = update(start(), batch)
    loss, gradient, new = update(start(), batch, ROUNDED)
    kept = jax.tree.leaves((new.params, new.opt_state, new.sums))
    assert {x.dtype for x in kept} == {np.dtype("float32")}
    assert 0 < relative_difference(loss, exact_loss) < 0.01
    for layer in exact:
        # Rounding decides which of two close maxima a pooling passes a gradient to.
        bound = 0.3 if layer.startswith("conv") else 0.02
        difference = relative_difference(gradient[layer], exact[layer])
        assert 1e-4 < difference < bound, layer


def test_in_bfloat16_sums_over_positions_examples_and_classes_are_float32():
    rates = jax.tree.map(lambda _: 1.0, start().params)
    arguments = start(), small_batch(4), mean_image(), rates
    sums = [
        equation
        for equation in equations(train_step(ROUNDED).trace(*arguments).jaxpr)
        if equation.primitive.name in ("reduce_sum", "exp", "log")
    ]
    assert len(sums) > 20
    assert not [e for e in sums for x in e.outvars if x.aval.dtype == jnp.bfloat16]


def equations(program):
    """Those of a traced program and of all programs in it."""
    for equation in program.eqns:
        yield equation
        for inside in jax.tree.leaves(list(equation.params.values()), is_leaf=traced):
            if traced(inside):
                yield from equations(inside)


def traced(value) -> bool:
    return hasattr(value, "eqns")


def test_every_update_drops_other_units_and_always_the_same():
    def loss_at(number):
        return update(start().replace(step=np.int32(number)), small_batch(4))[0]

    losses = [loss_at(number) for number in range(4)]
    assert len(set(losses)) == 4
    assert [loss_at(number) for number in range(4)] == losses


def test_a_run_starts_from_its_seed():
    again = quick_jit(lambda: state_of(initial_params(NETWORK, 3, SIDE), BARE))()
    jax.tree.map(np.testing.assert_array_equal, start(), again)
    kernel, other = (start(seed=s).params["fc6"]["kernel"] for s in (3, 4))
    assert (kernel != other).all()
    assert kernel.shape == (8, 32)
    assert not any(np.array(v).any() for v in jax.tree.leaves(start().opt_state))


def test_all_forms_of_a_network_start_alike():
    half = NETWORK.clone(towers_here=1, tower_axis="tower")
    quarter = half.clone(fc_axis="fc", fc_parts=2)
    for form in (half, quarter):
        jax.tree.map(np.testing.assert_array_equal, start().params, start(form).params)
