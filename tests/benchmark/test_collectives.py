"""The compiled step has the paper's collectives and no others."""

import functools
import json

import pytest
from apps import refusal, run_app
from runs import tiny_config
from small_variants import VARIANTS, variant_config

from alexnet_jax import experiment
from alexnet_jax.benchmark.collectives import table, totals
from alexnet_jax.benchmark.instructions import Instructions
from alexnet_jax.benchmark.program_text import read_program
from configs import paper

BATCH = 32
HALVES = {  # numbers of a tower, for an image, that the other tower reads
    "conv3": 13 * 13 * 128,
    "fc6": 6 * 6 * 128,
    "fc7": 2048,
}
# Numbers that a tower's gradient has. fc8's biases, and what is logged, are on both.
CONVOLUTIONS = (
    11 * 11 * 3 * 48
    + 5 * 5 * 48 * 128
    + 3 * 3 * 256 * 192
    + 3 * 3 * 192 * (192 + 128)
    + (48 + 128 + 192 + 192 + 128)
)
FULLY_CONNECTED = 9216 * 2048 + 4096 * 2048 + 2048 * 1000 + 2 * 2048
FC8_BIASES, LOGGED = 1000, 4


@functools.cache
def exchanges(data: int, tower: int, fc: int = 1, accumulation: int = 1, tiny=False):
    """Of a training step of paper.py, in its full size unless asked otherwise."""
    config = tiny_config() if tiny else paper.get_config()
    config.batch_size = BATCH
    config.mesh.update({"data": data, "tower": tower, "fc": fc})
    config.accumulation = accumulation
    mesh = experiment.make_mesh(config)
    return found_in(experiment.make_program(config, 1000, mesh), mesh)


def found_in(step, mesh):
    program = Instructions(step.compile().as_text())
    return list(read_program(program, mesh.shape))


def along(found, direction: str, axes: str) -> list[tuple[str, str, int]]:
    """(kind, what it carries, bytes) of the exchanges along some axes."""
    return [
        (c.kind, c.carries, c.bytes)
        for c in found
        if (c.direction, c.axes) == (direction, axes)
    ]


def test_towers_communicate_at_the_four_places_of_figure_2_and_nowhere_else():
    found = exchanges(1, 2)
    # conv3, fc6 and fc7 read both towers; fc8 adds what each tower contributes.
    gathered = [("all-gather", k, 4 * n * BATCH) for k, n in HALVES.items()]
    added = ("all-reduce", "fc8", 4 * 1000 * BATCH)
    assert along(found, "forward", "tower") == [*gathered, added]
    returned = [("reduce-scatter", k, 4 * n * BATCH) for k, n in HALVES.items()]
    assert sorted(along(found, "backward", "tower")) == sorted(returned)
    assert len(found) == 7


def test_replicas_communicate_once_to_add_their_gradients():
    found = exchanges(2, 1, tiny=True)
    assert along(found, "forward", "tower") == along(found, "backward", "tower") == []
    assert [(c.kind, c.axes) for c in found if c.carries == "gradients"] == [
        ("all-reduce", "data")
    ]
    # The others are the loss and errors to log, and the images they are divided by.
    assert all(c.bytes <= 32 for c in found if c.carries != "gradients")


def test_towers_communicate_within_a_replica_and_replicas_within_a_tower():
    found = exchanges(2, 2)
    share = BATCH // 2
    assert sorted(along(found, "backward", "tower")) == sorted(
        ("reduce-scatter", k, 4 * n * share) for k, n in HALVES.items()
    )
    assert len(along(found, "forward", "tower")) == 4
    (gradients,) = [c for c in found if c.carries == "gradients"]
    numbers = CONVOLUTIONS + FULLY_CONNECTED + FC8_BIASES + LOGGED
    assert (gradients.axes, gradients.bytes) == ("data", 4 * numbers)
    assert {c.axes for c in found} == {"data", "tower"}


def test_shared_fully_connected_layers_reduce_only_the_convolutions():
    found = exchanges(2, 2, fc=2)
    gradients = {c.axes: c.bytes for c in found if c.carries == "gradients"}
    # Over both replicas of the convolutions; fc6 to fc8 exist once.
    assert gradients == {"fc": 4 * (CONVOLUTIONS + FC8_BIASES + LOGGED)}
    # Every replica receives the others' images before fc6, and their units after.
    of_others = 4 * BATCH // 2
    images = ("all-gather", "fc6", 6 * 6 * 256 * of_others)
    logits = ("reduce-scatter", "fc8", 1000 * of_others)
    assert along(found, "forward", "fc")[-2:] == [images, logits]
    assert along(found, "forward", "fc+tower") == [
        ("all-gather", "fc7", 3 * 1024 * 2 * of_others)
    ]


