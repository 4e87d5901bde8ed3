"""Several processes train the one network that a single process would."""

import json
import os
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from apps import refusal, start_app
from runs import contents, finished_run, logged, tiny_config, tiny_flags, weights

from alexnet_jax import manifest, parallel, processes
from alexnet_jax.errors import InputError
from alexnet_jax.train import train

COPIES = {"mesh.data": 2}  # one for each process
TOWERS = {"mesh.data": 2, "mesh.tower": 2}  # two devices for each


class Ended(NamedTuple):
    statuses: list[int | None]
    out: str
    errors: list[str]


class Two:
    """Two processes that train in one work directory."""

    def __init__(self, workdir: Path, *changes: dict, devices: int = 1):
        """Start them with as many devices each, and their changes to the config."""
        environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        self.folders = [workdir.parent / f"{workdir.name}.{i}" for i in range(2)]
        self.processes = []
        for index, (folder, own) in enumerate(zip(self.folders, changes, strict=True)):
            folder.mkdir(exist_ok=True)
            flags = [
                *tiny_flags(workdir, {**COPIES, **own}),
                f"--coordinator={address}",
                *["--processes=2", f"--process={index}"],
            ]
            started = start_app(folder, "main", *flags, environment=environment)
            self.processes.append(started)

    def ended(self) -> Ended:
        """Wait for both."""
        for process in self.processes:
            process.join(90)
            assert not process.is_alive()
        # Of what the C++ below prints, only our lines are told.
        errors = [
            "\n".join(
                line
                for line in (folder / "err").read_text().splitlines()
                if line.startswith("error: ")
            )
            for folder in self.folders
        ]
        statuses = [process.exitcode for process in self.processes]
        return Ended(statuses, (self.folders[0] / "out").read_text(), errors)

    def wait_for_line(self, workdir: Path, step: int) -> None:
        """Return once metrics.jsonl has a line of this step or a later one."""
        path = workdir / "metrics.jsonl"
        while True:
            lines = path.read_text().splitlines() if path.exists() else []
            if lines and json.loads(lines[-1])["step"] >= step:
                return
            assert all(process.is_alive() for process in self.processes)
            time.sleep(0.01)


def assert_same_losses(one: Path, other: Path, within: float) -> None:
    ours, theirs = logged(one), logged(other)
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    for our, their in zip(ours, theirs, strict=True):
        for name in our:
            assert our[name] == pytest.approx(their[name], rel=within), (our, name)


@pytest.mark.parametrize("kind", [ValueError, jax.errors.JaxRuntimeError])
def test_another_one_that_is_gone_is_one_line(kind, monkeypatch):
    def lose():
        with processes.joined("localhost:1", 2, 0):
            raise kind("UNKNOWN: Gloo AllGather failed: Connection closed by peer\n…")

    monkeypatch.setattr(processes, "_initialise", lambda *_: None)
    monkeypatch.setattr(processes.atexit, "register", lambda *_: None)
    with pytest.raises(InputError, match=r"has lost another one \(UNKNOWN: Gloo"):
        lose()
    monkeypatch.setattr(processes, "LOST", ())
    with pytest.raises(kind, match="Gloo"):
        lose()


def test_two_processes_give_the_losses_of_one(tmp_path):
    workdir, one = tmp_path / "run", tmp_path / "one"
    short = {**TOWERS, "steps": 13, "checkpoint_every_steps": 13}
    short["precision"] = "float64"  # in float32 the orders of sums may part (docs)
    ended = Two(workdir, short, {**short, "dataset.threads": 1}, devices=2).ended()
    assert ended.statuses == [0, 0], ended
    assert f"done: {workdir}" in ended.out
    newest = workdir / "checkpoints" / "13"  # of whose files each has written some
    written = manifest.read_sealed(newest / manifest.NAME)["files"]
    assert {name for name in written if name.endswith("process_1/manifest.ocdbt")}
    assert manifest.damage(newest) == ""
    train(tiny_config(short), one)  # on as many devices
    # The same program; only the order in which gloo adds may be another.
    assert_same_losses(workdir, one, within=1e-10)
    ours, theirs = weights(workdir), weights(one)  # rounded to float32
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-7)


def test_killed_processes_end_together_and_one_alone_goes_on(tmp_path):
    workdir = tmp_path / "run"
    two = Two(workdir, {}, {})
    two.wait_for_line(workdir, 5)
    two.processes[0].kill()
    ended = two.ended()
    assert ended.statuses[0] == -signal.SIGKILL
    assert ended.statuses[1] not in (0, None)
    # A process that dies is reported by its watcher, which may be a moment behind.
    deadline = time.monotonic() + 30
    while not ended.errors[1] and time.monotonic() < deadline:
        time.sleep(0.1)
        ended = two.ended()
    assert "start all of them again to continue" in ended.errors[1]
    assert len(ended.errors[1].splitlines()) == 1

    two = Two(workdir, {}, {})
    two.wait_for_line(workdir, 10)
    for process in two.processes:
        process.kill()
    two.ended()
    assert train(tiny_config(), workdir) is None
    assert_same_losses(workdir, finished_run(), within=1e-5)


