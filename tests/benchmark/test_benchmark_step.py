"""The figures of `benchmark step`."""

import json

import jax
import pytest
from apps import refusal
from runs import tiny_config
from small_variants import variant_config

from alexnet_jax.benchmark import operations, step, torch_peer
from alexnet_jax.benchmark.torch_peer import MODES
from alexnet_jax.experiment import make_mesh, make_program


@pytest.fixture
def hasty(monkeypatch):
    """Figures without meaning, within seconds."""
    monkeypatch.setattr(step, "READING", 0)
    monkeypatch.setattr(operations, "READING", 0)
    monkeypatch.setattr(step, "ROUNDS", 2)
    monkeypatch.setattr(operations, "ROUNDS", 1)
    monkeypatch.setattr(operations, "COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(operations, "product_side", lambda: 64)
    modes = {m: MODES[m] for m in ("eager", "channels_last")}
    monkeypatch.setattr(torch_peer, "MODES", modes)  # others: a minute of a compiler
    # One thread: those of a tiny network wait for each other on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("hasty")
def test_step_prints_speeds_limits_and_shares(capsys):
    config = tiny_config({"batch_size": 4, "mesh.data": -1})
    result = json.loads(json.dumps(step.measure(config)))

    flop_rate = result["train_images_per_second"] * result["train_gflop_per_image"]
    assert result["roofline_share"] == pytest.approx(
        flop_rate / result["matmul_gflops"]
    )
    assert result["batch_size"] == 4
    assert result["inference_images_per_second"] > 0
    assert result["compile_seconds"] > 0
    params = make_program(config, 1000, make_mesh(config)).state.params
    weights_and_velocities = 2 * 4 * sum(x.size for x in jax.tree.leaves(params))
    assert result["peak_memory_bytes"] > weights_and_velocities
    peer = result["peer"]
    assert set(peer["modes"]) == {"eager", "channels_last"}
    best = max(m["train_images_per_second"] for m in peer["modes"].values())
    assert peer["train_images_per_second"] == best
    assert len(result["layers"]) == 37

    printed = capsys.readouterr().out
    assert f"{result['train_images_per_second']:,.1f} images/s" in printed
    for part in result["layers"]:
        assert f"\n{part['name']} " in printed
    assert list(result) == [
        *["train_images_per_second", "inference_images_per_second", "batch_size"],
        *["precision", "device", "jax", "train_milliseconds", "train_gflop_per_image"],
        *["matmul_gflops", "copy_gigabytes_per_second", "roofline_share"],
        *["inference_roofline_share", "roofline_share_with_memory", "compile_seconds"],
        *["peak_memory_bytes", "peer", "layers"],
    ]
    answered = result["inference_images_per_second"] * result["train_gflop_per_image"]
    ratio = result["inference_roofline_share"] * result["matmul_gflops"] / answered
    assert 1 / 3 < ratio < 1 / 2  # forward alone: a third, and conv1's missing gradient


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("name", "changes"),
    [("sixth_convolution", {}), ("one_tower", {"precision": "bfloat16"})],
)
def test_step_measures_variants(name, changes, monkeypatch):
    monkeypatch.setattr(torch_peer, "MODES", {"eager": MODES["eager"]})
    result = step.measure(variant_config(name, batch_size=4, **changes))
    assert result["peer"]["train_images_per_second"] > 0
    assert result["train_images_per_second"] > 0
    assert ("conv6 forward" in str(result["layers"])) == (name == "sixth_convolution")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "name a measurement: step, input, predict, collectives"),
        (
            ["stop"],
            "benchmark='stop': allowed are step, input, predict, collectives; did you",
        ),
        (["input", "--seconds=nan"], "--seconds=nan: must be a number"),
        (["input", "--seconds=inf"], "seconds=inf: inf is not a number in the range"),
        (["input", "--seconds=-1"], "seconds=-1: -1.0 is not a number in the range"),
        (
            ["step", "--config.network.units=1000000000,4096"],
            "network: fc6 has 9,216,000,000,000 weights; training needs more than 1",
        ),
        (
            [
                *("predict", "--config.network.units=1000000000,4096"),
                *("--config.dataset.source=generated", "--config.dataset.train=100"),
            ],
            "network: fc6 has 9,216,000,000,000 weights; the network needs more than ",
        ),
        (["step", "more"], "'more': not a flag; see --help"),
        (["step", "--config.mesh.data=2"], "mesh.data=2: benchmark step measures one"),
        (
            ["step", "--config.mesh.tower=2"],
            "mesh.tower=2: benchmark step measures one",
        ),
        (["step", "--config.batch_size=0"], "batch_size=0: must be a whole number, 1"),
        (["step", "--config.precision=half"], "allowed are float32, bfloat16"),
        (["step", "--config.mesh.towr=2"], "no such key; did you mean 'mesh.tower'?"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, line):
    assert line in refusal("benchmark", *arguments)
