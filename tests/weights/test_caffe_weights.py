"""Caffe's networks against OpenCV, which runs their own files, and against PyTorch."""

import numpy as np
import pytest
import torch
from apps import refusal, run_app
from asked import answers, assert_agree, assert_varied, drawings, photographs
from caffe_files import (
    SMALL,
    Sizes,
    mean_image,
    prototxt,
    random_weights,
    write_caffemodel,
    write_mean,
)
from runs import contents
from torch.nn import functional

from alexnet_jax import workdir
from alexnet_jax.convert import convert
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.weights import caffe
from configs.caffe import get_config

KINDS = ("bvlc_alexnet", "caffenet")
both = pytest.mark.parametrize("kind", KINDS)


def small_config(kind):
    config = get_config(kind)
    config.update_from_flattened_dict(SMALL.config())
    return config


def imported(folder, kind, weights=None, generation=2, mean="mean.binaryproto"):
    """A work directory with the small network of a *.caffemodel."""
    weights = weights or random_weights(kind, SMALL)
    file = write_caffemodel(
        folder / "x.caffemodel", kind, SMALL, weights, generation=generation
    )
    mean = write_mean(folder / mean, mean_image(SMALL))
    convert(file, folder / "run", small_config(kind), mean=mean)
    return folder / "run"


def caffe_input(images, sizes):
    """As Caffe's Python interface feeds its networks: BGR, planes first, mean-free."""
    blob = images[..., ::-1].transpose(0, 3, 1, 2).astype("f4") - mean_image(sizes)
    margin = (sizes.image_size - sizes.crop) // 2
    centre = slice(margin, margin + sizes.crop)
    return np.ascontiguousarray(blob[:, :, centre, centre])


def opencv_answers(folder, kind, sizes, images):
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with the 'peers' extra")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV reads no Caffe files: opencv-python-headless<5 does")
    description = folder / "deploy.prototxt"
    description.write_text(prototxt(kind, sizes))
    net = cv2.dnn.readNetFromCaffe(str(description), str(folder / "x.caffemodel"))
    net.setInput(caffe_input(images, sizes))
    return net.forward()


def pytorch_answers(kind, weights, sizes, images):
    """The network of deploy.prototxt once more, in PyTorch's functions."""
    w = {name: torch.tensor(tensor) for name, tensor in weights.items()}
    x = torch.tensor(caffe_input(images, sizes))

    def both(i):
        return w[f"conv{i}.weight"], w[f"conv{i}.bias"]

    def normalised_and_pooled(x):
        def pool(x):
            return functional.max_pool2d(x, 3, 2)

        def normalise(x):
            return functional.local_response_norm(x, 5, 1e-4, 0.75, 1.0)

        return normalise(pool(x)) if kind == "caffenet" else pool(normalise(x))

    x = normalised_and_pooled(functional.conv2d(x, *both(1), 4).relu())
    x = functional.conv2d(x, *both(2), padding=2, groups=2).relu()
    x = normalised_and_pooled(x)
    x = functional.conv2d(x, *both(3), padding=1).relu()
    x = functional.conv2d(x, *both(4), padding=1, groups=2).relu()
    x = functional.conv2d(x, *both(5), padding=1, groups=2).relu()
    x = functional.max_pool2d(x, 3, 2).flatten(1)
    for i in (6, 7, 8):
        x = functional.linear(x, w[f"fc{i}.weight"], w[f"fc{i}.bias"])
        x = x if i == 8 else x.relu()
    return x.softmax(1).numpy()


