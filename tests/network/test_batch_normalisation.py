"""Batch normalisation, the one change of AlexNet-BN, against PyTorch and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from against_torch import as_torch, channels_first, check_against, normal
from compare import relative_difference
from runs import tiny_config
from small import (
    SIDE,
    mean_image,
    quick_jit,
    small_batch,
    small_network,
    small_params,
    small_pixels,
)
from torch.nn import functional

from alexnet_jax import experiment, parallel
from alexnet_jax.benchmark import torch_peer
from alexnet_jax.errors import InputError
from alexnet_jax.inference import feature_names
from alexnet_jax.network.alexnet import FIGURE_2
from alexnet_jax.network.layers import batch_normalisation
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.step import make_train_step, state_of

LAYERS = (*FIGURE_2[:1], "batch_normalise", "relu", *FIGURE_2[3:])  # conv1's alone
AT_FC7 = LAYERS.index("fc7") + 1
LAYERS = (*LAYERS[:AT_FC7], "batch_normalise", *LAYERS[AT_FC7:])
NETWORK = small_network(layers=LAYERS, batch_group=3)
NORMALISED = ("conv1", "fc7")


def drawn(params):
    """The same with scales, averages and biases of all sizes."""
    rng = np.random.default_rng(8)
    shapes = {"scale": (0.5, 1.5), "mean": (-1, 1), "variance": (0.5, 2)}
    return {
        layer: {
            name: rng.uniform(*shapes[name], leaf.shape).astype("f4")
            if name in shapes
            else np.asarray(leaf)
            for name, leaf in leaves.items()
        }
        for layer, leaves in params.items()
    }


@pytest.mark.parametrize("shape", [(6, 5, 4, 8), (6, 8)], ids=["maps", "units"])
def test_each_group_is_normalised_by_itself(shape):
    x, scale = 40 * normal(*shape) + 7, normal(8, seed=1)

    def ours(x, scale):
        return batch_normalisation(x, scale, 3)[0]

    def oracle(x, scale):
        x = channels_first(x) if x.ndim == 4 else x
        norm = [functional.batch_norm(own, None, None, scale, training=True)
                for own in x.split(3)]  # fmt: skip
        return torch.cat(norm).movedim(1, -1)

    value = check_against(ours, oracle, x, scale)
    groups = np.asarray(value).reshape(2, -1, 8)
    np.testing.assert_allclose(groups.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(groups.std(axis=1), np.abs([scale] * 2), rtol=1e-4)


def test_sums_of_bfloat16_maps_are_float32():
    x = jnp.asarray(normal(4, 50, 50, 2) + 3, jnp.bfloat16)
    value, mean, variance = batch_normalisation(x, jnp.ones(2), 4)
    assert (value.dtype, mean.dtype, variance.dtype) == ("bfloat16", "f4", "f4")
    expected = np.asarray(x, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(mean, expected.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, expected.var(axis=0), rtol=1e-5)


def test_training_loss_and_gradients_are_those_of_torch():
    params, x = drawn(small_params(NETWORK)), small_pixels(6)
    labels = np.array([1, 7, 4, 0, 0, 2])
    network = NETWORK.clone(dropout=0.0)

    def loss(params):
        logits = network.apply({"params": params}, x, jnp.arange(6), rngs=keys)
        return -jax.nn.log_softmax(logits)[jnp.arange(6), labels].mean()

    keys = {"dropout": jax.random.key(0)}
    value, gradients = quick_jit(jax.value_and_grad(loss))(params)
    tensors = torch_peer.as_tensors(params, dtype=torch.float64)
    logits = torch_peer.make_forward(network)(
        tensors, channels_first(as_torch(x)), lambda units, layer: units, trains=True
    )
    expected = functional.cross_entropy(logits, torch.tensor(labels))
    expected.backward()
    assert relative_difference(value, expected.detach().numpy()) <= 1e-5
    theirs = torch_peer.gradients(tensors)
    for layer in NORMALISED:
        for own in (gradients[layer], theirs[layer]):  # batches are read, not averages
            assert not own.pop("mean").any()
            assert not own.pop("variance").any()
    assert relative_difference(gradients, theirs) <= 1e-4


def test_averages_are_what_a_test_pass_reads():
    params, x = drawn(small_params(NETWORK)), small_pixels(6)
    logits = quick_jit(NETWORK.apply)({"params": params}, x)
    expected = torch_peer.make_forward(NETWORK)(
        torch_peer.as_tensors(params),
        channels_first(torch.tensor(x)),
        lambda units, layer: units / 2,
    ).detach()
    assert relative_difference(logits, expected.numpy()) <= 1e-5
    one = quick_jit(NETWORK.apply)({"params": params}, x[:1])
    np.testing.assert_allclose(one, logits[:1], rtol=1e-4, atol=1e-5)
    started = quick_jit(NETWORK.apply)({"params": small_params(NETWORK)}, x)
    assert relative_difference(started, expected.numpy()) > 0.1


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_averages_follow_the_batches(micro_batches):
    """By NumPy, from the sums of conv1 of a step whose weights do not move."""
    rule = momentum_with_decay(0.9, 0.0005)
    mesh = parallel.make_mesh(1, 1, 2, 6, micro_batches=micro_batches)
    train_step = quick_jit(
        make_train_step(NETWORK, rule, mesh, 0, SIDE, "crop", micro_batches)
    )
    state = state_of(drawn(small_params(NETWORK)), rule)
    before = state.params
    rates = {layer: {"kernel": 0.0, "bias": 0.0} for layer in before}
    batch = small_batch(6)
    expected = {
        name: np.float64(before["conv1"][name]) for name in ("mean", "variance")
    }
    for _ in range(2):
        state, _ = train_step(state, batch, mean_image(), rates)
        sums = conv1_of(before, batch).reshape(2, -1, 8)  # groups of three images
        seen = {"mean": sums.mean(axis=1), "variance": sums.var(axis=1)}
        for name in expected:
            expected[name] = 0.9 * expected[name] + 0.1 * seen[name].mean(axis=0)
    for name, average in expected.items():
        np.testing.assert_allclose(state.params["conv1"][name], average, rtol=1e-4)
        assert not state.opt_state.trace["conv1"][name].any()
        assert (state.params["fc7"][name] != before["fc7"][name]).all()
    np.testing.assert_array_equal(state.params["fc7"]["scale"], before["fc7"]["scale"])


def conv1_of(params, batch) -> np.ndarray:
    """The sums of conv1 over crops of a batch, float64 (B, H, W, K)."""
    kernel = np.asarray(params["conv1"]["kernel"], np.float64)
    found = []
    for image, (y, x), flip, offset, scale in zip(
        *(batch[k] for k in ("image", "crop", "flip", "colour_offset", "scale")),
        strict=True,
    ):
        pixels = np.float64(image) - mean_image()
        pixels = pixels[y : y + SIDE, x : x + SIDE]
        pixels = (pixels[:, ::-1] if flip else pixels) + offset
        pixels = np.pad(pixels * scale, ((0, 3), (0, 3), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(pixels, (11, 11), (0, 1))
        found.append(np.einsum("yxchw,hwck->yxk", windows[::4, ::4], kernel))
    return np.array(found)


def test_its_scale_has_the_rate_of_the_biases_and_an_average_none():
    rule = momentum_with_decay(0.9, 0.0)
    params = {"conv1": dict.fromkeys(("kernel", "bias", "scale", "mean"), np.ones(2))}
    gradients = jax.tree.map(np.ones_like, params)
    state = rule.init(params)
    rates = {"conv1": {"kernel": 0.1, "bias": 0.2}}
    moves, _ = rule.update(gradients, state, params, rates=rates)
    by_name = {name: float(move[0]) for name, move in moves["conv1"].items()}
    expected = {"kernel": -0.1, "bias": -0.2, "scale": -0.2, "mean": 0}
    assert by_name == pytest.approx(expected)


def test_a_group_that_no_device_holds_is_refused_in_one_line():
    changes = {"network.layers": LAYERS, "network.batch_group": 12}
    config = tiny_config(changes)
    with pytest.raises(InputError) as refused:
        experiment.make_program(config, 10, experiment.make_mesh(config))
    assert str(refused.value) == (
        "network.batch_group=12: does not divide the 16 images that a device computes "
        "together; change it, batch_size, mesh.data or accumulation"
    )


def test_features_are_those_behind_it():
    names = feature_names(NETWORK)
    assert names["conv1"] == ("conv1", ())
    assert names["fc7"] == ("fc7", ())
