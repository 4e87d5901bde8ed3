"""launch/sweep.py with a program that only pretends to train."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SWEEP = Path(__file__).parents[1] / "launch" / "sweep.py"
MAIN = """
import json, os, pathlib, signal, sys, time
flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
with (folder / "started").open("a") as file:
    gpu = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    print(json.dumps(flags | gpu), file=file)
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
if flags["config"].endswith("slow") and not (folder / "metrics.jsonl").exists():
    (folder / "metrics.jsonl").touch()
    time.sleep(60)
if flags["config"].endswith("bad"):
    sys.exit("error: bad")
seed = int(flags["config.seed"])
errors = {"train/top1_error": 0.1, "validation/top1_error": round(0.2 + seed / 100, 4)}
line = {"step": 9, "epoch": 2.5, "validation/loss": 1.0, **errors}
lines = [{**line, "step": 4}, line | {"validation/top5_error": 0.05}, {"step": 10}]
(folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\\n" for x in lines))
"""


@pytest.fixture
def sweep(tmp_path):
    stub = tmp_path / "stub" / "alexnet_jax"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "main.py").write_text(MAIN)
    config = tmp_path / "mine.py"
    config.write_text("PUBLISHED = {'good': ('40.7', '145: 40.66')}\n")

    def start(*arguments: str) -> subprocess.Popen:
        configs = [a.replace("mine", str(config)) for a in arguments]
        return subprocess.Popen(
            [sys.executable, SWEEP, f"--workdir={tmp_path / 'W'}", *configs],
            env=os.environ | {"PYTHONPATH": str(stub.parent)},
            cwd=tmp_path,  # where `python -m` looks first
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))


def starts(folder: Path) -> list[str]:
    return (folder / "started").read_text().splitlines()


def test_a_table_of_configs_and_seeds_that_continues(sweep, tmp_path):
    arguments = ("mine:good", "mine:good optimizer.rate=0.5", "mine:bad")
    first = sweep("--seeds=0,4", *arguments, "--", "--config.epochs=3")
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 1, out
    folder = tmp_path / "W"
    assert out.count("exit status 0") == 4
    assert out.count("bad_seed=0: exit status 1") == 1
    assert (folder / "bad_seed=4" / "log.txt").read_text() == "error: bad\n"
    assert (folder / "table.md").read_text().splitlines()[2:] == [
        "| good | 2 | 2.5 | 10.00 ± 0.00 % | 22.00 ± 2.83 % | 5.00 ± 0.00 % "
        "| 40.7 | 145: 40.66 |",
        "| good optimizer.rate=0.5 | 2 | 2.5 | 10.00 ± 0.00 % | 22.00 ± 2.83 % "
        "| 5.00 ± 0.00 % | 40.7 | 145: 40.66 |",
    ]
    rows = table(folder)
    assert [(row["run"], row["seed"]) for row in rows] == [
        ("good", "0"), ("good", "4"),
        ("good optimizer.rate=0.5", "0"), ("good optimizer.rate=0.5", "4"),
    ]  # fmt: skip
    assert [float(row["validation/top1_error"]) for row in rows] == [0.2, 0.24] * 2
    own = starts(folder / "good_optimizer.rate=0.5_seed=4")
    assert '"config.optimizer.rate": "0.5"' in own[0]
    assert '"config.epochs": "3"' in own[0]
    assert '"config.seed": "4"' in own[0]

    before = (folder / "table.md").read_text()
    (folder / "table.md").unlink()
    again = sweep("--seeds=0,4", *arguments, "--", "--config.epochs=3")
    again.communicate(timeout=60)
    assert again.returncode == 1
    assert len(starts(folder / "good_seed=0")) == 1, "it was complete"
    assert len(starts(folder / "bad_seed=0")) == 2
    assert table(folder) == rows
    assert (folder / "table.md").read_text() == before, "of the runs that were complete"
    longer = sweep("--seeds=0", "mine:good", "--", "--config.epochs=4")
    assert "good had" in longer.communicate(timeout=60)[1]
    assert longer.returncode == 2
    assert table(folder) == rows


def test_what_would_mix_two_runs_is_refused(sweep, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "x.py"
    other.write_text("")
    both = sweep("mine:good", f"{other}:good")
    assert "a second 'good'" in both.communicate(timeout=60)[1]
    missing = sweep("nowhere.py:good")
    assert "nowhere.py: no such file" in missing.communicate(timeout=60)[1]
    assert (both.returncode, missing.returncode) == (2, 2)
    assert not (tmp_path / "W").exists()


def test_a_value_with_spaces_is_quoted(sweep, tmp_path):
    run = sweep("mine:good 'optimizer.drops=((6.0, 2e-3, 2e-3),)'")
    assert run.communicate(timeout=60)[1] == ""
    (folder,) = (tmp_path / "W").glob("good_*")
    assert '"config.optimizer.drops": "((6.0, 2e-3, 2e-3),)"' in starts(folder)[0]


def test_a_signal_stops_the_runs_and_the_same_command_continues(sweep, tmp_path):
    folder, arguments = tmp_path / "W", ("--devices=3,5", "mine:slow", "mine:good")
    running = sweep("--seeds=0,1", *arguments)
    deadline = time.monotonic() + 60
    slow = [folder / f"slow_seed={seed}" / "metrics.jsonl" for seed in (0, 1)]
    while not all(file.exists() for file in slow) and time.monotonic() < deadline:
        time.sleep(0.05)
    gpus = {line for seed in (0, 1) for line in starts(folder / f"slow_seed={seed}")}
    assert {'"gpu": "3"' in line for line in gpus} == {True, False}, "both at once"
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert not (folder / "runs.csv").exists()
    assert not (folder / "good_seed=0" / "started").exists()

    after = sweep("--seeds=0,1", *arguments)
    out, _ = after.communicate(timeout=60)
    assert after.returncode == 0, out
    assert len(table(folder)) == 4
