"""The network in PyTorch follows `AlexNet.layers`, and computes what ours does."""

import sys

import jax
import numpy as np
import pytest
import torch
from compare import relative_difference
from small import quick_jit, small_network, small_params, small_pixels
from small_variants import VARIANTS
from torch.nn import functional

from alexnet_jax.benchmark import torch_peer
from alexnet_jax.benchmark.torch_peer import MODES
from alexnet_jax.network.alexnet import FIGURE_2, AlexNet

AT_FC7 = FIGURE_2.index("fc7") - 1
OWN_TOWER = {"layers": (*FIGURE_2[:AT_FC7], *FIGURE_2[AT_FC7 + 1 :])}
AT_FC6 = FIGURE_2.index("fc6") - 1
OWN_MAPS = {"layers": (*FIGURE_2[:AT_FC6], *FIGURE_2[AT_FC6 + 1 :])}
OVERHANG = {"strides": (3, 2, 1, 1, 1), "paddings": (1, 2, 1, 1, 1)}
UNIT = {"layers": tuple("logistic" if s == "relu" else s for s in FIGURE_2)}
MORE = {
    **{"own_tower": OWN_TOWER, "own_maps": OWN_MAPS, "overhang": OVERHANG},
    **{"logistic": UNIT, "one_range": {"response_range": "layer"}},
}


def compute(network):
    """Loss and gradients of a test pass: ours, and PyTorch's."""
    params, x, labels = small_params(network), small_pixels(2), np.array([3, 7])

    def loss(params):
        log_probs = jax.nn.log_softmax(network.apply({"params": params}, x))
        return -log_probs[np.arange(2), labels].mean()

    ours = quick_jit(jax.value_and_grad(loss))(params)
    tensors = torch_peer.as_tensors(params)
    logits = torch_peer.make_forward(network)(
        tensors, torch.tensor(x).permute(0, 3, 1, 2), lambda units, layer: units / 2
    )
    theirs = functional.cross_entropy(logits, torch.tensor(labels))
    theirs.backward()
    return ours, (theirs.detach().numpy(), torch_peer.gradients(tensors))


@pytest.mark.parametrize("name", [*VARIANTS, *MORE])
def test_a_variant_has_the_same_loss_and_gradients(name):
    # Squares large enough for the normalisation to matter.
    changes = {"response_alpha": 1e-2, **(VARIANTS | MORE)[name]}
    ours, theirs = compute(small_network(**changes))
    assert relative_difference(ours[0], theirs[0]) < 1e-5
    assert relative_difference(ours[1], theirs[1]) < 1e-4


def test_dropout_is_given_the_layer_before_it():
    network, seen = small_network(**VARIANTS["sixth_convolution"]), []
    tensors = torch_peer.as_tensors(small_params(network))

    def drop(units, layer):
        seen.append((layer, tuple(units.shape)))
        return units

    x = torch.tensor(small_pixels(2)).permute(0, 3, 1, 2)
    torch_peer.make_forward(network)(tensors, x, drop)
    assert seen == [("fc6", (2, 32)), ("fc7", (2, 32))]


def test_without_pytorch_there_is_no_peer_and_a_line_shows_how_to_get_it(
    monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert torch_peer.start(AlexNet(), (), "cpu", MODES) == {}
    assert torch_peer.speeds({}, 128) is None
    assert "pip install 'alexnet_jax[peers]'" in capsys.readouterr().out


def test_a_mode_that_fails_is_one_line_and_the_others_run(monkeypatch, capsys):
    def make_runs(network, arrays, mode, device):
        if mode[1]:
            raise RuntimeError("no C++ compiler\nand much more")
        return {"train": mode, "inference": mode}

    monkeypatch.setattr(torch_peer, "make_runs", make_runs)
    runs = torch_peer.start(AlexNet(), (), "cpu", MODES)
    assert list(runs) == [
        *["train eager", "inference eager"],
        *["train channels_last", "inference channels_last"],
    ]
    assert capsys.readouterr().out == (
        "PyTorch, compile: RuntimeError: no C++ compiler\n"
        "PyTorch, compile_channels_last: RuntimeError: no C++ compiler\n"
    )
