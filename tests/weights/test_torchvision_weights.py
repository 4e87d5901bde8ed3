"""torchvision's alexnet with its preprocessing in PyTorch, and the imported run."""

import os
import sys

import numpy as np
import pytest
import torch
from apps import refusal, run_app
from asked import answers, assert_agree, assert_varied, drawings, photographs
from safetensors.torch import save_file
from torch import nn

from alexnet_jax import workdir
from alexnet_jax.convert import convert
from alexnet_jax.errors import InputError
from configs.one_weird_trick import get_config

SMALL = {"kernels": (8, 16, 24, 16, 12), "units": (32, 24), "classes": 12, "grid": 2}
FULL = {"kernels": (64, 192, 384, 256, 256), "units": (4096,) * 2, "classes": 1000}
SIDE, SIZE = 96, 104  # of the small one


class TorchvisionAlexNet(nn.Module):
    """torchvision.models.AlexNet with other widths; `grid` is 6 for 224 pixels."""

    def __init__(self, kernels, units, classes, grid=6):
        super().__init__()
        one, two, three, four, five = kernels
        self.features = nn.Sequential(
            nn.Conv2d(3, one, kernel_size=11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(one, two, kernel_size=5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(two, three, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(three, four, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(four, five, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((grid, grid))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(five * grid * grid, units[0]),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(*units),
            nn.ReLU(inplace=True),
            nn.Linear(units[1], classes),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def random_model(**sizes):
    """With weights that keep the signal's size, as a trained network's do."""
    model = TorchvisionAlexNet(**sizes).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 50
        deviation = (2 / fan_in) ** 0.5
        last = parameter.shape[0] == sizes["classes"]
        nn.init.normal_(parameter, 0, deviation * (1.5 if last else 1), generator)
    return model


def torchvision_answers(model, images, side):
    """With its transforms but for the resizing: crop, scale, normalise."""
    margin = (images.shape[1] - side) // 2
    x = torch.tensor(images).permute(0, 3, 1, 2)[:, :, margin:, margin:]
    x = x[:, :, :side, :side].float() / 255
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.inference_mode():
        return model((x - mean) / std).softmax(1).numpy()


def small_config():
    config = get_config("torchvision")
    config.network.kernels, config.network.units = SMALL["kernels"], SMALL["units"]
    config.augment.crop, config.augment.offsets = SIDE, 1
    config.dataset.image_size = SIZE
    return config


def saved(model, path):
    state = model.state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors"])
def test_a_small_network_answers_as_pytorch_does(tmp_path, ending):
    model, images = random_model(**SMALL), drawings(4, SIZE)
    convert(saved(model, tmp_path / f"x.{ending}"), tmp_path / "run", small_config())
    ours = answers(tmp_path / "run", images)
    theirs = torchvision_answers(model, images, SIDE)
    assert_varied(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert workdir.read_classes(tmp_path / "run" / "classes.txt")[3] == "class 03"


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_full_size_answers_as_pytorch_does(tmp_path, shared_data, ending):
    model, images = random_model(**FULL), photographs(shared_data, 8)
    convert(saved(model, tmp_path / f"x.{ending}"), tmp_path / "run")
    config = workdir.read_config(tmp_path / "run")
    assert config.network.layers == get_config("torchvision").network.layers
    ours = answers(tmp_path / "run", images)
    theirs = torchvision_answers(model, images, 224)
    assert_varied(theirs)
    assert_agree(f"torchvision .{ending}, PyTorch", ours, theirs)


def test_another_network_is_named_in_one_line(tmp_path):
    state = random_model(**SMALL).state_dict()
    state["features.12.weight"] = torch.zeros(3)
    del state["classifier.1.bias"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError) as error:
        convert(tmp_path / "x.pth", tmp_path / "run", get_config("torchvision"))
    for part in (
        *(
            "conv2.weight is (16, 8, 5, 5) there and (192, 64, 5, 5)",
            "fc6.bias is absent",
        ),
        "features.12.weight is (3,) there and absent in the config's network",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()


class Program:
    """What a pickle may hold: a call that is made when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    trap, file = tmp_path / "trap", tmp_path / "x.pth"
    for new_format in (True, False):
        torch.save(
            {"conv1.weight": torch.zeros(3), "extra": Program(trap)},
            file,
            _use_new_zipfile_serialization=new_format,
        )
        line = refusal("convert", f"--source={file}", f"--destination={tmp_path}/run")
        assert "a pickle is not run" in line
        assert "convert it to" in line
        assert "safetensors" in line
        assert not trap.exists()
    assert not (tmp_path / "run").exists()
    torch.load(file, weights_only=False)
    assert trap.is_dir()  # so it was one


def test_bad_files_are_one_line(tmp_path):
    file, run = tmp_path / "x.pth", tmp_path / "run"

    def refused(match):
        with pytest.raises(InputError, match=match) as error:
            convert(file, run)
        assert "\n" not in str(error.value)
        assert not run.exists()

    refused("cannot be read")
    whole = saved(random_model(**SMALL), file).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused("x.pth: damaged or cut off")
    file.write_bytes(b"")
    refused("x.pth: damaged or cut off")
    torch.save(random_model(**SMALL).state_dict()["features.0.weight"], file)
    refused("is not a state dict")
    torch.save({"epoch": 3, "state_dict": {}}, file)
    refused("is not a state dict")
    torch.save({"weight": torch.zeros(3)}, file)
    refused(r"carries no config of its network; add --config=configs/X.py")


def test_without_pytorch_a_line_shows_how_to_get_it(tmp_path, monkeypatch):
    file = saved(random_model(**SMALL), tmp_path / "x.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'alexnet_jax\[torch\]'"):
        convert(file, tmp_path / "run", small_config())


@pytest.mark.parametrize("sizes", [(11,), (3, 11, 11), ()])
def test_kernels_of_other_dimensions_are_a_line(tmp_path, sizes):
    state = random_model(**SMALL).state_dict()
    state["features.0.weight"] = torch.zeros(8, 3, *sizes)
    file = tmp_path / "x.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    line = refusal("convert", f"--source={file}", f"--destination={tmp_path}/run")
    assert f"conv1.weight is {(8, 3, *sizes)} there and (64, 3, 11, 11) in" in line


def test_the_command_finds_the_config(tmp_path):
    file = saved(random_model(**SMALL), tmp_path / "x.pth")
    flags = (f"--source={file}", f"--destination={tmp_path}/run")
    line = refusal("convert", *flags)
    assert "conv1.weight is (8, 3, 11, 11) there and (64, 3, 11, 11) in" in line
    config = "--config=configs/one_weird_trick.py:torchvision"
    keys = [f"--config.network.{key}={SMALL[key]}" for key in ("kernels", "units")]
    keys += [f"--config.augment.crop={SIDE}", "--config.augment.offsets=1"]
    keys += [f"--config.dataset.image_size={SIZE}"]
    answer = run_app("convert", *flags, config, *keys)
    assert (answer.status, answer.out) == (0, f"{file} → {tmp_path}/run\n")
