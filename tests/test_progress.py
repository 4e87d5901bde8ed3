"""Means and speed in the lines of metrics.jsonl, by a clock that stands still."""

import json

import jax.numpy as jnp
import pytest

from alexnet_jax import progress as progress_module
from alexnet_jax.metrics import MetricsFile, Sums
from alexnet_jax.progress import Clock, Progress, Speed


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that stands still but for what is added to its one number."""
    now = [0.0]
    monkeypatch.setattr(progress_module, "perf_counter", lambda: now[0])
    return now


def line(step: int, steps: int, loss: float, top1: float = 0.5, **norms) -> dict:
    images = 16 * steps
    sums = Sums(*(jnp.float32(x * images) for x in (1, loss, top1, 0)))
    head = {"step": step, "epoch": 0.5, "train": sums, "train/learning_rate": 0.01}
    return {**head, "norms": norms}


@pytest.mark.parametrize("peak", [160.0, None])
def test_lines_hold_means_and_speed_from_the_second_on(peak, seconds, tmp_path):
    clock = Clock()
    metrics = MetricsFile(tmp_path / "metrics.jsonl", 0)
    progress = Progress([metrics], clock, batch_size=16, peak_images_per_second=peak)
    assert progress.flush(waited=0.0) is None
    seconds[0] += 100
    progress.hold(line(20, 20, 2.5))
    assert progress.flush(waited=50.0)["step"] == 20
    assert progress.flush(waited=50.0) is None
    seconds[0] += 8
    with clock.validating():
        seconds[0] += 3
    assert clock.last_validation == 3
    validation = {"validation/loss": 2.25, "validation/top1_error": 0.375}
    norms = {"norm/fc8/bias": jnp.float32(0.75)}
    progress.hold({**line(40, 20, 2.0, 0.25), "norms": norms, **validation})
    progress.flush(waited=51.0)
    progress.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first == {
        "step": 20, "epoch": 0.5, "train/learning_rate": 0.01,
        "train/loss": 2.5, "train/top1_error": 0.5,
    }  # fmt: skip
    mfu = {"train/mfu": 40 / 160} if peak else {}
    assert second == {
        "step": 40, "epoch": 0.5, "train/learning_rate": 0.01, **validation,
        "train/loss": 2.0, "train/top1_error": 0.25,
        "train/images_per_second": 16 * 20 / 8, "train/data_wait": 1 / 8,
        "norm/fc8/bias": 0.75, **mfu,
    }  # fmt: skip


def test_several_loggers_take_the_same_lines(seconds):
    class Logger:
        def __init__(self):
            self.lines, self.closed = [], False

        def write(self, line):
            self.lines.append(line)

        def close(self):
            self.closed = True

    loggers = Logger(), Logger()
    progress = Progress(loggers, Clock(), 16, None)
    progress.hold(line(5, 5, 1.0))
    progress.flush(0.0)
    progress.close()
    assert loggers[0].lines == loggers[1].lines
    assert [line["step"] for line in loggers[0].lines] == [5]
    assert all(logger.closed for logger in loggers)


def test_a_wait_is_a_share_whatever_the_clocks_say(seconds):
    speed = Speed(Clock())
    assert speed.read(3, waited=1.0) is None
    seconds[0] += 4
    assert speed.read(11, waited=1e9) == (2.0, 1.0)
    assert speed.read(11, waited=1e9) == (0.0, 0.0)  # no time has passed
