"""The price of a variant: a few lines of a config, and everything else follows."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from runs import SCRATCH, logged, tiny_config

from alexnet_jax import experiment, parallel
from alexnet_jax.errors import InputError
from alexnet_jax.network.shapes import stages, training_flop
from alexnet_jax.progress import parameter_table
from alexnet_jax.train import train
from alexnet_jax.workdir import parameter_shapes
from configs.paper_2012_code import get_config as code_of_2012
from configs.variants import VARIANTS, get_config

# Parameters of the full size; 146's count is docs/sources.md's.
COUNTS = {
    "tanh": 60_965_224,
    "no_normalisation": 60_965_224,
    "sixth_convolution": 61_555_304,
    "one_tower": 62_378_344,
    "no_overlap": 60_965_224,
}
ALL = pytest.mark.parametrize("name", COUNTS)


def tiny_variant(name: str, **changes):
    config = tiny_config({"network.layers": tuple(code_of_2012().network.layers)})
    config.update_from_flattened_dict({"steps": 4, "log_every_steps": 1, **changes})
    if name == "no_overlap":
        # 72-pixel crops: 17 → 9 → 7 → 4 → 2 → 1 positions with 147's paddings.
        config.augment.crop, config.augment.offsets = 72, 1
    VARIANTS[name](config)
    return config


def test_all_variants_are_tested():
    assert set(COUNTS) == set(VARIANTS)
    with pytest.raises(ValueError, match="variant 'x': allowed are tanh, no_norm"):
        get_config("x")


@ALL
def test_parameters_of_the_full_size(name):
    config = get_config(name)
    experiment.check(config)
    network = experiment.make_network(config, 1000)
    shapes = parameter_shapes(network, 224)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == COUNTS[name]
    table = parameter_table(shapes, network.weighted).splitlines()
    assert [row.split()[0] for row in table[1:-1]] == list(network.weighted)
    assert table[-1] == f"{COUNTS[name]:,} parameters"


@functools.cache
def losses(name: str, tower: int) -> tuple[float, ...]:
    folder = SCRATCH / "variants" / f"{name}_{tower}"
    assert train(tiny_variant(name, **{"mesh.tower": tower}), folder) is None
    return tuple(line["train/loss"] for line in logged(folder) if "train/loss" in line)


@ALL
def test_it_trains_and_its_towers_on_two_devices_compute_the_same(name):
    if name == "one_tower":
        with pytest.raises(InputError, match=r"mesh.tower=2: a network of 1 tower"):
            losses(name, 2)
    else:
        np.testing.assert_allclose(losses(name, 2), losses(name, 1), rtol=1e-5)
    assert len(losses(name, 1)) == 4
    assert np.isfinite(losses(name, 1)).all()


def test_the_variants_are_different_networks():
    first = {name: losses(name, 1)[0] for name in COUNTS if name != "no_overlap"}
    assert len(set(first.values())) == len(first), first


def test_the_shardings_of_a_sixth_convolution():
    config = tiny_variant("sixth_convolution", **{"mesh.tower": 2})
    network, mesh = experiment.make_network(config, 10), experiment.make_mesh(config)
    specs = parallel.parameter_specs(network, mesh)
    assert list(specs) == [*(f"conv{i}" for i in range(1, 7)), "fc6", "fc7", "fc8"]
    assert specs["conv6"] == {
        "kernel": P(None, None, None, "tower"),
        "bias": P("tower"),
    }
    assert specs["fc8"] == {"kernel": P(("tower",), None), "bias": P()}


def test_shapes_and_flops_follow():
    shapes = {
        name: {s.label: s for s in stages(full_size(name), 224)} for name in COUNTS
    }
    sides = [
        shapes["no_overlap"][label].output[0]
        for label in (
            "conv1",
            "conv1 pool",
            "conv2",
            "conv2 pool",
            "conv5",
            "conv5 pool",
        )
    ]
    assert sides == [55, 28, 26, 13, 11, 6]  # docs/sources.md, config 147
    sixth = shapes["sixth_convolution"]["conv6"]
    assert (sixth.input, sixth.output) == ((6, 6, 256), (6, 6, 256))
    assert (sixth.groups, sixth.kernel) == (1, (3, 3, 256, 256))
    assert "conv1 normalise" not in shapes["no_normalisation"]
    assert "fc7 tanh" in shapes["tanh"]
    assert training_flop(full_size("tanh"), 224) == 4_135_610_496
    more = 3 * 2 * 36 * 9 * 256 * 256
    assert training_flop(full_size("sixth_convolution"), 224) == 4_135_610_496 + more


def full_size(name: str):
    return experiment.make_network(get_config(name), 1000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"augment.crop": 27, "augment.offsets": 1},
            ["augment.crop=27", "conv2 pool has windows"],
        ),
        ({"network.layers": ("conv1", "fc6")}, ["network.layers", "'exchange' must"]),
        ({"network.layers": ("conv1", "relu")}, ["must end in a fully-connected"]),
        ({"network.layers": ("conv1", "gelu", "fc6")}, ["'gelu' is neither a layer"]),
        ({"network.layers": ("conv1", "exchange", "relu", "fc6")}, ["'exchange' must"]),
        ({"network.layers": ("conv1", "dropout", "fc6")}, ["'dropout' must follow"]),
        ({"network.layers": ("conv1", "conv1", "fc6")}, ["'conv1' stands there twice"]),
        ({"network.kernels": (8,) * 6}, ["network.kernels=", "must have 5 entries"]),
    ],
)
def test_stages_that_do_not_fit_are_refused_in_one_line(changes, words):
    config = tiny_config(changes)
    with pytest.raises(InputError) as refused:
        experiment.check(config)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)
