"""What `benchmark step` counts, times and says."""

import json
import math
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from apps import refusal
from compare import relative_difference
from runs import tiny_config

from alexnet_jax.benchmark import clock, limits, operations, step, torch_peer, work
from alexnet_jax.benchmark.torch_peer import MODES
from alexnet_jax.experiment import make_mesh
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.program import make_program

# Facts 10.1: multiply-adds of each layer for one image, forward.
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


def test_work_is_that_of_the_facts():
    layers = work.layers_of(AlexNet(), 3, 224)
    assert {x.name: x.flop / 6 for x in layers} == MULTIPLY_ADDS
    assert work.inference_flop(layers) == 3 * 2 * 724_406_816
    assert work.training_flop(layers) == 3 * 4_135_610_496  # 4.136 GFLOP an image


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that stands still but for what is added to its one number."""
    now = [0.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])
    return now


def test_runs_take_turns_and_short_ones_are_repeated(seconds):
    calls = []

    def run(name: str, took: float):
        def again(times: int) -> None:
            calls.append((name, times))
            # Slower from round to round.
            seconds[0] += times * took * (1 + 0.1 * len(calls))

        return again

    found = clock.in_turn({"long": run("long", 2.0), "short": run("short", 0.01)}, 3)

    assert calls[:2] == [("long", 1), ("short", 1)]
    repeats = calls[5][1]
    assert 5 <= repeats <= 10, "a tenth of a second of it"
    # The first run of a turn finds things cold, and is not counted.
    turns = [("long", 1), ("long", 1), ("short", 1), ("short", repeats)]
    assert calls[2:] == turns * 3
    np.testing.assert_allclose(found["long"].seconds, [2.8, 3.6, 4.4])
    np.testing.assert_allclose(found["short"].seconds, [0.016, 0.02, 0.024])
    assert found["long"].median == pytest.approx(3.6)
    assert found["long"].least == pytest.approx(2.8)
    assert found["long"].spread == pytest.approx(1.6 / 3.6)


def test_limits_are_those_of_the_quickest_round(monkeypatch):
    monkeypatch.setattr(limits, "product_side", lambda: 1000)
    times = [clock.Times((0.5, 0.25, 1.0)), clock.Times((2.0, 0.125))]
    found = limits.read(dict(zip(limits.RUNS, times, strict=True)))
    assert found.flops == 2e9 / 0.25
    assert found.bytes == 2 * 2**28 / 0.125
    assert found.seconds(flop=8e9, bytes=1) == 1.0
    assert found.seconds(flop=1, bytes=2**34) == 4.0


@pytest.mark.parametrize(("shape", "devices"), [((1, 1), 1), ((2, 2), 4), ((4, 2), 8)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_devices_made_of_one_processor_count_once(backend, shape, devices, monkeypatch):
    half_a_second = {"": clock.Times((0.75, 0.5, 0.625))}
    monkeypatch.setattr(clock, "in_turn", lambda runs, rounds: half_a_second)
    monkeypatch.setattr(limits, "product_side", lambda: 1536)
    mesh = make_mesh(tiny_config({"mesh.data": shape[0], "mesh.tower": shape[1]}))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = limits.product_flops(mesh, jnp.float32)
    assert found == 2 * 1536**3 / 0.5 * (devices if backend == "gpu" else 1)


@pytest.fixture(scope="module")
def parts() -> dict[str, operations.Operation]:
    config = tiny_config({"batch_size": 2, "network.spatial_alpha": 4e-5})
    program = make_program(config, 10, make_mesh(config))
    return {part.name: part for part in operations.operations_of(config, program)}


def test_operations_hold_all_the_work_of_a_step(parts):
    config = tiny_config()
    network = make_program(config, 10, make_mesh(config)).network
    layers = work.layers_of(network, 2, config.augment.crop)
    assert sum(part.flop for part in parts.values()) == work.training_flop(layers)
    assert "conv1 gradient of input" not in parts
    # 2 × 15×15×8 maps of float32, read once and written once.
    assert parts["conv1 normalisation forward"].bytes == 2 * 2 * 15 * 15 * 8 * 4
    within_maps = parts["conv2 spatial normalisation backward"]
    assert within_maps.bytes == 3 * 4 * math.prod(layers[1].output)
    weights = 4 * 5_482  # as many gradients; weights and velocities are also written
    rates = 4 * 16
    assert parts["update"].bytes == 5 * weights + rates


@pytest.mark.parametrize("layer", ["conv1", "conv4", "fc7"])
def test_operations_of_a_layer_are_its_value_and_gradients(parts, layer):
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


@pytest.fixture
def hasty(monkeypatch):
    """Figures that mean nothing, soon."""
    monkeypatch.setattr(step, "READING", 0)
    monkeypatch.setattr(operations, "READING", 0)
    monkeypatch.setattr(step, "ROUNDS", 2)
    monkeypatch.setattr(operations, "ROUNDS", 1)
    monkeypatch.setattr(limits, "COPIED_BYTES", 1 << 20)
    monkeypatch.setattr(limits, "product_side", lambda: 64)
    modes = {m: MODES[m] for m in ("eager", "channels_last")}
    monkeypatch.setattr(torch_peer, "MODES", modes)  # others: a minute of a compiler
    # One thread: those of a tiny network wait for each other on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("hasty")
def test_step_tells_speeds_limits_and_shares(capsys):
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

    said = capsys.readouterr().out
    assert f"{result['train_images_per_second']:,.1f} images/s" in said
    for part in result["layers"]:
        assert f"\n{part['name']} " in said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "say what to measure: step, input, collectives"),
        (["stop"], "benchmark='stop': allowed are step, input, collectives; did you"),
        (["step", "more"], "'more': not a flag; see --help"),
        (["step", "--config.mesh.data=2"], "mesh.data=2: benchmark step measures one"),
        (
            ["step", "--config.mesh.tower=2"],
            "mesh.tower=2: benchmark step measures one",
        ),
        (["step", "--config.batch_size=0"], "batch_size=0: must be a whole number, 1"),
        (["step", "--config.precision=half"], "allowed are float32, bfloat16"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, line):
    assert line in refusal("benchmark", *arguments)


def test_without_pytorch_there_is_no_peer_and_a_line_says_how_to_get_it(
    monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch", None)
    nothing = np.zeros(1)
    assert torch_peer.start(AlexNet(), {}, nothing, nothing, "cpu", MODES) == {}
    assert torch_peer.speeds({}, 128) is None
    assert "pip install 'alexnet_jax[peers]'" in capsys.readouterr().out


def test_a_mode_that_fails_is_said_in_a_line_and_the_others_go_on(monkeypatch, capsys):
    def peer(network, params, pixels, labels, mode, device):
        if mode.compiled:
            raise RuntimeError("no C++ compiler\nand much more")
        return SimpleNamespace(train=mode, answer=mode)

    monkeypatch.setattr(torch_peer, "Peer", peer)
    nothing = np.zeros(1)
    runs = torch_peer.start(AlexNet(), {}, nothing, nothing, "cpu", MODES)
    assert list(runs) == [
        *["train eager", "answer eager"],
        *["train channels_last", "answer channels_last"],
    ]
    assert capsys.readouterr().out == (
        "PyTorch, compile: RuntimeError: no C++ compiler\n"
        "PyTorch, compile_channels_last: RuntimeError: no C++ compiler\n"
    )