def test_micro_batches_are_added_up_before_anything_is_reduced():
    whole, cut = exchanges(2, 2, tiny=True), exchanges(2, 2, accumulation=4, tiny=True)
    before, after = (
        [c for c in found if c.carries == "gradients"] for found in (whole, cut)
    )
    assert [c.times for c in before] == [c.times for c in after] == [1]
    assert 0 <= before[0].bytes - after[0].bytes <= 4 * LOGGED
    conv3 = [c for c in cut if c.carries == "conv3"]
    assert [c.times for c in conv3] == [4, 4]
    assert sum(c.bytes for c in conv3) == sum(
        c.bytes for c in whole if c.carries == "conv3"
    )


# Numbers that a tower receives for an image of `tiny_config`, forward, by layer.
TINY = {"conv3": 3 * 3 * 4, "fc6": 1 * 4, "fc7": 8, "fc8": 1000}
RECEIVED = dict.fromkeys(VARIANTS, TINY)
RECEIVED["sixth_convolution"] = TINY | {"conv6": 1 * 4}
RECEIVED["pooling_2_2"] = TINY | {"conv3": 4 * 4 * 4, "fc6": 2 * 2 * 4}
RECEIVED["one_tower"] = {}


@pytest.mark.parametrize("name", VARIANTS)
def test_collectives_follow_from_the_stages(name):
    tower = 1 if name == "one_tower" else 2
    mesh_shape = {"mesh.data": 2, "mesh.tower": tower}
    config = variant_config(name, batch_size=8, **mesh_shape)
    mesh = experiment.make_mesh(config)
    found = found_in(experiment.make_program(config, 1000, mesh), mesh)
    received = {
        carries: bytes / 4 / 4  # images, bytes of a number
        for _, carries, bytes in along(found, "forward", "tower")
    }
    assert received == RECEIVED[name]
    returned = {carries for _, carries, _ in along(found, "backward", "tower")}
    assert returned == set(received) - {"fc8"}
    (gradients,) = [c for c in found if c.carries == "gradients"]
    assert (gradients.kind, gradients.axes) == ("all-reduce", "data")


def test_one_device_does_not_communicate():
    found = exchanges(1, 1, tiny=True)
    assert found == []
    assert "--config.mesh.tower=2" in table(found)
    assert totals(found) == {"forward": {}, "backward": {}}


def test_the_app_prints_a_table_and_its_sums_for_more_devices_than_there_are():
    answer = run_app(
        *["benchmark", "collectives", "--config=configs/paper.py"],
        *["--config.mesh.data=32", "--config.mesh.tower=2", "--config.batch_size=64"],
    )
    assert answer.status == 0, answer.err
    *lines, last = answer.out.splitlines()
    result = json.loads(last)
    assert result["mesh"] == {"data": 32, "tower": 2}
    numbers = sum(HALVES.values())
    # Each tower receives the other's half of 3 layers and adds 1000 partial logits.
    assert result["tower_floats_per_image"] == 2 * (numbers + 1000)
    assert result["forward"]["all-gather"] == {
        "tower": {"count": 3, "bytes": 2 * 4 * numbers}
    }
    assert result["backward"]["reduce-scatter"]["tower"]["count"] == 3
    assert lines[0] == "mesh of 32 data×2 tower, batch of 64, 2 images a replica"
    assert any("all-gather" in line and "conv3" in line for line in lines)
    total = sum(
        cell["bytes"]
        for direction in ("forward", "backward")
        for axes in result[direction].values()
        for cell in axes.values()
    )
    assert f"{total:,}" in lines[-3]
    # At least the weights and velocities of a tower.
    assert result["memory_bytes"] > 2 * 4 * (CONVOLUTIONS + FULLY_CONNECTED)


def test_a_mistake_is_one_line():
    assert "name a measurement: step, input, predict, collectives" in refusal(
        "benchmark"
    )
    assert "did you mean 'collectives'" in refusal("benchmark", "colectives")
    assert "mesh.tower=3" in refusal(
        "benchmark", "collectives", "--config.mesh.tower=3"
    )
