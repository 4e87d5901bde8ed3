import importlib
from pathlib import Path

import pytest
from runs import tiny_config

from alexnet_jax import experiment
from alexnet_jax.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("file", [f.stem for f in CONFIGS if f.stem != "base"])
def test_the_configs_are_accepted(file):
    experiment.check(importlib.import_module(f"configs.{file}").get_config())


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("precision", "float16", "allowed are float32, bfloat16, float64; did you"),
        ("optimizer.schedule", "epoch", "did you mean 'epochs'?"),
        ("dataset.source", "folders", "did you mean 'folder'?"),
        ("augment.mean_at", "center", "did you mean 'centre'?"),
        ("network.response_range", "all", "allowed are tower, layer"),
        ("batch_size", 0, "must be a whole number, 1 or more"),
        ("seed", -1, "0 or more and below 4294967296"),
        ("seed", 2**32, "below 4294967296"),
        ("epochs", float("nan"), "0 or more"),
        ("epochs", float("inf"), "0 or more"),
        ("optimizer.rate", -0.1, "0 or more"),
        ("optimizer.momentum", 1.0, "0 or more and below 1"),
        ("optimizer.plateau_factor", 0.0, "1 or more"),
        ("network.dropout", 1.0, "below 1"),
        ("network.strides", (0, 1, 1, 1, 1), "1 or more"),
        ("network.sizes", (11, 5, 3, 3, 0), "1 or more"),
        ("network.paddings", (-1, 2, 1, 1, 1), "0 or more"),
        ("network.pool_size", 0, "1 or more"),
        ("network.layers", ("conv1", 5), "must be text"),
        ("network.response_depth", 4, "must be odd"),
        ("network.kernels", (8,) * 4, "must have 5 entries, one for each"),
        ("network.kernels", (8, 8, 8, 8, "x"), "must be a whole number"),
        ("network.kernels", (8, 9, 8, 8, 8), "9 does not divide over network.towers=2"),
        ("network.stddevs", (-1.0,) * 8, "must be a number, 0 or more"),
        ("augment.crop", 73, "larger than the images, dataset.image_size=72"),
        ("augment.crop", 30, "conv5 pool has windows of 3 pixels and gets maps of 1×1"),
        ("augment.offsets", 10, "has 9 positions in 72"),
        ("augment.colour_noise", float("nan"), "0 or more"),
        ("augment.colour_noise_until_epoch", float("nan"), "0 or more"),
        ("steps", -1, "0 or more"),
        ("mesh.data", -2, "-1 or more"),
        ("mesh.fc", 0, "1 or more"),
        ("mesh.fc", 3, "network.units=16 does not divide over mesh.tower·mesh.fc=3"),
        ("accumulation", 0, "1 or more"),
        ("optimizer.drops", ((1.0, 2.0),), "rows of (epoch, weight rate, bias rate)"),
        ("optimizer.drops", ((5.0, 0.1, 0.1), (2.0, 0.1, 0.1)), "after epoch 5"),
        ("optimizer.drops", ((1.0, -0.1, 0.1),), "must be 0 or more"),
        ("optimizer.drops", ((1.0, float("nan"), 0.1),), "must be 0 or more"),
        ("augment.crop_chunk", 10**30, "below 2147483648"),
        ("network.kernels", (1e300, 8, 8, 8, 8), "must be a whole number"),
        (
            "network.units",
            (16.0, 16),
            "network.units=[16.0, 16]: must be a whole number",
        ),
        ("network.response_k", 0.0, "1e-06 or more"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_is_allowed(key, value, allowed):
    config = tiny_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as refused:
        experiment.check(config)
    assert str(refused.value).startswith(key)
    assert allowed in str(refused.value)


def test_keys_are_neither_missing_nor_unknown():
    config = tiny_config()
    config.optimiser = 0.1
    with pytest.raises(InputError, match="optimiser: no such config key"):
        experiment.check(config)
    config = tiny_config()
    del config.network.dropout
    with pytest.raises(InputError, match=r"network\.dropout: the config lacks"):
        experiment.check(config)


def test_nothing_to_do_and_unknown_layers_are_refused():
    with pytest.raises(InputError, match=r"epochs=0.0, steps=0: nothing to do"):
        experiment.check(tiny_config({"epochs": 0.0, "steps": 0}))
    unknown = (("conv9", 1.0, 0.0, 0.0),)
    with pytest.raises(InputError, match="layer_drops='conv9': allowed are conv1"):
        experiment.check(tiny_config({"optimizer.layer_drops": unknown}))
    for rows in ((5,), (("conv1", 1.0, 0.0),)):
        with pytest.raises(InputError, match=r"layer_drops=.*: must be rows of"):
            experiment.check(tiny_config({"optimizer.layer_drops": rows}))
    wrong_order = (("conv1", 5.0, 0.1, 0.1), ("conv1", 2.0, 0.1, 0.1))
    with pytest.raises(InputError, match=r"layer_drops=.*: comes after epoch 5"):
        experiment.check(tiny_config({"optimizer.layer_drops": wrong_order}))


def test_dropout_of_maps_and_shared_layers_are_not_combined():
    layers = tuple(tiny_config().network.layers)
    at = layers.index("fc6")
    before_fc6 = (*layers[: at - 1], "inverted_dropout", *layers[at - 1 :])
    experiment.check(tiny_config({"network.layers": before_fc6}))
    with pytest.raises(InputError, match=r"mesh.fc=2: conv5 inverted_dropout is of ma"):
        experiment.check(tiny_config({"network.layers": before_fc6, "mesh.fc": 2}))


def test_an_even_window_is_refused():
    for key in ("response_depth", "spatial_size"):
        with pytest.raises(InputError, match=f"network.{key}=4: must be odd"):
            experiment.check(tiny_config({f"network.{key}": 4}))


def test_rows_of_layer_decays():
    def decays(rows):
        return tiny_config({"optimizer.layer_decays": rows})

    experiment.check(decays((("fc8", 1.0), ("conv1", 0.0))))
    for rows, words in (
        ((("fc9", 1.0),), "optimizer.layer_decays='fc9': allowed are conv1"),
        ((("fc8",),), "must be rows of \\(layer, decay\\)"),
        (({"fc8": 1},), "must be rows of \\(layer, decay\\)"),
        ((("fc8", "x"),), "must be rows of \\(layer, decay\\)"),
        ((("fc8", -1.0),), "the decay must be 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            experiment.check(decays(rows))


@pytest.mark.parametrize(
    "paddings", [(0, 2, 1, 1, -1), (0, 2, 1, 1, (1, 2, 3)), (0, 2, 1, 1, 0.5)]
)
def test_paddings_are_numbers_or_pairs(paddings):
    with pytest.raises(InputError, match=r"paddings=.*or pairs \(before, behind\)"):
        experiment.check(tiny_config({"network.paddings": paddings}))
    experiment.check(tiny_config({"network.paddings": (0, 2, (1, 2), 1, 1)}))


def test_the_plateau_rule_needs_validations():
    plateau = {"optimizer.schedule": "plateau", "validate_every_epochs": 0.0}
    with pytest.raises(InputError, match=r"validate_every_epochs=0.0: the plateau"):
        experiment.check(tiny_config(plateau))
    experiment.check(tiny_config({**plateau, "validate_every_epochs": 0.5}))
    experiment.check(tiny_config({**plateau, "optimizer.schedule": "epochs"}))


def test_the_plateaus_chance_is_that_of_classes_and_validation_images():
    config = tiny_config({"optimizer.schedule": "plateau"})
    schedule = experiment.make_schedule(config, classes=10, validation_images=900)
    assert schedule.chance == pytest.approx(0.9 - 3 * 0.01)
    # Of a thousand classes, on ImageNet's 50,000 images.
    schedule = experiment.make_schedule(config, 1000, 50_000)
    assert schedule.chance == pytest.approx(0.999 - 3 * 1.413506e-4, abs=1e-9)


def test_steps_are_given_or_follow_from_epochs():
    assert experiment.total_steps(tiny_config(), 100) == 24
    assert experiment.total_steps(tiny_config({"steps": 0, "epochs": 2.5}), 100) == 16


def test_drops_behind_the_end_of_a_run_are_named_and_scaled():
    drops = ((6.0, 1e-3, 2e-3), (8.0, 1e-4, 2e-3))
    config = tiny_config({"steps": 0, "epochs": 9.0, "optimizer.drops": drops})
    assert experiment.late_drops(config, 100) == ""
    config.epochs = 8.0
    assert experiment.late_drops(config, 100) == (
        "learning rate: falls 1 of 2 times; the run ends at epoch 8, optimizer.drops "
        "has 8. To scale them:\n"
        "  --config.optimizer.drops='((5.4, 0.001, 0.002), (7.2, 0.0001, 0.002))'"
    )
    config.steps = 25  # of 16 of 100 images: 4 epochs
    assert experiment.late_drops(config, 100) == (
        "learning rate: falls 0 of 2 times; the run ends at epoch 4, optimizer.drops "
        "has 6, 8. To scale them:\n"
        "  --config.optimizer.drops='((2.7, 0.001, 0.002), (3.6, 0.0001, 0.002))'"
    )
    config.optimizer.layer_drops = (("fc8", 0.0, 0.1, 0.2), ("fc8", 2.0, 0.01, 0.02))
    assert experiment.late_drops(config, 100).endswith(
        "\n  --config.optimizer.layer_drops='"
        "(('fc8', 0.0, 0.1, 0.2), ('fc8', 0.9, 0.01, 0.02))'"
    )
    config.optimizer.drops = ((2.7, 0.001, 0.002), (3.6, 0.0001, 0.002))
    assert experiment.late_drops(config, 100) == ""
    config.optimizer.drops = drops
    config.optimizer.schedule = "plateau"
    assert experiment.late_drops(config, 100) == (
        "learning rate: falls at plateaus; optimizer.drops and layer_drops are for "
        "optimizer.schedule='epochs', and not used"
    )
    config.optimizer.schedule = "polynomial"
    line = experiment.late_drops(config, 100)
    assert line.startswith("learning rate: falls with every step; optimizer.drops and")
    config.optimizer.drops = ("rubbish",)
    with pytest.raises(InputError, match=r"optimizer.drops=rubbish: must be rows of"):
        experiment.check(config)
    config.optimizer.drops = config.optimizer.layer_drops = ()
    assert experiment.late_drops(config, 100) == ""


@pytest.mark.parametrize("file", [f.stem for f in CONFIGS if f.stem != "base"])
def test_the_configs_reach_all_of_their_drops(file):
    config = importlib.import_module(f"configs.{file}").get_config()
    assert experiment.late_drops(config, 50_000) == ""


def test_a_rate_cannot_rise_for_longer_than_the_run():
    rises = {"optimizer.schedule": "polynomial", "optimizer.warmup_epochs": 2.0}
    experiment.check(tiny_config(rises | {"epochs": 2.0}))  # of 24 steps
    experiment.check(tiny_config(rises | {"epochs": 2.1, "steps": 0}))
    with pytest.raises(InputError, match=r"warmup_epochs=2.0: must be less than ep"):
        experiment.check(tiny_config(rises | {"epochs": 2.0, "steps": 0}))


def test_statistics_are_those_of_a_run_that_is_named():
    with pytest.raises(InputError, match=r"start.statistics=True: set start"):
        experiment.check(tiny_config({"start.statistics": True}))
    start = {"start.statistics": True, "start.checkpoint": "somewhere"}
    experiment.check(tiny_config(start))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"network.units": (10**9, 16)}, "network: fc7 has 16,000,000,000 weights"),
        (
            {"network.kernels": (8,) * 4 + (10**9,)},
            "network: conv5 has 36,000,000,000 ",
        ),
        ({"batch_size": 2**30}, "dataset.image_size=72: a batch has 1,073,741,824 ima"),
        ({"network.paddings": (10**6, 2, 1, 1, 1)}, "network: conv1 gives 2,0"),
        ({"dataset.image_size": 10**6}, "dataset.image_size=1000000: a batch has 16"),
    ],
)
def test_what_no_memory_holds_is_refused_before_it_is_made(changes, line):
    config = tiny_config(changes)
    mesh = experiment.make_mesh(config)
    with pytest.raises(InputError) as refused:
        experiment.require_memory(config, 10, mesh, training=True)
    assert str(refused.value).startswith(line)
    assert "; training needs more than " in str(refused.value)
    experiment.require_memory(tiny_config(), 10, mesh, training=True)


def test_the_memory_of_the_papers_training_is_counted_from_below(monkeypatch):
    # 60,965,224 parameters (§3.5), thrice; of 128 images the pixels and, largest, the
    # 55×55×96 maps of conv1; the mean image.
    config = importlib.import_module("configs.paper").get_config()
    config.mesh.data = 1
    mesh = experiment.make_mesh(config)
    biases = 96 + 256 + 384 + 384 + 256 + 4096 + 4096 + 1000
    needed = 3 * 4 * (60_965_224 - biases) + 4 * 128 * 55 * 55 * 96
    needed += (128 + 4) * 3 * 256**2
    monkeypatch.setattr(experiment.device, "memory", lambda _: needed)
    experiment.require_memory(config, 1000, mesh, training=True)
    monkeypatch.setattr(experiment.device, "memory", lambda _: needed - 1)
    with pytest.raises(InputError, match="network: fc6 has 37,748,736 weights; train"):
        experiment.require_memory(config, 1000, mesh, training=True)
    experiment.require_memory(config, 1000, mesh)  # to predict
    config.mesh.tower = 2
    two = experiment.make_mesh(config)
    experiment.require_memory(config, 1000, two, training=True)
