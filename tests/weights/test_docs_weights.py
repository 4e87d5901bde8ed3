"""Every command and program of docs/weights.md, on a network of few kernels."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from apps import run_app
from asked import answers
from caffe_files import Sizes, mean_image, random_weights, write_caffemodel, write_mean
from pages import blocks, shell_lines
from pictures import drawn, encoded
from runs import assert_same_weights
from test_torchvision_weights import random_model, saved

from alexnet_jax import workdir
from alexnet_jax.convert import convert
from alexnet_jax.data.images import Record
from alexnet_jax.data.preprocess import Square
from alexnet_jax.weights import torch_module

pytest.importorskip("onnxruntime")
PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
NARROW = {"kernels": (8, 16, 24, 24, 16), "units": (32, 24), "classes": 12}
# The commands find the config of the full size; here they are given this one.
CONFIG = """
from configs import caffe, one_weird_trick

def get_config(name):
    configs = one_weird_trick if name == "torchvision" else caffe
    config = configs.get_config(name)
    config.network.kernels, config.network.units = (8, 16, 24, 24, 16), (32, 24)
    return config
"""


def commands(page_block: str) -> list[list[str]]:
    return [shlex.split(line) for line in shell_lines(page_block) if line]


def in_folder(folder: Path, argument: str) -> str:
    """An argument of a command, as if the command was run in the folder."""
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}{folder / value}"


def run(folder: Path, command: list[str], *more: str) -> str:
    python, m, module, *arguments = command
    assert (python, m) == ("python", "-m"), command
    arguments = [in_folder(folder, argument) for argument in arguments]
    answer = run_app(module.removeprefix("alexnet_jax."), *arguments, *more)
    assert (answer.status, answer.err) == (0, ""), answer
    return answer.out


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the commands run: a photograph, the files of others, the run 'mine'."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "cat.jpg").write_bytes(encoded(drawn(3, 300, 400), "JPEG"))
    (folder / "small.py").write_text(CONFIG)
    (folder / "synsets.txt").write_text("".join(f"n{i}\n" for i in range(12)))
    sizes = Sizes(**NARROW)
    for kind, name, mean in (
        ("bvlc_alexnet", "bvlc_alexnet", "imagenet_mean.binaryproto"),
        ("caffenet", "bvlc_reference_caffenet", "ilsvrc_2012_mean.npy"),
    ):
        weights = random_weights(kind, sizes)
        write_caffemodel(folder / f"{name}.caffemodel", kind, sizes, weights)
        write_mean(folder / mean, mean_image(sizes))
    model = random_model(**NARROW)
    for ending in ("pth", "safetensors"):
        saved(model, folder / f"alexnet.{ending}")
    return folder


def test_the_page_has_the_blocks_that_are_tested():
    assert (len(blocks(PAGE, "sh")), len(blocks(PAGE, "python"))) == (3, 4)
    assert blocks(PAGE, "sh")[2] == "pytest -n0 -s -m slow tests/weights\n"


def test_commands_in(folder):
    *conversions, predict = commands(blocks(PAGE, "sh")[0])
    names = ("bvlc_alexnet", "caffenet", "torchvision", "torchvision")
    for command, name in zip(conversions, names, strict=True):
        run(folder, command, f"--config={folder}/small.py:{name}")
    assert "n" in run(folder, predict)
    assert_same_weights(folder / "runs" / "torchvision", folder / "runs" / "safe")


@pytest.fixture(scope="module")
def exported(folder) -> Path:
    """The folder, where the run has been written in every format."""
    command = commands(blocks(PAGE, "sh")[0])[0]
    command[-1] = "--destination=runs/mine"
    run(folder, command, f"--config={folder}/small.py:bvlc_alexnet")
    for command in commands(blocks(PAGE, "sh")[1]):
        run(folder, command)
    shutil.copy(folder / "runs" / "mine" / "config.json", folder)
    shutil.copy(torch_module.__file__, folder)
    return folder


def test_commands_out(exported):
    assert_same_weights(exported / "runs" / "mine", exported / "runs" / "copy")
    config = workdir.read_config(exported / "runs" / "mine")
    classes = exported / "synsets.txt"
    convert(exported / "mine.pth", exported / "back", config, classes=classes)
    assert_same_weights(exported / "runs" / "mine", exported / "back")
    mine, back = (exported / name / "statistics.npz" for name in ("runs/mine", "back"))
    for name, array in np.load(mine).items():
        np.testing.assert_array_equal(array, np.load(back)[name])


@pytest.mark.parametrize("program", [1, 2, 3], ids=["jax", "onnxruntime", "torch"])
def test_the_programs_need_no_package_of_ours(exported, program):
    squares, *others = blocks(PAGE, "python")
    text = f"""
import sys
sys.modules.update(dict.fromkeys(["alexnet_jax", "flax", "orbax"]))
{squares}
{others[program - 1]}
np.savez("answer", images=images, probabilities=np.asarray(probabilities))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        cwd=exported,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = np.load(exported / "answer.npz")
    data = (exported / "cat.jpg").read_bytes()
    square = Square(256).pixels(Record("cat.jpg", data, 0))
    np.testing.assert_array_equal(answer["images"][0], square)
    ours = answers(exported / "runs" / "mine", answer["images"])
    assert ours.max() > 3 / ours.shape[1]
    np.testing.assert_allclose(answer["probabilities"], ours, rtol=0, atol=1e-5)
