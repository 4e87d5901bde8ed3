import json
import math

import jax.numpy as jnp
import pytest
from runs import tiny_config
from small import small_network, small_params

from alexnet_jax import progress as progress_module
from alexnet_jax.metrics import MetricsFile, Sums
from alexnet_jax.progress import Progress, duration, parameter_table


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that stands still but for what is added to its one number."""
    now = [0.0]
    monkeypatch.setattr(progress_module, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def progress(tmp_path, seconds):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    progress = Progress(
        metrics,
        tiny_config(),
        images=100,
        classes=10,
        total=2000,
        peak_images_per_second=160.0,
    )
    yield progress
    progress.close()


def line(step: int, steps: int, loss: float, top1: float = 0.5) -> dict:
    images = 16 * steps
    sums = Sums(*(jnp.float32(x * images) for x in (1, loss, top1, 0)))
    return {"step": step, "epoch": 0.5, "train": sums, "train/learning_rate": 0.01}


def test_lines_hold_means_and_speed_from_the_second_on(
    progress, seconds, tmp_path, capsys
):
    seconds[0] += 100
    progress.write(line(20, 20, 2.5), waited=50.0)
    seconds[0] += 8
    with progress.validating():
        seconds[0] += 3
    progress.write(
        line(40, 20, 2.0, 0.25)
        | {
            "validation/loss": 2.25,
            "validation/top1_error": 0.375,
            "validation/top5_error": 0.125,
        },
        waited=51.0,
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first == {
        "step": 20, "epoch": 0.5, "train/learning_rate": 0.01,
        "train/loss": 2.5, "train/top1_error": 0.5,
    }  # fmt: skip
    assert second["train/loss"] == 2.0
    assert second["train/images_per_second"] == 16 * 20 / 8
    assert second["train/data_wait"] == 1 / 8
    assert second["train/mfu"] == 40 / 160
    printed = capsys.readouterr().out
    assert "step 40/2,000  loss 2.0000  top-1 error  25.0%  rate 1e-02" in printed
    assert "  40 images/s  MFU 25%  waiting for data 12%: data are slower" in printed
    # 1,960 steps of 16 images at 40 a second, and 313.6 validations of 3 seconds.
    assert "  28 min 45 s left\n" in printed
    assert printed.endswith(
        "validation: loss 2.2500  top-1 error 37.50%  top-5 error 12.50%\n"
    )


@pytest.mark.parametrize(
    ("waited", "words"),
    [
        (0.0, "0%: devices are slower"),
        (0.15, "2%: devices are slower"),
        (0.16, "2%: data are slower"),
        (1e9, "100%: data are slower"),  # a share, whatever the clocks say
    ],
)
def test_a_line_names_the_slower_of_data_and_devices(
    progress, seconds, capsys, waited, words
):
    progress.write(line(20, 20, 2.5), waited=0.0)
    seconds[0] += 8
    progress.write(line(40, 20, 2.5), waited)
    assert f"  waiting for data {words}  " in capsys.readouterr().out


def test_a_loss_at_ln_classes_is_explained_after_500_steps_and_then_1000(
    progress, capsys
):
    said = []
    for step in range(100, 1900, 100):
        loss = math.log(10) * (1.01 if step != 700 else 0.9)  # once it seemed to move
        progress.write(line(step, 100, loss), waited=0.0)
        if "ln(classes) = 2.30" in capsys.readouterr().out:
            said.append(step)
    assert said == [500, 1700]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (260, "4 min 20 s"),
        (3600 + 5 * 60 + 29, "1 h 05 min"), (3 * 86400 - 1, "2 d 23 h"),
    ],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_the_table_ends_with_the_sum():
    network = small_network()
    params = small_params(network)
    rows = parameter_table(params, network.weighted).splitlines()
    assert rows[1].split() == ["conv1", "11×11×3×8", "2,904", "8"]
    total = sum(p.size for layer in params.values() for p in layer.values())
    assert rows[-1] == f"{total:,} parameters"
    assert len(rows) == 10
