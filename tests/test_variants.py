"""The price of a variant: a few lines of a config, and everything else follows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from runs import tiny_config
from small import mean_image, small_batch

from alexnet_jax import experiment, parallel, step
from alexnet_jax.console import parameter_table
from alexnet_jax.errors import InputError
from alexnet_jax.network.shapes import stages, training_flop
from alexnet_jax.step import parameter_shapes
from alexnet_jax.values import flat
from configs import cifar10, large_batch
from configs.paper_2012_code import get_config as code_of_2012
from configs.variants import PUBLISHED, VARIANTS, get_config

# Parameters of the full size. docs/sources.md has 145's, 146's, 150's and 145-half's;
# a removed convolution takes its own with it and adds what the next one then reads.
COUNTS = dict.fromkeys(VARIANTS, 60_965_224) | {
    "half": 59_798_312,
    "one_tower": 62_378_344,
    "no_communication": 60_714_408,
    "sixth_convolution": 61_555_304,
    "pretrained_2009": 61_555_304,
    "pretrained_2011": 61_555_304,
    "fine_tuned": 61_555_304,
    # conv2 reads 3 colours, not 48 maps; fc6 7×7×256 inputs, not 6×6×256.
    "without_conv1": 60_965_224 - 34_944 - 25 * 45 * 256 + (49 - 36) * 256 * 4096,
    "without_conv2": 60_965_224 - 307_456 - 9 * (256 - 96) * 384,
    "without_conv3": 60_965_224 - 885_120 + 9 * (256 - 192) * 384,
    "without_conv4": 60_965_224 - 663_936,
    "without_conv5": 60_965_224 - 442_624 + 36 * 128 * 4096,
    # A scale, a mean and a variance of each map and unit.
    "batch_normalised": 60_965_224 + 3 * (96 + 256 + 384 + 384 + 256 + 2 * 4096),
}
PER_CONVOLUTION = ("kernels", "sizes", "strides", "paddings")
ONE_TOWER = ("one_tower", "half")
ON_TWO_DEVICES = (
    *("tanh", "no_normalisation", "no_overlap", "no_communication", "without_conv1"),
    *("sixth_convolution", *ONE_TOWER),
)
ALL = pytest.mark.parametrize("name", COUNTS)


def tiny_variant(name: str, **changes):
    config = tiny_config({"network.layers": tuple(code_of_2012().network.layers)})
    VARIANTS[name](config)
    network, augment = config.network, config.augment
    network.kernels = (8,) * len(network.kernels)
    network.units, network.batch_group = (16, 16), 8
    if name == "no_overlap":
        # 72-pixel crops: 17 → 9 → 7 → 4 → 2 → 1 positions with 147's paddings.
        augment.crop, augment.offsets = 72, 1
    if name == "crop_227":
        augment.crop, augment.offsets = 67, 6  # 67 = 227 − 40·4: no zeros either
    config.update_from_flattened_dict(changes)
    return config


def test_all_variants_are_tested():
    assert set(COUNTS) == set(VARIANTS)
    assert set(COUNTS) > PUBLISHED.keys()
    with pytest.raises(ValueError, match="variant='x': allowed are whole, tanh, log"):
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
    """Of three steps from the same weights, at rates that move every layer."""
    config = tiny_variant(name, **{"mesh.tower": tower})
    experiment.check(config)
    mesh = experiment.make_mesh(config)
    program = experiment.make_program(config, 10, mesh)
    before = drawn_params(name)
    state = step.state_of(before, experiment.make_optimizer(config))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.state)
    state, found = jax.device_put(state, shardings), []
    rates = jax.tree.map(lambda _: jnp.float32(0.01), program.state.params)
    size = config.dataset.image_size
    batch = {k: jnp.asarray(v[:, :size, :size] if v.ndim == 4 else v)
             for k, v in small_batch(16, margin=8).items()}  # fmt: skip
    batch["crop"] = jnp.zeros_like(batch["crop"])
    batch = jax.device_put(batch, {k: v.sharding for k, v in program.batch.items()})
    mean = parallel.replicate(mesh, mean_image(margin=8))
    for _ in range(3):
        state, loss = program.train_step(state, batch, mean, rates)
        found.append(float(loss))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, before)
    assert all(moved[layer]["kernel"] > 0 for layer in program.network.weighted), moved
    return tuple(found)


def drawn_params(name: str):
    """The same weights whatever the mesh, large enough for each layer to matter."""
    config = tiny_variant(name)
    shapes = parameter_shapes(experiment.make_network(config, 10), config.augment.crop)
    rng = np.random.default_rng(0)

    def draw(leaf):
        inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        deviation = 0.003 if leaf.shape[-2:-1] == (3,) else (2 / inputs) ** 0.5
        return rng.normal(0, 0.1 if inputs == 1 else deviation, leaf.shape)

    return jax.tree.map(lambda leaf: draw(leaf).astype("float32"), shapes)


@ALL
def test_it_trains(name):
    first, second, third = losses(name, 1)
    assert np.isfinite(third)
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("name", ON_TWO_DEVICES)
def test_its_towers_on_two_devices_compute_the_same(name):
    if name in ONE_TOWER:
        with pytest.raises(InputError, match=r"mesh.tower=2: a network of 1 tower"):
            losses(name, 2)
    else:
        np.testing.assert_allclose(losses(name, 2), losses(name, 1), rtol=1e-5)


def test_a_variant_changes_what_its_name_says_and_nothing_else():
    before, layers = flat(get_config("whole")), "network.layers"
    changed = {
        name: {k for k, v in flat(get_config(name)).items() if v != before[k]}
        for name in VARIANTS
    }
    geometry = {"network.pool_size", "network.paddings"}
    per_layer = {f"network.{key}" for key in PER_CONVOLUTION}
    longer = {layers, *per_layer, "network.stddevs", "network.biases"}
    start = {"epochs", "start.fresh", "optimizer.rate", "optimizer.layer_drops"}
    start |= {"optimizer.bias_rate_multiple", "optimizer.drops"}
    expected = {
        "whole": set(),
        **{key: {layers} for key in ("tanh", "logistic", "abs_tanh", "no_dropout")},
        **{key: {layers} for key in ("no_normalisation", "conv2_unnormalised")},
        "conv2_normalised_before_relu": {layers},
        "batch_normalised": {layers, "network.biases"},
        "no_overlap": geometry,
        "half": {"network.towers", "network.kernels"},
        "one_tower": {"network.towers"},
        "no_communication": {layers, "network.kernels", "network.units"},
        "without_conv1": longer | {"optimizer.layer_drops"},
        **{f"without_conv{i}": longer for i in (2, 3, 4, 5)},
        "no_colour_noise": {"augment.colour_noise"},
        "no_crops": {"augment.offsets", "augment.crop_chunk", "augment.reflect"},
        "crop_227": {"augment.crop", "augment.offsets"},
        "sixth_convolution": longer,
        "pretrained_2009": longer | start,
        "pretrained_2011": longer | start,
        "fine_tuned": longer | start | {"augment.colour_noise_until_epoch"},
    }
    assert changed == expected


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


def test_what_is_removed_leaves_the_sizes_of_the_maps():
    sides = {
        name: [s.output[0] for s in stages(full_size(name), 224) if len(s.output) == 3]
        for name in COUNTS
    }
    assert sides["whole"][-1] == sides["without_conv2"][-1] == 6
    assert sides["without_conv2"][:5] == [55, 55, 27, 27, 13]
    assert sides["without_conv1"][0] == 57
    assert sides["without_conv1"][-1] == 7
    crop = stages(full_size("crop_227"), 227)
    assert crop[0].output == (55, 55, 96)
    # Config 150: each tower's fc6 reads its own 4,608 maps and fc7 its own 4,096 units.
    alone = {s.name: s for s in stages(full_size("no_communication"), 224)}
    assert alone["fc6"].kernel == (4608, 8192)
    assert alone["fc7"].kernel == (4096, 4096)
    assert (alone["conv3"].groups, alone["fc8"].groups) == (2, 1)


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
        ({"network.layers": ("conv1", "dropout", "conv2", "fc6")}, ["'dropout' must"]),
        ({"network.layers": ("conv1", "conv1", "fc6")}, ["'conv1' stands there twice"]),
        ({"network.layers": ("conv1", "relu", "batch_normalise", "fc6")}, ["directly"]),
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


@pytest.mark.parametrize("batch", list(map(str, large_batch.BATCHES)))
def test_large_batches_have_rates_by_layer_and_either_normalisation(batch):
    plain, normalised = (large_batch.get_config(batch + kind) for kind in ("", ",bn"))
    for config in (plain, normalised):
        experiment.check(config)
        assert config.batch_size == int(batch)
        assert config.optimizer.rate == pytest.approx(10 * (int(batch) / 4096) ** 0.5)
        network = experiment.make_network(config, 1000)
        assert config.optimizer.trust == 0.001
        hidden = network.weighted[:-1] if config is normalised else ()
        assert network.batch_normalised == hidden
    assert "normalise" not in normalised.network.layers
    assert plain.network.layers == code_of_2012().network.layers


@pytest.mark.parametrize("words", ["", ",bn", ",momentum", ",bn,momentum"])
def test_large_batches_of_cifar10_differ_in_the_batch_and_its_rates(words):
    configs = [large_batch.get_config(f"{n},cifar10{words}") for n in (16, 256, 1024)]
    rates = [config.optimizer.rate for config in configs]
    plain = "momentum" in words
    expected = (0.00125, 0.02, 0.08) if plain else (1.25, 5, 10)
    assert rates == pytest.approx(expected)
    for config in configs:
        experiment.check(config)
        optimizer = config.optimizer
        assert optimizer.trust == (0 if plain else 0.001)
        assert optimizer.bias_rate_multiple == (1 if plain else 0.001)
        assert ("batch_normalise" in config.network.layers) == ("bn" in words)
        assert config.network.batch_group == (16 if "bn" in words else 128)
        config.batch_size, config.optimizer.rate = 16, rates[0]
        assert config == configs[0]


def test_the_footnotes_networks_differ_in_normalisation_alone():
    whole, plain = map(cifar10.get_config, ("short_norm11", "short_no_norm11"))
    assert whole.epochs == 30
    assert whole.network.layers.count("normalise") == 2
    without = tuple(s for s in whole.network.layers if s != "normalise")
    assert plain.network.layers == without
    plain.network.layers = whole.network.layers
    assert plain == whole


@pytest.mark.parametrize("batch", ["96", "512", "4096,cifar10", "4096,sgd", "x", ""])
def test_large_batches_that_are_not_there_are_refused(batch):
    small = "cifar10" in batch
    allowed = "16, 256, 1024" if small else "4096, 8192, 16384, 32768"
    with pytest.raises(ValueError, match=f"batch '{batch}': allowed are {allowed}, "):
        large_batch.get_config(batch)
