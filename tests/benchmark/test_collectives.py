"""The compiled step has the paper's exchanges and no others."""

import functools
import json

from apps import refusal, run_app
from runs import tiny_config

from alexnet_jax import experiment
from alexnet_jax.benchmark.collectives import table, totals
from alexnet_jax.benchmark.program_text import read_collectives
from alexnet_jax.program import make_program
from configs import paper

BATCH = 32
HALVES = {  # numbers of a tower, for an image, that the other one reads
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
    return read_collectives(make_program(config, 1000, mesh).compile(), mesh)


def told(found, direction: str, axes: str) -> list[tuple[str, str, int]]:
    """(kind, what it carries, bytes) of the exchanges along some axes."""
    return [
        (c.kind, c.carries, c.bytes)
        for c in found
        if (c.direction, c.axes) == (direction, axes)
    ]


def test_two_towers_meet_at_the_four_places_of_figure_2_and_nowhere_else():
    found = exchanges(1, 2)
    # conv3, fc6 and fc7 read both towers; fc8 adds what each tower contributes.
    gathered = [("all-gather", k, 4 * n * BATCH) for k, n in HALVES.items()]
    added = ("all-reduce", "fc8", 4 * 1000 * BATCH)
    assert told(found, "forward", "tower") == [*gathered, added]
    returned = [("reduce-scatter", k, 4 * n * BATCH) for k, n in HALVES.items()]
    assert sorted(told(found, "backward", "tower")) == sorted(returned)
    assert len(found) == 7


def test_copies_are_silent_until_they_add_their_gradients_once():
    found = exchanges(2, 1, tiny=True)
    assert told(found, "forward", "tower") == told(found, "backward", "tower") == []
    assert [(c.kind, c.axes) for c in found if c.carries == "gradients"] == [
        ("all-reduce", "data")
    ]
    # Besides, the loss and errors to log, and the examples that it is divided by.
    assert all(c.bytes <= 32 for c in found if c.carries != "gradients")


def test_towers_talk_within_a_copy_and_copies_within_a_tower():
    found = exchanges(2, 2)
    share = BATCH // 2
    assert sorted(told(found, "backward", "tower")) == sorted(
        ("reduce-scatter", k, 4 * n * share) for k, n in HALVES.items()
    )
    assert len(told(found, "forward", "tower")) == 4
    (gradients,) = [c for c in found if c.carries == "gradients"]
    numbers = CONVOLUTIONS + FULLY_CONNECTED + FC8_BIASES + LOGGED
    assert (gradients.axes, gradients.bytes) == ("data", 4 * numbers)
    assert {c.axes for c in found} == {"data", "tower"}


def test_shared_fully_connected_layers_reduce_only_the_convolutions():
    found = exchanges(2, 2, fc=2)
    gradients = {c.axes: c.bytes for c in found if c.carries == "gradients"}
    # Over both copies of the convolutions; fc6 to fc8 exist once.
    assert gradients == {"fc": 4 * (CONVOLUTIONS + FC8_BIASES + LOGGED)}
    # Every copy hears of the others' pictures before fc6, and of their units after.
    of_others = 4 * BATCH // 2
    pictures = ("all-gather", "fc6", 6 * 6 * 256 * of_others)
    logits = ("reduce-scatter", "fc8", 1000 * of_others)
    assert told(found, "forward", "fc")[-2:] == [pictures, logits]
    assert told(found, "forward", "fc+tower") == [
        ("all-gather", "fc7", 3 * 1024 * 2 * of_others)
    ]


def test_parts_of_a_batch_are_added_up_before_anything_is_reduced():
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


def test_one_device_talks_to_nobody():
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
    # Each tower hears the other's half of 3 layers and adds 1000 partial logits.
    assert result["tower_floats_per_image"] == 2 * (numbers + 1000)
    assert result["forward"]["all-gather"] == {
        "tower": {"count": 3, "bytes": 2 * 4 * numbers}
    }
    assert result["backward"]["reduce-scatter"]["tower"]["count"] == 3
    assert lines[0] == "mesh of 32 data×2 tower, batch of 64, 2 images a copy"
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


def test_what_cannot_be_measured_is_told():
    assert "say what to measure: step, input, collectives" in refusal("benchmark")
    assert "did you mean 'collectives'" in refusal("benchmark", "colectives")
    assert "mesh.tower=3" in refusal(
        "benchmark", "collectives", "--config.mesh.tower=3"
    )
