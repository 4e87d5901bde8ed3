"""A small slice of `python tests/soak`, always the same, and what the soak found."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from apps import ROOT
from pictures import write_class_folders
from runs import tiny_flags
from soak.app import QUICK, Trouble
from soak.bench import OFTEN, Bench, Outcome, steps

from alexnet_jax.data import files
from alexnet_jax.data.files import replaced
from alexnet_jax.data.folders import ClassFolders
from alexnet_jax.errors import ImageError, InputError


def test_killed_before_chosen_operations_on_files_nothing_is_lost(tmp_path):
    bench, outcomes = Bench(tmp_path), []
    workdir = bench.new()
    for trouble, phase in (
        (Trouble(kill_at=7), "starting"),  # config.json or classes.txt
        (Trouble(kill_in="saving", kill_at=60), "saving"),
        (Trouble(kill_in="deleting", kill_at=5), "deleting"),
    ):
        app = bench.train(workdir, trouble)
        assert app.ended() == -signal.SIGKILL
        assert app.phase == phase
        outcomes.append(bench.outcome(phase, app.killed, app))
    bench.finish(workdir, outcomes)
    clean = {"orphans": 0, "lines": 0, "losses": True, "files": True}
    assert outcomes == [
        Outcome(phase, "killed", **clean)
        for phase in ("starting", "saving", "deleting")
    ]


FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@pytest.mark.slow
@pytest.mark.skipif(not FAKETIME.exists(), reason="Debian's libfaketime")
def test_the_clock_of_the_whole_process_is_set_back_a_day(tmp_path):
    bench, clock, workdir = Bench(tmp_path), tmp_path / "clock", tmp_path / "a" / "run"
    clock.write_text("+0d")
    environment = {
        **os.environ,
        "XLA_FLAGS": QUICK,  # as the reference
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",  # second
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-m", "alexnet_jax.main", *tiny_flags(workdir, OFTEN)]
    training = subprocess.Popen(command, cwd=ROOT, env=environment)
    while training.poll() is None and steps(workdir) < 3:
        time.sleep(0.05)
    clock.write_text("-1d")
    assert training.wait() == 0
    by_orbax = workdir / "checkpoints" / "24" / "_CHECKPOINT_METADATA"
    noted = json.loads(by_orbax.read_text())
    assert noted["commit_timestamp_nsecs"] / 1e9 < time.time() - 80_000
    outcome = Outcome("clock", "status 0")
    bench.finish(workdir, [outcome])
    assert (outcome.losses, outcome.files, outcome.wrong) == (True, True, [])


def test_a_file_that_a_killed_process_left_is_deleted(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f"a.txt.{ended.pid}{files.UNFINISHED}"
    others = [
        tmp_path / f"a.txt.{os.getppid()}{files.UNFINISHED}",  # of one that is alive
        tmp_path / f"b.a.txt.{ended.pid}{files.UNFINISHED}",
    ]
    for path in (left, *others):
        path.touch()
    with replaced(tmp_path / "a.txt") as temporary:
        temporary.touch()
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a.txt", *others])


def test_a_write_that_fails_names_its_file(tmp_path):
    with pytest.raises(OSError, match="No space") as full, replaced(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(tmp_path / "a")


def test_a_disk_that_is_away_is_no_image_to_be_left_out(tmp_path):
    folder = write_class_folders(tmp_path / "images", {"a": 2})
    source = ClassFolders(folder, "dataset.train")
    (folder / "a" / "0.JPEG").unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        source[0]
    folder.rename(tmp_path / "away")
    with pytest.raises(InputError, match="cannot be read: No such file") as gone:
        source[1]
    assert not isinstance(gone.value, ImageError)


def test_an_image_that_cannot_be_read_for_other_reasons_ends_a_run(
    tmp_path, monkeypatch
):
    source = ClassFolders(
        write_class_folders(tmp_path / "i", {"a": 1}), "dataset.train"
    )

    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("alexnet_jax.data.folders.read_file", fail)
    with pytest.raises(InputError, match="Too many open files") as full:
        source[0]
    assert not isinstance(full.value, ImageError)


STORM = """
import os, signal, sys, threading, time
from alexnet_jax import cli

def unwind(_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    finally:
        {clean_up}

cli.run(unwind)
"""


@pytest.mark.parametrize(
    ("clean_up", "out"), [("print('unwound')", "unwound\n"), ("unwind(_)", "")]
)
def test_a_second_ctrl_c_ends_an_app_that_is_unwinding(clean_up, out):
    done = subprocess.run(
        [sys.executable, "-c", STORM.format(clean_up=clean_up)],
        **{"cwd": ROOT, "capture_output": True, "text": True},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, out, "interrupted\n")


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path):
    bench, limit = Bench(tmp_path), 3_000  # bytes, fewer than a file of weights has
    app = bench.train(tmp_path / "run", Trouble(limit=(resource.RLIMIT_FSIZE, limit)))
    assert app.ended() == 2
    (line,) = app.lines
    assert line.startswith("error: ")
    assert line.count("File too large") == 1


LINGERING = """
import threading
from alexnet_jax import cli
from alexnet_jax.errors import InputError

def refuse(_):
    threading.Thread(target=threading.Event().wait).start()
    raise InputError("no")

cli.run(refuse)
"""


def test_an_app_that_refuses_does_not_wait_for_its_threads():
    done = subprocess.run(
        [sys.executable, "-c", LINGERING],
        **{"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120},
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no\n")
