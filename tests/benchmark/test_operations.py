"""The rows of `benchmark step` follow from the stages, and hold all their work."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import relative_difference
from small_variants import VARIANTS, variant_config

from alexnet_jax.benchmark import clock, operations
from alexnet_jax.experiment import make_mesh, make_program
from alexnet_jax.network.alexnet import FIGURE_2, AlexNet
from alexnet_jax.network.layers import FullyConnected
from alexnet_jax.network.maps import overlapping_pooling, spatial_normalisation
from alexnet_jax.network.shapes import inference_flop, stages, training_flop

# docs/sources.md: multiply-adds of each layer for one image, forward.
MULTIPLY_ADDS = {
    "conv1": 105_415_200,
    "conv2": 223_948_800,
    "conv3": 149_520_384,
    "conv4": 112_140_288,
    "conv5": 74_760_192,
    "fc6": 37_748_736,
    "fc7": 16_777_216,
    "fc8": 4_096_000,
}


def test_flop_is_that_of_the_sources():
    network = AlexNet()
    layers = {s.name: s.flop / 2 for s in stages(network, 224) if s.kernel}
    assert layers == MULTIPLY_ADDS
    assert inference_flop(network, 224) == 2 * 724_406_816
    assert training_flop(network, 224) == 4_135_610_496  # 4.136 GFLOP an image


def test_limits_are_those_of_the_fastest_round(monkeypatch):
    monkeypatch.setattr(operations, "product_side", lambda: 1000)
    times = [clock.Times((0.5, 0.25, 1.0)), clock.Times((2.0, 0.125))]
    found = operations.Limits.read(dict(zip(operations.LIMITS, times, strict=True)))
    assert found.flops == 2e9 / 0.25
    assert found.bytes == 2 * 2**28 / 0.125
    assert found.seconds(flop=8e9, bytes=1) == 1.0
    assert found.seconds(flop=1, bytes=2**34) == 4.0


def rows(config) -> dict[str, operations.Operation]:
    """The operations of a config by name, in order."""
    found = list(
        operations.operations_of(config, make_program(config, 10, make_mesh(config)))
    )
    assert len({part.name for part in found}) == len(found)
    return {part.name: part for part in found}


@functools.cache
def rows_of(name: str) -> dict[str, operations.Operation]:
    return rows(variant_config(name, batch_size=2))


def products(layer: str) -> list[str]:
    kinds = ("forward", "gradient of weights", "gradient of input")
    return [f"{layer} {kind}" for kind in kinds]


def both_ways(name: str) -> list[str]:
    return [f"{name} forward", f"{name} backward"]


CONV = [
    "pixels",
    *products("conv1")[:2],  # pixels need no gradient
    *both_ways("conv1 normalisation"),
    *both_ways("conv1 pooling"),
    *products("conv2"),
    *both_ways("conv2 normalisation"),
    *both_ways("conv2 pooling"),
    *products("conv3"),
    *products("conv4"),
    *products("conv5"),
    *both_ways("conv5 pooling"),
]
FULL = [
    *[*products("fc6"), "fc6 dropout", *products("fc7"), "fc7 dropout"],
    *[*products("fc8"), "update"],
]
NAMES = dict.fromkeys(VARIANTS, CONV + FULL)
NAMES["no_normalisation"] = [n for n in CONV + FULL if "normalisation" not in n]
NAMES["batch_normalised"] = [
    name.replace("conv1 norm", "conv1 batch norm") for name in CONV + FULL
]
NAMES["sixth_convolution"] = CONV + products("conv6") + FULL


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_of_a_variant_hold_all_its_work(name):
    config = variant_config(name)
    network = make_program(config, 10, make_mesh(config)).network
    parts = rows_of(name)
    assert list(parts) == NAMES[name]
    flop = 2 * training_flop(network, config.augment.crop)
    assert sum(part.flop for part in parts.values()) == flop
    for stage in stages(network, config.augment.crop):
        if stage.kernel:  # the shapes of its product are those of the stage
            forward = parts[f"{stage.name} forward"]
            value = jax.eval_shape(forward.function, *forward.arguments)
            assert value.shape == (2, *stage.output)
            assert forward.flop == 2 * stage.flop


def test_rows_of_variants_differ_where_the_variants_do():
    paper, dense, sixth = map(rows_of, ("figure_2", "one_tower", "sixth_convolution"))
    ratios = {
        layer: dense[f"{layer} forward"].flop / paper[f"{layer} forward"].flop
        for layer in MULTIPLY_ADDS
    }
    # Layers that read their own tower alone do half the work.
    assert [layer for layer, ratio in ratios.items() if ratio == 2] == [
        *["conv2", "conv4", "conv5"]
    ]
    assert set(ratios.values()) == {1, 2}
    # 1×1 positions of 8 kernels, each of 3×3×8 weights, for 2 images.
    assert sixth["conv6 forward"].flop == 2 * 2 * 8 * 9 * 8
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 15, 15, 8)), "f")
    pooled = rows_of("pooling_2_2")["conv1 pooling forward"].function(x)
    np.testing.assert_array_equal(pooled, overlapping_pooling(x, 2, 2))
    pooled = paper["conv1 pooling forward"].function(x)
    np.testing.assert_array_equal(pooled, overlapping_pooling(x, 3, 2))


def test_bytes_are_those_of_arguments_and_results():
    parts = rows_of("figure_2")
    # 2 × 15×15×8 maps of float32, read once and written once.
    assert parts["conv1 normalisation forward"].bytes == 2 * 2 * 15 * 15 * 8 * 4
    weights = 4 * 5_482  # as many gradients; weights and velocities are also written
    rates = 4 * 16
    assert parts["update"].bytes == 5 * weights + rates


def test_a_second_normalisation_has_its_rows():
    layers = list(FIGURE_2)
    layers.insert(layers.index("exchange") - 1, "normalise_within_maps")
    changes = {"network.layers": tuple(layers), "network.spatial_alpha": 0.1}
    parts = rows(variant_config("figure_2", batch_size=2, **changes))
    within = parts["conv2 spatial normalisation backward"]
    assert within.bytes == 3 * 4 * 2 * 7 * 7 * 8
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 7, 8)), "f")
    own = parts["conv2 spatial normalisation forward"].function(x)
    np.testing.assert_allclose(own, spatial_normalisation(x, alpha=0.1), rtol=1e-6)
    assert list(parts) == [
        *CONV[:12],
        *both_ways("conv2 spatial normalisation"),
        *CONV[12:],
        *FULL,
    ]


@pytest.mark.parametrize("layer", ["conv1", "conv4", "fc7"])
def test_operations_of_a_layer_are_its_value_and_gradients(layer):
    parts = rows_of("figure_2")
    forward = parts[f"{layer} forward"]
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=a.shape), "f") for a in forward.arguments)

    value, pull_back = jax.vjp(forward.function, x, kernel)
    upstream = jnp.asarray(rng.normal(size=value.shape), "f")
    of_x, of_kernel = pull_back(upstream)

    own = parts[f"{layer} gradient of weights"].function(x, upstream)
    assert relative_difference(own, of_kernel) < 1e-5
    if layer != "conv1":
        own = parts[f"{layer} gradient of input"].function(kernel, upstream)
        assert relative_difference(own, of_x) < 1e-5


def test_a_layer_of_units_that_read_their_own_tower_is_two_products():
    at = FIGURE_2.index("fc7") - 1
    layers = (*FIGURE_2[:at], *FIGURE_2[at + 1 :])
    changes = {"batch_size": 2, "network.layers": layers}
    forward = rows(variant_config("figure_2", **changes))["fc7 forward"]
    x, kernel = forward.arguments
    assert (x.shape, kernel.shape) == ((2, 16), (8, 16))
    assert forward.flop == 2 * 2 * 8 * 16

    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=a.shape), "f") for a in (x, kernel))
    layer = FullyConnected(16, 1.0, 0.0, jnp.float32, jnp.float32, groups=2)
    params = {"kernel": kernel, "bias": jnp.zeros(16)}
    expected = layer.apply({"params": params}, x)
    assert relative_difference(forward.function(x, kernel), expected) < 1e-6


def test_dropout_is_drawn_in_its_row():
    drop = rows_of("figure_2")["fc6 dropout"].function
    units = jnp.ones((64, 16))
    one, other = drop(units, 1), drop(units, 2)
    assert 0.4 < one.mean() < 0.6
    assert set(np.unique(one)) == {0, 1}
    assert (one != other).any()


def test_rows_are_timed_and_compared_with_the_roofline(monkeypatch):
    monkeypatch.setattr(operations, "READING", 0)
    x = jax.ShapeDtypeStruct((4, 5), jnp.float32)
    parts = [
        operations.Operation("sum", lambda x: x.sum(), (x,), flop=20),
        operations.Operation("half", lambda x: x / 2, (x,), in_place=True),
    ]
    limits = SimpleNamespace(seconds=lambda flop, bytes: flop + 1e-9 * bytes)
    total, half = operations.measure(parts, limits)
    seconds = total["milliseconds"] / 1e3
    assert seconds > 0
    assert total == {
        "name": "sum",
        "milliseconds": seconds * 1e3,
        "gflops": pytest.approx(20 / seconds / 1e9),
        "gigabytes_per_second": pytest.approx((80 + 4) / seconds / 1e9),
        "share_of_limit": pytest.approx((20 + 1e-9 * (80 + 4)) / seconds),
    }
    least = 20 + 1e-9 * (80 + 4) + 1e-9 * 160
    assert operations.least_seconds([total, half]) == pytest.approx(least)
    lines = operations.table([total, half], 2.0).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [
        *["sum", "half", "sum", "the whole step"]
    ]
    assert lines[-1].split()[3:] == ["2,000.00", f"{least / 2:.0%}"]
