"""The whole network against an independent PyTorch module with the same weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import relative_difference
from small import quick_jit, small_network, small_params, small_pixels
from torch.nn import functional

from alexnet_jax.benchmark import torch_peer
from alexnet_jax.experiment import make_network
from alexnet_jax.network.alexnet import FIGURE_2, AlexNet
from configs import paper, paper_2012_code

VERSIONS = {"paper": paper, "code": paper_2012_code}

# The constants of the PyTorch peer: once more, from the text and from config 145.
PAPER = {"response_depth": 5, "response_k": 2.0, "response_alpha": 1e-4}
PAPER |= {"response_beta": 0.75, "towers": 2}
# Config 145: conv1's maps are normalised and pooled before their ReLU, and conv2's are
# normalised once more within each map.
CODE = {"response_alpha": 1e-4 / 5, "spatial_alpha": 0.001 / 25}
CODE["layers"] = ("conv1", "normalise", "pool", "relu", "conv2", "relu", "normalise")
CODE["layers"] += ("normalise_within_maps", "pool", *FIGURE_2[8:])
PEERS = {"paper": AlexNet(**PAPER), "code": AlexNet(**(PAPER | CODE))}

# docs/sources.md, 'Counts': weights and biases of each layer.
COUNTS = {
    "conv1": (34_848, 96),
    "conv2": (307_200, 256),
    "conv3": (884_736, 384),
    "conv4": (663_552, 384),
    "conv5": (442_368, 256),
    "fc6": (37_748_736, 4_096),
    "fc7": (16_777_216, 4_096),
    "fc8": (4_096_000, 1_000),
}


def full_size(version: str):
    return make_network(VERSIONS[version].get_config(), classes=1000)


def shapes_of(network, side: int):
    key, pixels = jax.random.key(0), jnp.zeros((1, side, side, 3))
    return jax.eval_shape(network.init, key, pixels)["params"]


@functools.cache
def drawn_weights():
    """For the full size, large enough that signals keep their size through the layers.

    Those of §5 start so small that all images have nearly the same logits.
    """
    rng = np.random.default_rng(1)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return rng.normal(0, 0.5, shape).astype(np.float32)
        deviation = np.float32((2 / np.prod(shape[:-1])) ** 0.5)
        return deviation * rng.standard_normal(shape, np.float32)

    return jax.tree.map(
        lambda leaf: draw(leaf.shape), shapes_of(full_size("paper"), 224)
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_parameters_are_counted_as_in_2012(version):
    params = shapes_of(full_size(version), 224)
    counts = {
        layer: (leaves["kernel"].size, leaves["bias"].size)
        for layer, leaves in params.items()
    }
    assert counts == COUNTS
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 60_965_224


def test_without_arguments_it_is_the_papers():
    assert AlexNet() == make_network(paper.get_config(), 1000)


def test_one_tower_is_the_ungrouped_network():
    params = shapes_of(full_size("paper").clone(towers=1), 224)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 62_378_344


def test_weights_start_from_the_tables_deviations():
    # Convolutions at full size; fc6 to fc8, whose size takes long, made narrow.
    network = full_size("code").clone(units=(512, 512))
    # 67 pixels give the smallest maps that reach fc6: its inputs are 256.
    params = quick_jit(network.init)(jax.random.key(0), jnp.zeros((1, 67, 67, 3)))[
        "params"
    ]
    stddevs = dict.fromkeys(COUNTS, 0.01)
    stddevs.update(conv3=0.03, conv4=0.03, conv5=0.03)
    biases = dict(zip(COUNTS, (0, 1, 0, 1, 1, 1, 1, 0), strict=True))
    for layer, leaves in params.items():
        kernel = np.array(leaves["kernel"], np.float64).ravel()
        error = stddevs[layer] / kernel.size**0.5  # of the mean; of σ, over √2
        assert abs(kernel.mean()) < 5 * error, layer
        assert abs(kernel.std() - stddevs[layer]) < 5 * error, layer
        # A Gaussian: 3 × variance²; a truncated or uniform one has much less.
        assert abs((kernel**4).mean() / kernel.var() ** 2 - 3) < 0.1, layer
        np.testing.assert_array_equal(leaves["bias"], biases[layer])


def torch_logits(network, params, images) -> np.ndarray:
    """PyTorch's, at test."""
    tensors = torch_peer.as_tensors(params)
    x = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        forward = torch_peer.make_forward(network)
        return forward(tensors, x, lambda units, layer: units / 2).numpy()


