"""The networks of other configs against PyTorch: Caffe's, torchvision's, CIFAR-10's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import relative_difference
from small import quick_jit
from torch.nn import functional

from alexnet_jax import experiment
from alexnet_jax.benchmark import torch_peer
from alexnet_jax.network.shapes import stages
from configs import caffe, cifar10, one_weird_trick

# Parameters in full size (docs/sources.md); Caffe's fc6 to fc8 read all maps.
COUNTS = {
    "caffenet": 60_965_224,
    "bvlc_alexnet": 60_965_224,
    "torchvision": 61_100_840,
    "cuda_convnet2": 61_100_840,
    "norm18": 89_578,
    "no_norm19": 89_578,
    "no_norm13": 1_116_490,
    "norm11": 2_112_970,
    "figure1_relu": 89_578,
    "figure1_tanh": 89_578,
    "figure1_abs_tanh": 89_578,
}
SIDES = {"caffenet": 227, "bvlc_alexnet": 227, "torchvision": 224, "cuda_convnet2": 224}
SIDES |= {
    name: 24 if name in ("norm11", "no_norm13") else 32 for name in COUNTS
} | SIDES


@functools.cache
def config_of(name: str):
    for configs in (caffe, one_weird_trick):
        try:
            return configs.get_config(name)
        except ValueError:
            pass
    return cifar10.get_config(name)


def shapes_of(network, side: int):
    pixels = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(network.init, jax.random.key(0), pixels)["params"]


def test_the_rates_of_cuda_convnet2_are_its_geometric_stages():
    config = config_of("cuda_convnet2")
    schedule = experiment.make_schedule(config)
    for epoch in (0, 22, 23, 44, 46, 67, 68, 89):
        progress = epoch / config.epochs  # lr.cu: dexp[0.01; 250; 4], dexp[0.02; 10; 2]
        rates = {
            "kernel": pytest.approx(0.01 / 250 ** (int(4 * progress) / 3), rel=1e-3),
            "bias": 0.02 / 10 ** int(2 * progress),
        }
        assert schedule.rates(epoch, ["conv1", "fc8"]) == {"conv1": rates, "fc8": rates}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_the_full_size(name):
    config = config_of(name)
    experiment.check(config)
    side = config.augment.crop
    assert side == SIDES[name]
    network = experiment.make_network(config, 1000 if side > 32 else 10)
    leaves = jax.tree.leaves(shapes_of(network, side))
    assert sum(leaf.size for leaf in leaves) == COUNTS[name]
    kernels = [stage.kernel for stage in stages(network, side) if stage.kernel]
    assert kernels == [
        shapes_of(network, side)[layer]["kernel"].shape for layer in network.weighted
    ]


@pytest.mark.parametrize("name", COUNTS)
def test_outputs_and_gradients_are_those_of_torch(name):
    config, side = config_of(name), SIDES[name]
    network = experiment.make_network(config, 10)
    if side > 32:  # full size takes long
        network = network.clone(kernels=(8,) * 5, units=(12, 12))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(
            0, (2 / np.prod(leaf.shape[-2:-1] or 9) / 9) ** 0.5, leaf.shape
        ).astype(np.float32),
        shapes_of(network, side),
    )
    x = rng.normal(0, 60, (3, side, side, 3)).astype(np.float32)
    labels = np.array([1, 7, 4])

    def loss(params):  # a test pass: nothing is dropped
        logits = network.apply({"params": params}, x)
        return -jax.nn.log_softmax(logits)[jnp.arange(3), labels].mean(), logits

    (_, logits), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(params)

    tensors = torch_peer.as_tensors(params, dtype=torch.float64)
    expected = torch_peer.make_forward(network)(
        tensors,
        torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2),
        lambda units, layer: units * (1 - network.dropout),
    )
    functional.cross_entropy(expected, torch.tensor(labels)).backward()
    assert relative_difference(expected[0].detach(), expected[1].detach()) > 1e-3
    assert relative_difference(logits, expected.detach().numpy()) <= 1e-4
    assert relative_difference(gradients, torch_peer.gradients(tensors)) <= 1e-3