@both
@pytest.mark.parametrize("generation", [1, 2])
def test_a_small_network_answers_as_opencv_does(tmp_path, kind, generation):
    images = drawings(4, SMALL.image_size)
    ours = answers(imported(tmp_path, kind, generation=generation), images)
    assert_varied(ours)
    theirs = opencv_answers(tmp_path, kind, SMALL, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@both
def test_a_small_network_answers_as_pytorch_does(tmp_path, kind):
    weights, images = random_weights(kind, SMALL), drawings(4, SMALL.image_size)
    ours = answers(imported(tmp_path, kind, weights), images)
    assert_varied(ours)
    theirs = pytorch_answers(kind, weights, SMALL, images)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.slow
@both
def test_the_full_size_answers_as_opencv_does(tmp_path, shared_data, kind):
    sizes, images = Sizes(), photographs(shared_data, 8)
    file = tmp_path / "x.caffemodel"
    write_caffemodel(file, kind, sizes, random_weights(kind, sizes))
    theirs = opencv_answers(tmp_path, kind, sizes, images)
    mean = write_mean(tmp_path / "mean.npy", mean_image(sizes))
    convert(file, tmp_path / "run", mean=mean)  # which finds its config
    config = workdir.read_config(tmp_path / "run")
    assert config.network.layers == get_config(kind).network.layers
    ours = answers(tmp_path / "run", images)
    assert_varied(ours)
    assert_agree(f"{kind}, OpenCV", ours, theirs)


CHANGES = {
    "colours": ("conv1.weight", lambda w: w[:, ::-1]),
    "towers": ("conv2.weight", lambda w: np.roll(w, len(w) // 2, axis=0)),
    "rows and columns": ("conv3.weight", lambda w: w.transpose(0, 1, 3, 2)),
    "places of fc6": (
        "fc6.weight",
        lambda w: w.reshape(len(w), -1, 4).transpose(0, 2, 1).reshape(w.shape),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_in_another_order_answer_something_else(tmp_path, change):
    weights, images = random_weights("caffenet", SMALL), drawings(4, SMALL.image_size)
    right = pytorch_answers("caffenet", weights, SMALL, images)
    name, permuted = CHANGES[change]
    wrong = {**weights, name: np.ascontiguousarray(permuted(weights[name]))}
    ours = answers(imported(tmp_path, "caffenet", wrong), images)
    assert np.abs(ours - right).max() > 0.01


def test_the_mean_image_is_turned_to_rgb(tmp_path):
    given = mean_image(SMALL)
    for name in ("mean.npy", "mean.binaryproto"):
        folder = tmp_path / name
        folder.mkdir()
        run = imported(folder, "caffenet", mean=name)
        kept = Statistics.load(run / "statistics.npz")
        np.testing.assert_array_equal(
            kept.mean_image, given.transpose(1, 2, 0)[..., ::-1]
        )
        assert not kept.color_stddev.any()
    colour = write_mean(tmp_path / "colour.npy", np.array([104, 117, 123], "f4"))
    np.testing.assert_array_equal(caffe.read_mean(colour), [[[123, 117, 104]]])


def test_doubles_are_read(tmp_path):
    known, numbers = caffe.messages(), np.arange(3 * 2 * 2, dtype="<f8")
    blob = known["BlobProto"](double_data=numbers.tobytes())
    blob.shape.dim.extend((3, 2, 2))
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    mean = caffe.read_mean(tmp_path / "mean.binaryproto")
    np.testing.assert_array_equal(mean[..., ::-1].transpose(2, 0, 1).ravel(), numbers)


def test_classes_are_numbered_or_given(tmp_path):
    run = imported(tmp_path, "caffenet")
    assert workdir.read_classes(run / "classes.txt")[::11] == ["class 00", "class 11"]
    names = tmp_path / "synsets.txt"
    names.write_text("".join(f"n{i}\n" for i in range(12)))
    file, mean = tmp_path / "x.caffemodel", tmp_path / "mean.binaryproto"
    how = {"config": small_config("caffenet"), "mean": mean, "classes": names}
    convert(file, tmp_path / "named", **how)
    assert (tmp_path / "named" / "classes.txt").read_text() == names.read_text()
    names.write_text("cat\ndog\n")
    with pytest.raises(
        InputError, match=r"--classes=.*: names 2 classes, and the weig"
    ):
        convert(file, tmp_path / "other", **how)
    assert not (tmp_path / "other").exists()


def test_all_that_does_not_fit_is_in_one_line(tmp_path):
    weights = random_weights("caffenet", SMALL)
    weights["fc7.weight"] = weights["fc7.weight"][:, 1:]
    del weights["conv4.bias"], weights["conv4.weight"]
    weights["pool5.weight"] = weights["pool5.bias"] = np.zeros(1, "f4")
    with pytest.raises(InputError) as error:
        imported(tmp_path, "caffenet", weights)
    line = str(error.value)
    assert "\n" not in line
    for part in (
        *("conv4.bias is absent there and (24,)", "conv4.weight is absent there"),
        "fc7.weight is (24, 31) there and (24, 32) in the config's network",
        "pool5.weight is (1,) there and absent in",
    ):
        assert part in line
    assert not (tmp_path / "run").exists()


def test_another_order_of_the_layers_is_another_network(tmp_path):
    file = write_caffemodel(
        tmp_path / "x.caffemodel", "caffenet", SMALL, random_weights("caffenet", SMALL)
    )
    mean = write_mean(tmp_path / "mean.npy", mean_image(SMALL))
    with pytest.raises(
        InputError, match=r"its order is conv1 pool normalise conv2 .*, a"
    ):
        convert(file, tmp_path / "run", small_config("bvlc_alexnet"), mean=mean)


def test_bad_files_are_one_line_and_nothing_is_made(tmp_path):
    file, run = tmp_path / "x.caffemodel", tmp_path / "run"
    write_caffemodel(file, "caffenet", SMALL, random_weights("caffenet", SMALL))
    mean = write_mean(tmp_path / "mean.binaryproto", mean_image(SMALL))
    flags = (f"--source={file}", f"--destination={run}", f"--mean={mean}")
    assert "add --mean=FILE" in refusal("convert", *flags[:2])
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "x.caffemodel: is damaged or cut off" in refusal("convert", *flags)
    file.write_bytes(b"")
    assert "holds no layer with weights" in refusal("convert", *flags)
    file.unlink()
    assert "x.caffemodel: cannot be read" in refusal("convert", *flags)
    file.write_bytes(whole)
    mean.write_bytes(mean.read_bytes()[:999])
    assert "mean.binaryproto: is damaged or cut off" in refusal("convert", *flags)
    write_mean(tmp_path / "flat.npy", np.zeros((104, 104), "f4"))
    flat = (*flags[:2], f"--mean={tmp_path}/flat.npy")
    assert "is (104, 104), and must be (3, height, width)" in refusal("convert", *flat)
    write_mean(tmp_path / "wide.npy", np.zeros((3, 99, 104), "f4"))
    with pytest.raises(InputError, match=r"its mean image is \(99, 104, 3\), and must"):
        convert(file, run, small_config("caffenet"), mean=tmp_path / "wide.npy")
    assert not run.exists()


def test_nothing_is_overwritten(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "classes.txt").write_text("mine\n")
    with pytest.raises(InputError, match=r"has a classes.txt already; give another"):
        imported(tmp_path, "caffenet")
    assert contents(run) == {"classes.txt": b"mine\n"}


def test_the_command_with_a_config(tmp_path):
    weights = random_weights("caffenet", SMALL)
    file = write_caffemodel(tmp_path / "x.caffemodel", "caffenet", SMALL, weights)
    mean = write_mean(tmp_path / "mean.npy", mean_image(SMALL))
    keys = [f"--config.{key}={value}" for key, value in SMALL.config().items()]
    answer = run_app(
        "convert",
        *(f"--source={file}", f"--destination={tmp_path}/run", f"--mean={mean}"),
        *("--config=configs/caffe.py:caffenet", *keys),
    )
    assert answer.status == 0, answer
    images = drawings(2, SMALL.image_size)
    theirs = pytorch_answers("caffenet", weights, SMALL, images)
    np.testing.assert_allclose(answers(tmp_path / "run", images), theirs, atol=1e-5)
