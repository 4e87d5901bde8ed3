import base64
import errno
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from apps import refusal, run_app
from runs import assert_same_weights, contents, finished_run, tiny_config, weights
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from alexnet_jax import experiment, parallel, workdir
from alexnet_jax.convert import OUT_OF_A_RUN, convert
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.train import train
from alexnet_jax.weights import torch_file


def test_names_shapes_and_types_are_as_promised(tmp_path):
    file = tmp_path / "new" / "weights.safetensors"
    convert(finished_run(), file)
    tensors = load_file(file)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "conv1.kernel": (11, 11, 3, 8), "conv1.bias": (8,),
        "conv2.kernel": (5, 5, 4, 8), "conv2.bias": (8,),  # channels of one tower
        "conv3.kernel": (3, 3, 8, 8), "conv3.bias": (8,),
        "conv4.kernel": (3, 3, 4, 8), "conv4.bias": (8,),
        "conv5.kernel": (3, 3, 4, 8), "conv5.bias": (8,),
        "fc6.kernel": (8, 16), "fc6.bias": (16,),
        "fc7.kernel": (16, 16), "fc7.bias": (16,),
        "fc8.kernel": (16, 10), "fc8.bias": (10,),
    }  # fmt: skip
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}
    with pytest.raises(InputError, match=r"--destination=.*: exists already"):
        convert(finished_run(), file)
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_there_and_back_changes_no_bit_and_answers_alike(tmp_path):
    file, copy = tmp_path / "weights.safetensors", tmp_path / "copy"
    convert(finished_run(), file)
    convert(file, copy)
    assert_same_weights(copy, finished_run())
    config = tiny_config()
    assert evaluate([copy], config) == evaluate([finished_run()], config)
    for name in ("classes.txt", "statistics.npz"):
        assert (copy / name).read_bytes() == (finished_run() / name).read_bytes()
    before = contents(copy)
    with pytest.raises(InputError, match="holds checkpoints already"):
        convert(file, copy)
    assert contents(copy) == before


def test_a_convert_into_a_run_that_failed_is_completed_by_the_same_command(
    tmp_path, monkeypatch
):
    file, made = tmp_path / "weights.safetensors", tmp_path / "made"
    convert(finished_run(), file)
    with monkeypatch.context() as patch:
        patch.setattr("alexnet_jax.convert._untrained", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert(file, made)
    convert(file, made)
    expected = {"checkpoints", "classes.txt", "config.json", "statistics.npz", ".lock"}
    assert {path.name for path in made.iterdir()} == expected
    with pytest.raises(InputError, match="holds checkpoints already"):
        convert(file, made)


def test_weights_from_elsewhere_need_a_config_and_train_on(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {name: weight.shape for name, weight in weights(finished_run()).items()}
    tensors = {n: rng.normal(0, 0.1, s).astype("float32") for n, s in shapes.items()}
    file, folder = tmp_path / "theirs.safetensors", tmp_path / "run"
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"add --config=configs/X\.py"):
        convert(file, folder)
    assert not folder.exists()

    config = tiny_config({"optimizer.schedule": "plateau", "steps": 0, "epochs": 0.3})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "config.json").write_text("somebody's")
    with pytest.raises(InputError, match=r"has a config.json already"):
        convert(file, tmp_path / "taken", config)
    assert (tmp_path / "taken" / "config.json").read_text() == "somebody's"
    convert(file, folder, config)
    for name, weight in weights_alone(folder).items():
        np.testing.assert_array_equal(weight, tensors[name])
    with pytest.raises(InputError, match=r"classes.txt: no such file; .* write it"):
        evaluate([folder])
    for name in ("classes.txt", "statistics.npz"):
        shutil.copy(finished_run() / name, folder)
    train(config, folder)
    trained = weights(folder)
    assert any((trained[name] != tensors[name]).any() for name in tensors)
    assert all(np.abs(trained[name] - tensors[name]).max() < 0.1 for name in tensors)


def weights_alone(folder):
    """Of a work directory that has nothing but weights and a config."""
    config = workdir.read_config(folder)
    mesh = parallel.make_mesh(1, 1, 2, 1)
    elsewhere = folder.parent / "completed"
    shutil.copytree(folder, elsewhere)
    for name in ("classes.txt", "statistics.npz"):
        shutil.copy(finished_run() / name, elsewhere)
    model, _ = workdir.load_model(elsewhere, config, mesh, views=1)
    return {
        f"{la}.{n}": p for la, both in model.params.items() for n, p in both.items()
    }


