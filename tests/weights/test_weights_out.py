"""Every network in PyTorch, ONNX Runtime and jax.export: the same probabilities."""

import json

import jax
import numpy as np
import pytest
import torch
from asked import answers, assert_agree, assert_varied, drawings, photographs
from caffe_files import Sizes, random_weights, write_caffemodel, write_mean
from caffe_files import mean_image as caffe_mean
from networks import CHANGES, IMAGES, MARGIN, NETWORKS, mean_image, small_config
from networks import small_network as network_of

from alexnet_jax.convert import convert
from alexnet_jax.network.shapes import stages
from alexnet_jax.weights import jax_export, onnx_file, torch_file, torch_module
from alexnet_jax.weights.layout import inputs_first, outputs_first, with_outputs_first

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
every = pytest.mark.parametrize("name", [*NETWORKS, *CHANGES])


@every
def test_pytorch_answers_alike(name, tmp_path):
    network, side, params, ours = network_of(name)
    assert_varied(ours)
    file, size = tmp_path / "x.pth", side + MARGIN
    tensors = with_outputs_first(params, network, side)
    torch_file.write(file, tensors, mean_image(size))
    config = json.loads(small_config(name).to_json_best_effort())
    state = torch.load(file, weights_only=True)
    module = torch_module.make_module(state, config["network"], side).eval()
    assert module.state_dict().keys() == state.keys()
    images = torch.tensor(drawings(IMAGES, size)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        theirs = module(images).softmax(1).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)


@every
def test_onnx_runtime_answers_alike(name, tmp_path):
    network, side, params, ours = network_of(name)
    file, size = tmp_path / "x.onnx", side + MARGIN
    tensors = with_outputs_first(params, network, side)
    names = [f"class {label}" for label in range(ours.shape[1])]
    onnx_file.write(file, tensors, network, mean_image(size), side, names)
    onnx.checker.check_model(file, full_check=True)
    session = onnxruntime.InferenceSession(file)
    images = drawings(IMAGES, size)
    for some in (images, images[:1]):  # of any number
        (theirs,) = session.run(["probabilities"], {"images": some})
        np.testing.assert_allclose(theirs, ours[: len(some)], rtol=0, atol=1e-4)
    carried = session.get_modelmeta().custom_metadata_map
    assert json.loads(carried["classes"]) == names


def test_the_module_drops_units_in_training_as_section_4_2_says():
    units, dropout = torch.ones(2, 1000), torch_module.Dropout(0.25)
    dropped = dropout.train()(units)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < (dropped == 0).float().mean() < 0.3
    assert (dropout.eval()(units) == 0.75).all()


@every
def test_layouts_are_inverse(name):
    network, side, params, _ = network_of(name)
    for stage in stages(network, side):
        if stage.kernel:
            kernel = params[f"{stage.name}.kernel"]
            there = outputs_first(kernel, stage)
            np.testing.assert_array_equal(inputs_first(there, stage), kernel)


def test_jax_export_answers_alike(tmp_path):
    network, side, params, ours = network_of("2012 code")
    file, size = tmp_path / "x.jax_export", side + MARGIN
    jax_export.write(file, params, network, mean_image(size), side)
    program = jax.export.deserialize(bytearray(file.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    images = drawings(IMAGES, size)
    for some in (images, images[:1]):  # of any number
        theirs = program.call(some)
        np.testing.assert_allclose(theirs, ours[: len(some)], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_full_size_answers_alike_in_every_format(tmp_path, shared_data):
    kind, sizes, images = "caffenet", Sizes(), photographs(shared_data, 8)
    source, mean = tmp_path / "x.caffemodel", tmp_path / "mean.npy"
    write_caffemodel(source, kind, sizes, random_weights(kind, sizes))
    convert(source, tmp_path / "run", mean=write_mean(mean, caffe_mean(sizes)))
    ours = answers(tmp_path / "run", images)
    assert_varied(ours)

    def file(ending):
        convert(tmp_path / "run", tmp_path / f"x.{ending}")
        return tmp_path / f"x.{ending}"

    def pytorch():
        state = torch.load(file("pth"), weights_only=True)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        network, crop = config["network"], config["augment"]["crop"]
        module = torch_module.make_module(state, network, crop).eval()
        with torch.inference_mode():
            return module(torch.tensor(images).permute(0, 3, 1, 2)).softmax(1).numpy()

    def runtime():
        session = onnxruntime.InferenceSession(file("onnx"))
        return session.run(["probabilities"], {"images": images})[0]

    def exported():
        data = bytearray(file("jax_export").read_bytes())
        return jax.export.deserialize(data).call(images)

    assert_agree("caffenet out, .pth in PyTorch", ours, pytorch())
    assert_agree("caffenet out, .onnx in ONNX Runtime", ours, runtime())
    assert_agree("caffenet out, .jax_export", ours, np.asarray(exported()))
