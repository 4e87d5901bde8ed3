"""The commands of README and docs, run as they are written, on networks made small.

Each page is one shell script, in a folder that has the files it names. The configs are
those of configs/, with few kernels. docs/weights.md has its own test.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from apps import ROOT
from pages import blocks, shell_lines
from pictures import drawn, encoded, write_class_folders
from preparing import made
from runs import copy_of_finished_run

SMALLER = """
import runpy

globals().update(runpy.run_path({file!r}))
_whole = get_config

def get_config(*parameter):
    config = _whole(*parameter)
    config.batch_size, config.epochs, config.validate_every_epochs = 8, 1.0, 1.0
    config.optimizer.warmup_epochs = min(0.5, config.optimizer.warmup_epochs)
    network = config.network
    network.kernels = (8,) * len(network.kernels)
    network.units = (16,) * len(network.units)
    network.batch_group = min(network.batch_group, config.batch_size)
    if config.dataset.source == "generated":
        config.dataset.train = config.dataset.validation = "32"
    return config
"""
NOT_RUN = {  # words of a command: why
    "venv": "CI makes its environment with it",
    "pytest": "CI runs it",
    "tests/soak": "tests/test_soak.py runs a part of it",
    "tests/rubbish.py": "tests/test_rubbish.py runs a part of it",
    "--target": "needs the extra aot; tests/benchmark/test_targets.py runs it",
    "tfds_name=imagenet2012": "needs ImageNet as TFDS prepares it",
    "benchmark step": "minutes; tests/benchmark has parts of it",
    "benchmark predict": "minutes; tests/benchmark has parts of it",
    "measure.sh": "half an hour; tests/test_launch.py runs it with a stand-in",
    "bvlc_alexnet.caffemodel": "test_docs_weights.py runs it",
}
SHORTER = {
    "--config.steps=576": "--config.steps=4",
    "--config.epochs=30": "--config.epochs=4",  # of a run that has had three
    "RELU,TANH": "runs/a,runs/b",
    'optimizer.rate=0.004" …': 'optimizer.rate=0.004"',
}
RUNS = {  # page: the runs that its reader has
    "README": ("a", "b", "c", "others", "quickstart"),
    "data": (),
    "machines": (),
    "predict": ("a", "b", "mine"),
    "reliability": ("mine",),
    "results": ("a", "b"),
}


def script(page: str) -> list[str]:
    """The page's commands."""
    path = ROOT / "README.md" if page == "README" else ROOT / "docs" / f"{page}.md"
    lines = shell_lines("".join(blocks(path, "sh")))
    return [line for line in lines if not any(words in line for words in NOT_RUN)]


def images(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(drawn(seed, 80, 90), "JPEG"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with everything that the pages name."""
    (tmp_path / "configs").mkdir()
    for file in (ROOT / "configs").glob("*.py"):
        (tmp_path / "configs" / file.name).write_text(SMALLER.format(file=str(file)))
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    images(tmp_path, ["cat.jpg", "holiday/1.jpg", "holiday/2.jpg", "old/a/b.png"])
    wnids = ("n02124075", "n02364673", "n02099712", "n01440764", "n01443537")
    numbers = [f"c{i}" for i in range(10)]
    for name, classes, count in (
        ("tiny-imagenet-100", wnids, 20), ("ILSVRC2012", wnids, 8),
        ("cifar10", numbers, 4), ("ten", numbers, 4),
    ):  # fmt: skip
        write_class_folders(tmp_path / name / "train", dict.fromkeys(classes, count))
        write_class_folders(tmp_path / name / "val", dict.fromkeys(classes, 4))
    write_class_folders(tmp_path / "pictures", {"cat": 20, "dog": 20})
    made(tmp_path / "cifar10", tmp_path / "cifar10-10k", encoding="raw")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNS)
def test_the_commands_of(page, folder):
    for name in RUNS[page]:
        copy_of_finished_run(folder / "runs" / name)
    lines = "\n".join(script(page))
    for long, short in SHORTER.items():
        lines = lines.replace(long, short)
    done = subprocess.run(
        ["bash", "-euxc", lines],
        cwd=folder,
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
