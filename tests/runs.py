"""Runs so small that a test can afford them, and what they leave behind."""

import atexit
import functools
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file

from alexnet_jax import metrics
from alexnet_jax.config import base_config
from alexnet_jax.convert import convert
from alexnet_jax.train import train

# Every run compiles the same few functions: the first one does it for all of them.
SCRATCH = Path(tempfile.mkdtemp(prefix="alexnet_jax_tests_"))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)
CACHE = {
    "jax_compilation_cache_dir": str(SCRATCH / "cache"),
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
for _name, _value in CACHE.items():
    jax.config.update(_name, _value)
    os.environ[_name.upper()] = str(_value)  # for apps

TINY = {
    "batch_size": 16,
    "steps": 24,
    "log_every_steps": 5,
    "checkpoint_every_steps": 4,
    "mesh.data": 1,
    "dataset.source": "generated",
    "dataset.train": "100",  # an epoch is 6.25 updates
    "dataset.validation": "40",
    "dataset.image_size": 72,
    "dataset.threads": 2,
    "network.kernels": (8,) * 5,
    "network.units": (16, 16),
    "network.stddevs": (0.01, 0.1, 0.1, 0.1, 0.1, 0.3, 0.2, 0.2),
    "optimizer.schedule": "epochs",
    "augment.crop": 64,
    "augment.offsets": 9,
}


def tiny_config(changes: dict[str, Any] | None = None):
    """Ten classes, 5,482 parameters, 24 updates, with some keys changed."""
    config = base_config()
    config.update_from_flattened_dict({**TINY, **(changes or {})})
    return config


def tiny_flags(workdir: Path, changes: dict[str, Any] | None = None) -> list[str]:
    """`tiny_config` for the command line, over a config of the repository."""
    keys = {**TINY, **(changes or {})}
    return [
        "--config=configs/paper.py",
        f"--workdir={workdir}",
        *[f"--config.{key}={value}" for key, value in keys.items()],
    ]


@functools.cache
def finished_run() -> Path:
    """The work directory of `tiny_config`, never interrupted; copy it to change it."""
    workdir = SCRATCH / "finished"
    assert train(tiny_config(), workdir) is None
    return workdir


def copy_of_finished_run(workdir: Path) -> Path:
    """A work directory to do anything with."""
    shutil.copytree(finished_run(), workdir)
    return workdir


def unsealed(workdir: Path) -> Path:
    """The same without manifests, as of earlier versions: its files may be edited."""
    for noted in (workdir / "checkpoints").glob("*/manifest.json"):
        noted.unlink()
    return workdir


def logged(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    clock = ("train/images_per_second", "train/data_wait", "train/mfu")
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def interrupt_after_line(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """Sends a signal to this process when that step's line is written."""
    write = metrics.MetricsFile.write

    def interrupting(self, line):
        write(self, line)
        if line["step"] == step:
            signal.raise_signal(number)

    monkeypatch.setattr(metrics.MetricsFile, "write", interrupting)


def weights(workdir: Path) -> dict[str, np.ndarray]:
    """The parameters of its newest checkpoint."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        file = Path(folder) / "weights.safetensors"
        convert(workdir, file)
        return load_file(file)


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit for bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
