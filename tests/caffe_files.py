"""Caffe's two networks as files of Caffe's: deploy.prototxt, weights, mean image."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.weights.caffe import messages

TYPES = {"conv": 4, "fc": 14, "norm": 15, "pool": 17, "relu": 18, "drop": 6}  # of V1


class Sizes(NamedTuple):
    kernels: tuple[int, ...] = (96, 256, 384, 384, 256)
    units: tuple[int, ...] = (4096, 4096)
    classes: int = 1000
    crop: int = 227
    image_size: int = 256
    last: float = 0.03  # makes fc8's logits differ by a few nats, not by hundreds

    def config(self) -> dict:
        """The same, for a config."""
        return {
            "network.kernels": self.kernels,
            "network.units": self.units,
            "augment.crop": self.crop,
            "augment.offsets": 1,
            "dataset.image_size": self.image_size,
        }


SMALL = Sizes((8, 16, 24, 24, 16), (32, 24), 12, 99, 104)


def layers(kind: str, sizes: Sizes) -> list[tuple[str, str]]:
    """(name, parameters) of each layer in BVLC/caffe's models/KIND/deploy.prototxt."""
    convs = [
        "kernel_size: 11 stride: 4",
        "pad: 2 kernel_size: 5 group: 2",
        "pad: 1 kernel_size: 3",
        "pad: 1 kernel_size: 3 group: 2",
        "pad: 1 kernel_size: 3 group: 2",
    ]
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
    norm = "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"
    result = []
    for i, (maps, how) in enumerate(zip(sizes.kernels, convs, strict=True), 1):
        result.append((f"conv{i}", f"convolution_param {{ num_output: {maps} {how} }}"))
        result.append((f"relu{i}", ""))
        if i in (1, 2):
            both = [(f"norm{i}", norm), (f"pool{i}", pool)]
            result += both if kind == "bvlc_alexnet" else both[::-1]
    result.append(("pool5", pool))
    for i, units in enumerate((*sizes.units, sizes.classes), 6):
        param = f"inner_product_param {{ num_output: {units} }}"
        result.append((f"fc{i}", param))
        if i < 8:
            result.append((f"relu{i}", ""))
            result.append((f"drop{i}", "dropout_param { dropout_ratio: 0.5 }"))
    return result


def prototxt(kind: str, sizes: Sizes) -> str:
    types = {
        "conv": "Convolution", "fc": "InnerProduct", "norm": "LRN", "pool": "Pooling",
        "relu": "ReLU", "drop": "Dropout",
    }  # fmt: skip
    lines = [
        f'name: "{kind}"',
        'input: "data"',
        f"input_shape {{ dim: 1 dim: 3 dim: {sizes.crop} dim: {sizes.crop} }}",
    ]
    bottom = "data"
    for name, parameters in layers(kind, sizes):
        of = types[name.rstrip("0123456789")]
        in_place = of in ("ReLU", "Dropout")
        top = bottom if in_place else name
        lines.append(
            f'layer {{ name: "{name}" type: "{of}" bottom: "{bottom}" top: "{top}" '
            f"{parameters} }}"
        )
        bottom = top
    lines.append(
        f'layer {{ name: "prob" type: "Softmax" bottom: "{bottom}" top: "p" }}'
    )
    return "\n".join(lines)


def random_weights(kind: str, sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights that keep the signal's size, so that answers differ; outputs first."""
    rng = np.random.default_rng(seed)
    kernels, pooled = sizes.kernels, (((sizes.crop - 11) // 4 + 1 - 3) // 2 + 1)
    pooled = ((pooled - 3) // 2 + 1 - 3) // 2 + 1
    inputs = (3, kernels[0] // 2, kernels[1], kernels[2] // 2, kernels[3] // 2)
    shapes = {
        f"conv{i}": (maps, channels, side, side)
        for i, maps, channels, side in zip(
            range(1, 6), kernels, inputs, (11, 5, 3, 3, 3), strict=True
        )
    }
    widths = (kernels[-1] * pooled**2, *sizes.units, sizes.classes)
    shapes |= {f"fc{i}": (widths[i - 5], widths[i - 6]) for i in (6, 7, 8)}
    tensors = {}
    for name, shape in shapes.items():
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        if name == "fc8":
            deviation *= sizes.last
        made = rng.standard_normal(shape, np.float32) * np.float32(deviation)
        tensors[f"{name}.weight"] = made
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, shape[0]).astype("f4")
    return tensors


def write_caffemodel(
    path: Path, kind: str, sizes: Sizes, weights: dict, generation: int = 2
) -> Path:
    """The file as a trained net's ToProto writes it, with all layers."""
    known = messages()
    net = known["NetParameter"](name=kind)
    for name, _ in layers(kind, sizes):
        of = name.rstrip("0123456789")
        if generation == 2:
            types = {"norm": "LRN", "pool": "Pooling"}
            layer = net.layer.add(name=name, type=types.get(of, of))
        else:
            layer = net.layers.add(name=name, type=TYPES[of])
        if f"{name}.weight" not in weights:
            continue
        for tensor in (weights[f"{name}.weight"], weights[f"{name}.bias"]):
            blob = layer.blobs.add(data=tensor.astype("<f4").tobytes())
            if generation == 2:
                blob.shape.dim.extend(tensor.shape)
            else:
                legacy = (1,) * (4 - tensor.ndim) + tensor.shape
                blob.num, blob.channels, blob.height, blob.width = legacy
    path.write_bytes(net.SerializeToString())
    return path


def mean_image(sizes: Sizes) -> np.ndarray:
    """float32 (3, S, S), BGR, another colour and another slope for each channel."""
    y, x = np.mgrid[: sizes.image_size, : sizes.image_size] / sizes.image_size
    planes = [104 + 8 * y, 117 - 5 * x, 123 + 6 * x * y]
    return np.stack(planes).astype("f4")


def write_mean(path: Path, mean: np.ndarray) -> Path:
    """*.npy, or *.binaryproto as Caffe's compute_image_mean writes it."""
    if path.suffix == ".npy":
        np.save(path, mean)
        return path
    blob = messages()["BlobProto"](data=mean.astype("<f4").tobytes())
    blob.num, blob.channels, blob.height, blob.width = (1, *mean.shape)
    path.write_bytes(blob.SerializeToString())
    return path