def test_a_signal_to_one_stops_both_after_the_same_step(tmp_path):
    workdir = tmp_path / "run"
    two = Two(workdir, {}, {})
    two.wait_for_line(workdir, 5)
    two.processes[1].terminate()
    ended = two.ended()
    assert ended.statuses == [143, 143], ended
    assert "the same command continues the run" in ended.out
    saved = max(int(d.name) for d in (workdir / "checkpoints").iterdir())
    assert f"stopped after step {saved};" in ended.out


def test_slurms_signal_to_each_stops_both_with_its_status(tmp_path):
    workdir = tmp_path / "run"
    two = Two(workdir, {}, {})
    two.wait_for_line(workdir, 5)
    for process in two.processes:
        os.kill(process.pid, signal.SIGUSR1)
    ended = two.ended()
    assert ended.statuses == [138, 138], ended
    saved = max(int(d.name) for d in (workdir / "checkpoints").iterdir())
    assert f"stopped after step {saved};" in ended.out


def test_processes_that_diverge_have_that_status(tmp_path):
    changes = {"optimizer.rate": 1e12, "checkpoint_every_steps": 100}
    ended = Two(tmp_path / "run", changes, changes).ended()
    assert ended.statuses == [3, 3], ended
    for error in ended.errors:
        assert "diverged; no checkpoint was saved before" in error


def test_processes_that_disagree_name_the_key(tmp_path):
    changes = {"network.dropout": 0.25, "seed": 7}
    ended = Two(tmp_path / "run", {}, changes).ended()
    assert ended.statuses == [2, 2]
    for error in ended.errors:
        assert "network.dropout (0.5 in process 0, 0.25 in process 1)" in error
        assert "seed (0 in process 0, 7 in process 1)" in error
    assert not (tmp_path / "run").exists()


def test_a_mesh_leaves_no_process_out(tmp_path):
    alone = {"mesh.data": 1}
    ended = Two(tmp_path / "run", alone, alone).ended()
    assert ended.statuses == [2, 2]
    for error in ended.errors:
        assert "does not spread evenly over the 2 processes with 1 device(s)" in error
    assert not (tmp_path / "run").exists()


def test_flags_of_processes_that_make_no_sense(tmp_path):
    def refused(*flags: str) -> str:
        return refusal("main", *tiny_flags(tmp_path), *flags)

    assert "--coordinator=nobody: must be host:port" in refused("--coordinator=nobody")
    both = ["--coordinator=localhost:1", "--processes=2", "--process=2"]
    assert "--process=2: must be from 0 to one less than --processes=2" in refused(
        *both
    )
    assert "neither Slurm nor Open MPI nor a TPU VM" in refused("--coordinator=auto")
    assert "--processes=0" in refused("--processes=0")
    alone = refused("--processes=2", "--process=1")
    assert "--processes=2, --process=1: several processes meet at a --coord" in alone
    nowhere = ["--coordinator=no-such-host.invalid:1", "--processes=2", "--process=1"]
    assert "no-such-host.invalid:1: cannot be reached" in refused(*nowhere)
    assert contents(tmp_path) == {}


def test_a_coordinator_that_never_comes_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.3)
    monkeypatch.setattr(processes.atexit, "register", lambda *_: None)
    with socket.socket() as deaf:
        deaf.bind(("localhost", 0))
        address = f"localhost:{deaf.getsockname()[1]}"
        with (
            pytest.raises(InputError, match=f"--coordinator={address}: cannot be re"),
            processes.joined(address, 2, 1),
        ):
            pass


def test_one_process_needs_no_others():
    processes.agree({"seed": 0})
    assert processes.first()
    assert processes.of_all({5, 2}, 9) == [2, 5]
    mesh = parallel.make_mesh(4, 2, 2, 8)
    assert parallel.process_part(mesh) == (0, 1)


def mesh_of_processes(owners, monkeypatch, index: int):
    """A mesh whose devices belong to these processes, seen from one of them."""
    devices = np.empty(np.shape(owners), object)
    for place, owner in np.ndenumerate(owners):
        devices[place] = SimpleNamespace(process_index=owner)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(jax, "process_count", lambda: int(np.max(owners)) + 1)
    return SimpleNamespace(devices=devices, shape={"tower": devices.shape[-1]})


@pytest.mark.parametrize(
    ("owners", "parts"),
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], {0: (0, 2), 1: (1, 2)}),
        ([[0, 1], [2, 3]], {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
        ([[0], [1], [2]], {0: (0, 3), 1: (1, 3), 2: (2, 3)}),
        ([[[0, 0], [0, 0]], [[1, 1], [1, 1]]], {0: (0, 2), 1: (1, 2)}),  # with 'fc'
    ],
)
def test_a_process_feeds_the_copies_that_it_holds(owners, parts, monkeypatch):
    for index, part in parts.items():
        mesh = mesh_of_processes(owners, monkeypatch, index)
        assert parallel.process_part(mesh) == part


@pytest.mark.parametrize(
    "owners", [[[0, 0], [0, 1], [1, 1]], [[0], [1], [1]], [[1, 1], [1, 1]]]
)
def test_processes_that_hold_uneven_parts_are_refused(owners, monkeypatch):
    mesh = mesh_of_processes(owners, monkeypatch, 0)
    with pytest.raises(InputError, match="does not spread evenly"):
        parallel.process_part(mesh)