@pytest.mark.parametrize("version", VERSIONS)
def test_full_size_outputs_are_those_of_torch(version):
    network, params = full_size(version), drawn_weights()
    images = small_pixels(2, side=224)

    logits = jax.jit(network.apply)({"params": params}, images)
    expected = torch_logits(PEERS[version], params, images)
    other = "code" if version == "paper" else "paper"
    other_version = torch_logits(PEERS[other], params, images)
    without = PEERS[version].clone(response_alpha=0.0, spatial_alpha=0.0)
    unnormalised = torch_logits(without, params, images)

    difference = relative_difference(logits, expected)
    print(f"\n{version}: largest relative difference of the logits {difference:.2e}")
    assert difference <= 1e-4
    # The comparison is sharp: each of these makes a difference of more than a tenth.
    assert expected.std() > 0.1 * np.abs(expected).max(), "classes"
    assert relative_difference(expected[0], expected[1]) > 0.1, "images"
    assert relative_difference(other_version, expected) > 0.1, "versions"
    assert relative_difference(unnormalised, expected) > 0.1, "normalisation"


@pytest.mark.parametrize(
    "changes",
    [{}, CODE, {"response_range": "layer"}],
    ids=["paper", "code", "paper, windows over the layer"],
)
def test_training_loss_and_gradients_are_those_of_torch(changes):
    # conv1 at stride 2 leaves 3×3 maps for fc6, so that their order matters.
    network = small_network(strides=(2, 1, 1, 1, 1), **changes)
    params, x = small_params(network), small_pixels(3)
    labels = np.array([1, 7, 4])

    def loss(params):
        logits, captured = network.apply(
            {"params": params},
            x,
            jnp.arange(3),
            rngs={"dropout": jax.random.key(2)},
            capture_intermediates=lambda module, method: method == "drop",
        )
        own = jax.nn.log_softmax(logits)[jnp.arange(3), labels]
        return -own.mean(), captured["intermediates"]["drop"]

    (value, dropped), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(
        params
    )
    # Where a unit is 0 already, its ReLU stops the gradient: no mask is needed there.
    kept = [torch.tensor(np.array(units)) > 0 for units in dropped]
    masks = dict(zip(("fc6", "fc7"), kept, strict=True))
    peer = AlexNet(**{**PAPER, "strides": (2, 1, 1, 1, 1), **changes})
    tensors = torch_peer.as_tensors(params, dtype=torch.float64)
    logits = torch_peer.make_forward(peer)(
        tensors,
        torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2),
        lambda units, layer: units * masks[layer],
    )
    expected = functional.cross_entropy(logits, torch.tensor(labels))
    expected.backward()

    assert relative_difference(value, expected.detach().numpy()) <= 1e-5
    difference = relative_difference(gradients, torch_peer.gradients(tensors))
    print(f"\nlargest relative difference of the gradients {difference:.2e}")
    assert difference <= 1e-4


def test_dropout_draws_anew_for_each_layer_and_key_and_rests_at_test():
    network = small_network(units=(512, 512), biases=(0.0,) * 5 + (9.0, 9.0, 0.0))
    params, x = small_params(network), small_pixels(2)

    @quick_jit
    def kept(key):
        _, captured = network.apply(
            {"params": params},
            x,
            jnp.arange(2),
            rngs={"dropout": key},
            capture_intermediates=lambda module, method: method == "drop",
        )
        return [units != 0 for units in captured["intermediates"]["drop"]]

    fc6, fc7 = kept(jax.random.key(0))
    fc6_of_another, _ = kept(jax.random.key(1))
    for one, other in ((fc6, fc7), (fc6, fc6_of_another), (fc6[0], fc6[1])):
        assert 0.4 < (one == other).mean() < 0.6


def test_bfloat16_computes_the_same_network_roughly():
    network, x = small_network(), small_pixels(2)
    params = small_params(network)
    exact = quick_jit(network.apply)({"params": params}, x)
    rough = quick_jit(network.clone(dtype=jnp.bfloat16).apply)({"params": params}, x)
    assert rough.dtype == jnp.float32
    assert 1e-6 < relative_difference(rough, exact) < 0.05
    assert (rough != rough.astype(jnp.bfloat16)).mean() > 0.9, "logits are not rounded"