def test_what_does_not_fit_is_refused_and_nothing_made(tmp_path):
    tensors, folder = weights(finished_run()), tmp_path / "run"
    file = tmp_path / "wrong.safetensors"

    def refused(tensors, match, metadata=None, config=None):
        save_file(tensors, file, metadata)
        with pytest.raises(InputError, match=match):
            convert(file, folder, config)
        assert not folder.exists()

    own = tiny_config()
    less = {name: t for name, t in tensors.items() if name != "fc7.bias"}
    refused(less, r"fc7.bias is absent there and \(16,\)", config=own)
    refused(
        {**less, "fc9": np.zeros(2)},
        r"fc7.bias is absent .*; fc9 is \(2,\) there and absent in the config's net",
        config=own,
    )
    wider = {**tensors, "conv2.kernel": np.zeros((5, 5, 8, 8), "f4")}
    refused(wider, r"conv2.kernel is \(5, 5, 8, 8\) there", config=own)
    bias = tensors["fc7.bias"]
    refused({**tensors, "fc7.bias": bias * np.nan}, "fc7.bias is not fin", config=own)
    refused({**tensors, "fc7.bias": bias.astype("i1")}, "fc7.bias is of", config=own)
    refused(tensors, "damaged metadata", {"config.json": "%%%"})
    refused(tensors, "not the JSON of a", {"config.json": "Z2FyYmFnZQ=="})
    file.write_bytes(b"rubbish")
    with pytest.raises(InputError, match=r"wrong.safetensors: cannot be read"):
        convert(file, folder)


def test_classes_that_do_not_fit_the_weights_are_refused(tmp_path):
    file, folder = tmp_path / "weights.safetensors", tmp_path / "run"
    convert(finished_run(), file)
    with safe_open(file, "numpy") as opened:
        metadata = opened.metadata()
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    with pytest.raises(InputError, match=r"--classes=.*: .* names its classes; leave"):
        convert(file, folder, classes=names)
    two = {**metadata, "classes.txt": base64.b64encode(names.read_bytes()).decode()}
    save_file(load_file(file), file, two)
    with pytest.raises(
        InputError, match=r"names 2 classes, and the weights are for 10"
    ):
        convert(file, folder)
    save_file(load_file(file), file)
    with pytest.raises(
        InputError, match=r"--classes=.*no.txt: cannot be read: No such"
    ):
        convert(file, folder, tiny_config(), classes=tmp_path / "no.txt")
    assert not folder.exists()


def test_classes_as_editors_on_windows_write_them(tmp_path):
    file, names = tmp_path / "weights.safetensors", tmp_path / "names.txt"
    convert(finished_run(), file)
    save_file(load_file(file), file)  # without its classes
    classes = [f"class {label}" for label in range(10)]
    names.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*classes, ""]).encode())
    convert(file, tmp_path / "run", tiny_config(), classes=names)
    kept = (tmp_path / "run" / "classes.txt").read_bytes().decode()
    assert kept == "".join(f"{name}\n" for name in classes)


def test_reading_weights_builds_no_training_program(tmp_path, monkeypatch):
    file, compiled = tmp_path / "weights.safetensors", []
    convert(finished_run(), file)

    def note(event, seconds, **details):
        if event.startswith("/jax/core/compile/"):
            compiled.append(details["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    jax.clear_caches()
    for builder in ("make_program", "make_probabilities"):
        monkeypatch.delattr(experiment, builder)
    convert(file, tmp_path / "copy")
    # Neither a network nor a step: the sums with which a checkpoint is checked.
    assert {name.removeprefix("jit(").rstrip(")") for name in compiled} == {
        "_all_finite"
    }


@pytest.mark.parametrize("ending", OUT_OF_A_RUN)
def test_what_cannot_be_written_is_one_line(tmp_path, ending):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"--destination=.*: cannot be written: (Not a d|File ex)"
    ):
        convert(finished_run(), tmp_path / "file" / f"x{ending}")
    (tmp_path / f"x{ending}").write_text("mine")
    with pytest.raises(InputError, match=r"exists already"):
        convert(finished_run(), tmp_path / f"x{ending}")
    assert contents(tmp_path) == {"file": b"", f"x{ending}": b"mine"}


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch_file, "write", full)
    with pytest.raises(InputError, match=r"x\.pth: cannot be written: No space left"):
        convert(finished_run(), tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "ending"), [("torch", ".pth"), ("onnx", ".onnx")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, module, ending):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'alexnet_jax\[{module}\]'"):
        convert(finished_run(), tmp_path / f"x{ending}")
    assert not list(tmp_path.iterdir())


def test_flags_that_say_nothing_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"--mean=m.npy: goes with a --source=\*.caffe"
    ):
        convert(tmp_path / "x.pth", tmp_path / "run", mean=Path("m.npy"))
    with pytest.raises(InputError, match="leave out --config and --classes"):
        convert(finished_run(), tmp_path / "x.pth", tiny_config())


def test_the_command(tmp_path):
    file = tmp_path / "w.safetensors"
    both = (f"--source={finished_run()}", f"--destination={file}")
    answer = run_app("convert", *both)
    assert (answer.status, answer.out) == (0, f"{finished_run()} → {file}\n")
    assert "exists already" in refusal("convert", *both)
    assert "one must be a work directory" in refusal(
        "convert", f"--source={tmp_path}", f"--destination={tmp_path}/b"
    )
    assert "--destination, --source: must be given" in refusal("convert")
    missing = refusal(
        "convert", "--source=/no.safetensors", f"--destination={tmp_path}"
    )
    assert "--source=/no.safetensors: cannot be read" in missing
