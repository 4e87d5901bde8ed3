"""The launch scripts are sound, and the local one does what its header says."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import finished_run, logged, tiny_config, tiny_flags

from alexnet_jax.train import train

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci" / "run"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert os.access(script, os.X_OK)


def start(script: str, *arguments: str, **environment: str) -> subprocess.Popen:
    """A launch script, run in the repository with this Python."""
    here = Path(sys.executable).parent
    return subprocess.Popen(
        [ROOT / "launch" / script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{here}:{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_local_names_the_process_that_died_and_ends_the_others(tmp_path):
    workdir = tmp_path / "run"
    flags = tiny_flags(workdir, {"mesh.data": 2})
    launched = start("local.sh", "2", *flags, PORT="12329", XLA_FLAGS="")
    while not (workdir / "metrics.jsonl").exists():
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.05)
    children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children")
    second = int(children.read_text().split()[1])
    assert b"--process=1" in Path(f"/proc/{second}/cmdline").read_bytes()
    os.kill(second, signal.SIGKILL)
    _, errors = launched.communicate(timeout=60)
    assert launched.returncode == 137
    assert "error: process 1 of 2 ended with status 137" in errors
    assert train(tiny_config(), workdir) is None
    ours, theirs = logged(workdir), logged(finished_run())
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our["train/loss"] == pytest.approx(their["train/loss"], rel=1e-5)


def test_local_and_tpu_say_what_they_need():
    launched = start("local.sh", "--config=configs/paper.py")
    _, errors = launched.communicate()
    assert launched.returncode == 2
    assert "the first argument is the number of processes" in errors
    launched = start("tpu_vm.sh", "--config=configs/paper.py")
    _, errors = launched.communicate()
    assert launched.returncode == 2
    assert "NAME ZONE" in errors
    launched = start("gpu_node.sh", JAX_PLATFORMS="cpu")
    _, errors = launched.communicate()
    assert launched.returncode == 2
    assert "JAX finds no GPU here" in errors


@pytest.mark.parametrize(
    ("status", "requeued"), [(0, False), (138, True), (143, False), (2, False)]
)
def test_slurm_queues_a_job_again_when_its_time_is_up(status, requeued, tmp_path):
    for name, text in {
        "srun": f'echo "srun $*" >>{tmp_path}/told; exit {status}',
        "scontrol": f'echo "scontrol $*" >>{tmp_path}/told',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    launched = start(
        "slurm.sh",
        "--workdir=w",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        SLURM_SUBMIT_DIR=str(tmp_path),
        SLURM_JOB_ID="7",
    )
    _, errors = launched.communicate()
    assert (launched.returncode, errors) == (status, "")
    told = (tmp_path / "told").read_text().splitlines()
    module = "python -m alexnet_jax.main --coordinator=auto --workdir=w"
    assert told[0] == f"srun --kill-on-bad-exit=1 {module}"
    assert told[1:] == ["scontrol requeue 7"] * requeued


def test_every_tpu_worker_gets_the_arguments_as_they_were_given(tmp_path):
    told = tmp_path / "told"
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(told)!r}, 'a'))\n"
    )
    gcloud.chmod(0o755)
    arguments = ["--config=configs/paper.py", "--workdir=/mnt/it's here", "$HOME"]
    launched = start(
        "tpu_vm.sh",
        "pod",
        "zone-b",
        *arguments,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    _, errors = launched.communicate()
    assert launched.returncode == 0, errors
    copy, install, run = map(json.loads, told.read_text().splitlines())
    assert copy[3] == "scp"
    assert not Path(copy[4]).exists()  # the archive was for them only
    for call in (copy, install, run):
        assert {"--zone=zone-b", "--worker=all"} <= set(call)
    # What a shell at the other end makes of it.
    command = run[-1].removeprefix("--command=").replace("exec ", "printf '%s\\n' ")
    (tmp_path / "alexnet_jax").mkdir()
    heard = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert heard.stdout.splitlines()[-3:] == arguments
    assert "--coordinator=auto" in heard.stdout


def test_measure_runs_every_command_and_keeps_what_each_prints(tmp_path):
    """With a stand-in for Python: two devices, and a command that fails."""
    told, python = tmp_path / "told", tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "if sys.argv[1] == '-c':\n"
        "    print(2)\n"
        "else:\n"
        f"    print(json.dumps(sys.argv[1:]), file=open({str(told)!r}, 'a'))\n"
        "    print('a figure of', *sys.argv[2:4])\n"
        "    trains = 'alexnet_jax.main' in sys.argv\n"
        "    sys.exit(143 if trains else 'predict' in sys.argv)\n"
    )
    python.chmod(0o755)
    images = ["--config.dataset.train=it's here", "--config.dataset.held_out=0.1"]
    launched = start(
        *["measure.sh", str(tmp_path / "measured"), *images],
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        BATCHES="128",
    )
    output, errors = launched.communicate()
    assert (launched.returncode, errors) == (1, "")
    assert "predict: status 1 after" in output
    commands = list(map(json.loads, told.read_text().splitlines()))
    names = [c[2] if c[1].endswith("benchmark") else "main" for c in commands]
    assert names == ["step", "step", "input", "predict", "main", "main", "main"]
    for command in commands:
        assert command[0] == "-m"
        assert set(images) < set(command)
    precisions = {c for command in commands[:2] for c in command if "precision" in c}
    assert precisions == {f"--config.precision={p}" for p in ("bfloat16", "float32")}
    pair = [{f"--process={i}", "--processes=2"} for i in (0, 1)]
    assert sorted(pair[0] <= set(c) for c in commands[-2:]) == [False, True]
    assert sorted(pair[1] <= set(c) for c in commands[-2:]) == [False, True]
    files = {file.name: file.read_text() for file in (tmp_path / "measured").iterdir()}
    assert files["step_float32_128.txt"].startswith("a figure of alexnet_jax.benchmark")
    assert {"device.txt", "predict.txt", "train.txt", "process_1.txt"} < files.keys()
    launched = start("measure.sh", "--config.dataset.train=x")
    assert "give a folder for the figures" in launched.communicate()[1]
    assert launched.returncode == 2
