"""TensorBoard's event files, read back by its own reader, and Weights & Biases."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
from apps import ROOT
from runs import (
    assert_same_weights,
    finished_run,
    interrupt_after_line,
    logged,
    tiny_config,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from alexnet_jax import loggers
from alexnet_jax.errors import InputError
from alexnet_jax.loggers import TensorBoard, WandB, require_loggers
from alexnet_jax.train import train


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value), …]} as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_shows_the_lines_of_metrics_jsonl_across_a_resume(
    tmp_path, monkeypatch
):
    config = tiny_config({"log_to": ("tensorboard",)})
    with monkeypatch.context() as patch:
        interrupt_after_line(patch, 10)
        assert train(config, tmp_path) == signal.SIGTERM
    assert train(config, tmp_path) is None
    assert logged(tmp_path) == logged(finished_run()) != []
    shown = scalars(tmp_path / "tensorboard")
    lines = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    expected: dict[str, list] = {}
    for line in lines:
        for key, value in line.items():
            if key != "step":
                number = pytest.approx(value, rel=1e-6)  # float32
                expected.setdefault(key, []).append((line["step"], number))
    assert {"train/loss", "train/images_per_second", "epoch"} < expected.keys()
    assert shown == expected
    assert_same_weights(tmp_path, finished_run())


def test_what_was_written_after_the_checkpoint_counts_once(tmp_path):
    for done, steps in [(0, (20, 40, 60, 80)), (40, (60,)), (60, (80, 100))]:
        log = TensorBoard(tmp_path, done)
        for step in steps:
            log.write({"step": step, "train/loss": float(done + step)})
        log.close()
    assert scalars(tmp_path)["train/loss"] == [
        (20, 20.0), (40, 40.0), (60, 100.0), (80, 140.0), (100, 160.0),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"log_to='{name}': .*alexnet_jax\[{name}\]"):
        train(tiny_config({"log_to": (name,)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    require_loggers(())


def test_another_name_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"log_to=\['wandbs'\]: .*mean 'wandb'"):
        train(tiny_config({"log_to": ("wandbs",)}), tmp_path / "run")


def records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """What offline runs have recorded, the older run first: blocks as in LevelDB's log.

    See wandb's datastore: after 7 bytes, chunks (checksum 4, length 2, type 1) in
    blocks of 32 KiB.
    """
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, parts = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
                continue
            length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            parts += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind in (1, 4):  # whole, or the last part
                record = wandb_internal_pb2.Record()
                record.ParseFromString(parts)
                found.append(record)
                parts = b""
    return found


@pytest.fixture
def no_server(monkeypatch, tmp_path):
    """Nobody is logged in, and nothing listens where the server should be."""
    for name, value in {
        "HOME": str(tmp_path / "home"),
        "NETRC": str(tmp_path / "netrc"),
        "WANDB_BASE_URL": "http://localhost:9",
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_ERROR_REPORTING": "false",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()


def recorded(folder: Path) -> list[dict[str, float]]:
    return [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records(folder)
        if record.HasField("history")
    ]


@pytest.mark.usefixtures("no_server")
def test_wandb_records_offline_and_a_resumed_run_is_the_same_one(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "my run"
    folder.mkdir()
    line = {"step": 20, "train/loss": 2.5, "norm/fc8/bias": 0.125}
    for step in (20, 40):
        log = WandB(folder, {"seed": 0, "optimizer.rate": 0.01})
        log.write({**line, "step": step})
        log.close()
        time.sleep(1.1)  # wandb names a run's folder by the second
    assert capfd.readouterr() == ("", "")
    runs = [r.run for r in records(folder) if r.HasField("run")]
    kept = (folder / "wandb_id.txt").read_text().strip()
    assert {(run.run_id, run.display_name, run.project) for run in runs} == {
        (kept, "my run", "alexnet_jax")
    }
    config = {u.key: json.loads(u.value_json) for u in runs[0].config.update}
    assert config["optimizer.rate"] == 0.01
    found = recorded(folder)
    assert [own["_step"] for own in found] == [20, 40]
    for own in found:
        assert {key: own[key] for key in ("train/loss", "norm/fc8/bias")} == {
            "train/loss": 2.5,
            "norm/fc8/bias": 0.125,
        }


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("key", ["", "0" * 40], ids=["not logged in", "disconnected"])
def test_without_its_server_wandb_is_one_line_and_records_offline(
    key, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(loggers, "SECONDS", 1)
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    config = tiny_config({"log_to": ("wandb",), "steps": 8})
    assert train(config, tmp_path / "run") is None
    out, err = capfd.readouterr()
    assert err == ""
    (line,) = [line for line in out.splitlines() if line.startswith("wandb: ")]
    assert line.endswith(f"; recorded offline in {tmp_path}/run/wandb")
    steps = [own["_step"] for own in recorded(tmp_path / "run")]
    assert steps == [own["step"] for own in logged(tmp_path / "run")] == [5, 7, 8]


@pytest.mark.usefixtures("no_server")
def test_bad_settings_of_wandb_stop_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_MODE", "of course")
    log = WandB(tmp_path, {})
    log.write({"step": 1, "train/loss": 1.0})
    log.close()
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith(f"; recorded offline in {tmp_path}/wandb")
    assert len(lines) <= 2
    assert all(line.startswith("wandb: ") for line in lines)


def test_a_training_without_them_loads_neither():
    program = (
        "import sys, alexnet_jax.train\n"
        "assert not {'tensorboard', 'wandb', 'tensorflow'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
