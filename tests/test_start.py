"""A training that begins with another run's weights, as 1 CNN* did (§6)."""

import json
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from runs import SCRATCH, finished_run, tiny_config, weights
from small import small_batch

from alexnet_jax import experiment, parallel
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError
from alexnet_jax.schedules import EpochSchedule
from alexnet_jax.step import initial_params, parameter_shapes, state_of
from alexnet_jax.train import train
from configs import variants

FROZEN = {"steps": 1, "optimizer.rate": 0.0}  # the weights stay as they start


def run_with(classes: int, **changes):
    """A work directory whose checkpoint has so many classes."""
    folder = SCRATCH / f"start_{classes}_{len(changes)}"
    if not folder.exists():
        config = tiny_config(changes)
        network = experiment.make_network(config, classes)
        params = initial_params(network, 5, config.augment.crop)
        with closing(Checkpoints(folder / "checkpoints", keep=1)) as checkpoints:
            state = state_of(params, experiment.make_optimizer(config))
            checkpoints.save(state, {})
    return folder


def test_all_layers_but_the_fresh_ones_start_from_the_other_run(tmp_path):
    other = finished_run()
    start = {"start.checkpoint": str(other), "start.fresh": ("fc7", "fc8"), "seed": 3}
    assert train(tiny_config({**FROZEN, **start}), tmp_path / "run") is None
    begun, before = weights(tmp_path / "run"), weights(other)
    network = experiment.make_network(tiny_config(), 10)
    random = flatten_dict(initial_params(network, 3, 64), sep=".")
    for name, own in begun.items():
        same, differs = (
            (random, before) if name[:3] in ("fc7", "fc8") else (before, random)
        )
        np.testing.assert_allclose(own, same[name], rtol=1e-5, err_msg=name)
        if name.endswith("kernel"):
            assert np.abs(own - differs[name]).max() > 0.001, name


def test_it_goes_on_without_the_other_run(tmp_path):
    folder = run_with(12)
    config = tiny_config({
        "steps": 8, "start.checkpoint": str(folder), "start.fresh": ("fc8",)
    })  # fmt: skip
    assert train(config, tmp_path) is None
    (folder / "checkpoints").rename(folder / "moved")
    try:
        config.steps = 12
        assert train(config, tmp_path) is None
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 12
    finally:
        (folder / "moved").rename(folder / "checkpoints")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (
            {"start.fresh": ("fc8",), "network.kernels": (8, 8, 16, 8, 8)},
            ["conv3.kernel is (3, 3, 8, 8) there and (3, 3, 8, 16) here",
             "conv3.bias is (8,) there and (16,) here",
             "conv4.kernel is (3, 3, 4, 8) there and (3, 3, 8, 8) here",
             "; name these layers in start.fresh"],
        ),
        ({}, ["fc8.kernel is (16, 12) there and (16, 10) here", "name these layers"]),
        ({"start.fresh": ("fc9",)}, ["start.fresh='fc9'", "allowed are conv1"]),
        (
            {"start.checkpoint": "", "start.fresh": ("fc8",)},
            ["start.fresh=('fc8',): ", "set start.checkpoint"],
        ),
        (
            {"start.checkpoint": "nowhere"},
            ["nowhere/checkpoints: no such folder"],
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_in_one_line(start, words, tmp_path):
    given = {"start.checkpoint": str(run_with(12)), **FROZEN, **start}
    with pytest.raises(InputError) as refused:
        train(tiny_config(given), tmp_path)
    message = str(refused.value)
    assert "\n" not in message
    assert "conv5.kernel" not in message
    for word in words:
        assert word in message


def test_a_damaged_checkpoint_to_start_from_is_named(tmp_path):
    shutil.copytree(run_with(12), tmp_path / "other")
    (newest,) = (tmp_path / "other" / "checkpoints").iterdir()
    (newest / "params" / "_METADATA").write_bytes(b"{")
    start = {"start.checkpoint": str(tmp_path / "other"), "start.fresh": ("fc8",)}
    with pytest.raises(InputError, match=r"checkpoints/0: a damaged checkpoint \("):
        train(tiny_config({**FROZEN, **start}), tmp_path / "run")


def test_the_rates_of_1_cnn_are_those_of_its_log():
    # docs/sources.md, 'Pre-training'.
    def rates(name: str, epoch: float) -> dict[str, float]:
        config = variants.get_config(name)
        schedule = experiment.make_schedule(config)
        assert isinstance(schedule, EpochSchedule)
        layers = experiment.make_network(config, 10).weighted
        found = schedule.rates(epoch, layers)
        biases = {layer: own["bias"] for layer, own in found.items()}
        slow = name.startswith("pretrained") and {"conv6": 0.002}
        frozen = name == "fine_tuned" and epoch >= 7 and {"conv1": 0.0}
        assert biases == dict.fromkeys(layers, 0.02) | (slow or {}) | (frozen or {})
        return {layer: own["kernel"] for layer, own in found.items()}

    early = rates("pretrained_2009", 1.17)
    fresh = {"conv6", "fc6", "fc7", "fc8"}
    assert early == {k: 1e-2 if k in fresh else 1e-3 for k in early}
    # Epoch 2, batch 1,600 of 8,800, counted from 1.
    assert set(rates("pretrained_2009", 1 + 1600 / 8800).values()) == {1e-3}
    early = rates("pretrained_2011", 5.9)
    fresh = {"fc6", "fc7", "fc8"}
    assert early == {k: 1e-2 if k in fresh else 1e-3 for k in early}
    assert set(rates("pretrained_2011", 6.1).values()) == {1e-3}
    # Batch 300 of 1,251 is after 0.24 epochs.
    tuned = [rates("fine_tuned", epoch) for epoch in (0, 0.24, 6, 8, 10, 23, 43)]
    assert [own["conv1"] for own in tuned] == [1e-4, 1e-4, 1e-5, 0, 0, 0, 0]
    assert [own["fc7"] for own in tuned] == [*[1e-3] * 5, 1e-4, 1e-5]
    assert [own["fc8"] for own in tuned] == [1e-3, 1e-2, 1e-2, 1e-2, 1e-3, 1e-4, 1e-5]


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("pretrained_2009", 10_184, 61_555_304 + 4_097 * 9_184),
        ("pretrained_2011", 21_843, 61_555_304 + 4_097 * 20_843),
    ],
)
def test_many_classes(name, classes, parameters):
    config = variants.get_config(name)
    shapes = parameter_shapes(experiment.make_network(config, classes), 224)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters

    config.update_from_flattened_dict({
        "batch_size": 4, "mesh.data": 1, "dataset.image_size": 72,
        "augment.crop": 64, "augment.offsets": 9,
        "network.kernels": (8,) * 6, "network.units": (16, 16),
    })  # fmt: skip
    mesh = experiment.make_mesh(config)
    program = experiment.make_program(config, classes, mesh)
    rates = jax.tree.map(lambda _: np.float32(0.001), program.state.params)
    mean = parallel.replicate(mesh, np.full((72, 72, 3), 120, np.float32))
    batch = small_batch(4)
    batch["label"] = np.array([0, 5, 10_183, classes - 1], np.int32)
    _, loss = program.train_step(program.initialise(), batch, mean, rates)
    assert abs(float(loss) - np.log(classes)) < 0.1
