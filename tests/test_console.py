"""What is printed of a training, and when, by a clock that stands still."""

import json
import math
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress

import pytest
from apps import ROOT
from runs import copy_of_finished_run, finished_run, tiny_config, tiny_flags
from small import small_network, small_params

from alexnet_jax import console as console_module
from alexnet_jax import progress as progress_module
from alexnet_jax.console import Console, duration, ending, parameter_table
from alexnet_jax.metrics import read_metrics
from alexnet_jax.progress import Clock
from alexnet_jax.train import train


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that stands still but for what is added to its one number."""
    now = [0.0]
    for module in (console_module, progress_module):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


class Training:
    """A console whose steps of 16 images take a number of seconds each."""

    def __init__(self, seconds, *, images: int, total: int, classes: int = 10):
        self.seconds, self.step = seconds, 0
        self.console = Console(tiny_config(), Clock(), 0, total, images, classes)

    def steps(self, count: int, each: float, loss: float = 2.0) -> None:
        for _ in range(count):
            self.seconds[0] += each
            self.step += 1
            self.console.step(self.step, loss, waited=0.0)

    def line(self, **numbers) -> None:
        keys = {key.replace("__", "/"): value for key, value in numbers.items()}
        line = {
            "step": self.step, "epoch": self.step * 16 / 100, "train/loss": 2.0,
            "train/top1_error": 0.5, "train/learning_rate": 0.01, **keys,
        }  # fmt: skip
        self.console.line(line)


def printed_steps(capsys) -> list[int]:
    lines = capsys.readouterr().out.splitlines()
    found = [re.match(r"epoch +[\d.]+  step ([\d,]+)/", line) for line in lines]
    return [int(match[1].replace(",", "")) for match in found if match]


def test_a_line_has_loss_speed_and_the_time_left(seconds, capsys):
    training = Training(seconds, images=100, total=2000)
    training.steps(1, each=30.0, loss=9.0)  # compiled
    training.steps(2, each=1.0, loss=3.0)
    assert capsys.readouterr().out == (
        "epoch   0.48  step 3/2,000  loss 5.0000  16 images/s  33 min 17 s left\n"
    )
    training.line(train__top1_error=0.875)
    with training.console.validating():
        seconds[0] += 10
    training.steps(60, each=1.0)
    # An epoch has 6.25 steps. After 2 more, 1,995 and 312 validations are left.
    left = duration(1993 + 1993 * 16 / 100 * 10)
    assert capsys.readouterr().out.splitlines()[0] == (
        "epoch   1.12  step 7/2,000  loss 2.0000  top-1 error  87.5%  16 images/s  "
        f"{left} left"
    )


def test_the_first_line_comes_within_seconds_of_the_first_step(seconds, capsys):
    training = Training(seconds, images=10**6, total=10**5)
    training.steps(1, each=100.0)  # compiled
    training.steps(1, each=1.5)
    assert printed_steps(capsys) == []
    training.steps(1, each=1.5)
    assert printed_steps(capsys) == [3]


def test_steps_of_a_minute_have_a_line_each(seconds, capsys):
    training = Training(seconds, images=10**6, total=10**5)
    training.steps(5, each=61.0)
    assert printed_steps(capsys) == [2, 3, 4, 5]


def test_there_is_a_line_an_epoch_or_a_minute(seconds, capsys):
    training = Training(seconds, images=16 * 100, total=400)  # 100 steps an epoch
    training.steps(400, each=0.5)  # 50 s an epoch
    assert printed_steps(capsys) == [5, 100, 200, 300, 400]
    training = Training(seconds, images=16 * 1000, total=400)
    training.steps(400, each=0.5)
    assert printed_steps(capsys) == [5, 125, 245, 365]


def test_a_log_of_many_short_epochs_or_of_weeks_stays_readable(seconds, capsys):
    training = Training(seconds, images=16, total=10**4)  # every step an epoch
    training.steps(10**4, each=1.0)
    assert len(printed_steps(capsys)) < 600
    training = Training(seconds, images=10**9, total=10**5)
    training.steps(10**4, each=60.0)  # a week
    lines = printed_steps(capsys)
    assert 300 < len(lines) < 600
    assert lines[-1] > 9_800


def test_validations_and_learning_rates_have_their_lines(seconds, capsys):
    training = Training(seconds, images=100, total=2000)
    rates = {
        "validation__loss": 2.25,
        "validation__top1_error": 0.375,
        "validation__top5_error": 0.125,
    }
    training.steps(7, each=0.0)
    training.line(**rates)
    assert capsys.readouterr().out == (
        "validation after step 7 (epoch 1.12): loss 2.2500  top-1 error 37.50%  "
        "top-5 error 12.50%\n"
    )
    training.steps(1, each=0.0)
    training.line(train__learning_rate=0.001)
    assert capsys.readouterr().out == "      learning rate 0.001, by step 8\n"
    training.line(train__learning_rate=0.001)
    assert capsys.readouterr().out == ""


def test_five_classes_have_no_top_5_error(seconds, capsys):
    rates = {
        "validation__loss": 0.5,
        "validation__top1_error": 0.375,
        "validation__top5_error": 0.0,
    }
    for classes, words in ((5, "37.50%\n"), (6, "top-5 error 0.00%\n")):
        Training(seconds, images=9, total=9, classes=classes).line(**rates)
        assert capsys.readouterr().out.endswith(words)


@pytest.mark.parametrize(
    ("waits", "words"),
    [
        ([0.0], ["0%: devices"]),
        ([0.0199, 0.02, 0.5, 0.01], ["2%: devices", "2%: data", "1%: devices"]),
    ],
)
def test_the_slower_of_data_and_devices_is_named_when_it_changes(
    seconds, capsys, waits, words
):
    training = Training(seconds, images=10**6, total=10**5)
    training.steps(1, each=1.0)
    for wait in waits:
        training.line(train__data_wait=wait, train__mfu=0.25)
        training.steps(1, each=60.0)
    notes = [x for x in capsys.readouterr().out.splitlines() if "waiting" in x]
    ends = " are slower; 25% of the devices' FLOP/s (MFU)"
    assert notes == [f"      waiting for data {word}{ends}" for word in words]


def test_a_loss_at_ln_classes_is_explained_after_500_steps_and_then_1000(
    seconds, capsys
):
    training = Training(seconds, images=10**6, total=10**5)
    said = []
    for step in range(100, 1900, 100):
        loss = math.log(10) * (1.01 if step != 700 else 0.9)  # once it seemed to move
        training.steps(100, each=0.0)
        training.line(train__loss=loss)
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines()), default=0) <= 100
        if "ln(classes) = 2.30" in out:
            said.append(step)
    assert said == [500, 1700]


def test_lines_fit_100_columns_in_the_longest_run(seconds, capsys):
    training = Training(seconds, images=1_281_167, total=999_999, classes=1000)
    training.step = 999_990
    training.steps(2, each=0.01)
    training.line(
        train__top1_error=1.0,
        train__data_wait=1.0,
        train__mfu=1.0,
        epoch=999.99,
        **{f"validation__{n}": 1.0 for n in ("loss", "top1_error", "top5_error")},
    )
    seconds[0] += 86400 * 10
    training.steps(1, each=0.0)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "  top-1 error 100.0%  " in lines[1]
    assert max(map(len, lines)) <= 100


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


def test_a_training_begins_with_what_it_will_do(tmp_path, capsys):
    train(tiny_config({"steps": 1}), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "100 images of 10 classes, and 40 to validate",
        "1 steps of 16 images on 1 device(s) (cpu); a checkpoint: up to 0 MB",
        "reading 100 images once, for statistics.npz",
    ]


def test_it_ends_with_the_best_validation_and_what_to_do_next(tmp_path):
    log = read_metrics(finished_run() / "metrics.jsonl")
    errors = {"1": 0.5, "2": 0.25, "3": 0.25, "4": 0.75}
    lines = [{**log[-1], "step": int(s), "validation/top1_error": e}
             for s, e in errors.items()]  # fmt: skip
    workdir = copy_of_finished_run(tmp_path / "a run")
    path = workdir / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = f"--checkpoint='{workdir}'"
    assert ending(workdir).splitlines() == [
        "best validation: top-1 error 25.00% after step 3",
        f"next: python -m alexnet_jax.evaluate {named} --best --views=10",
        f"      python -m alexnet_jax.predict {named} --best IMAGE",
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:3]))
    assert "--best" not in ending(workdir)


def test_in_a_terminal_there_is_one_live_line_with_a_bar(tmp_path):
    flags = tiny_flags(tmp_path / "run", {"log_every_steps": 1})
    command = [sys.executable, "-m", "alexnet_jax.main", *flags]
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (40, 100))
    app = subprocess.Popen(
        command, cwd=ROOT, stdin=its_end, stdout=its_end, stderr=subprocess.PIPE
    )
    os.close(its_end)
    output = b""
    with suppress(OSError):  # it has ended
        while read := os.read(terminal, 65536):
            output += read
    os.close(terminal)
    assert app.communicate() == (None, b"")
    assert app.returncode == 0
    lines = output.decode().replace("\r\n", "\n").split("\n")
    (live,) = [line for line in lines if "24/24" in line]
    frames = [frame for frame in live.split("\r") if frame.strip()]
    assert len(frames) > 3
    assert "0/24, the first step is compiled" in frames[0]
    assert all(re.match(r" *\d+%\|", frame) for frame in frames)
    error = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1][
        "validation/top1_error"
    ]
    assert frames[-1].startswith("100%|")
    assert frames[-1].rstrip().endswith(f", validation error {error:.1%}")
    assert not [
        line for line in lines if line.startswith(("epoch", "validation after"))
    ]
