"""A network as an ONNX graph, written with the `onnx` package, the 'onnx' extra.

The graph is in ONNX's own operators, a few for each stage. Converters of JAX programs
were tried: jax2onnx 0.13 cannot pad arrays whose batch size is left open.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import NotInstalledError
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.network.convolutions import grid_margins
from alexnet_jax.network.shapes import Stage, stages
from alexnet_jax.weights.layout import Tensors

OPSET = 17  # of 2022: any ONNX Runtime from 1.12 runs it
UNITS: dict[str, tuple[str, ...]] = {
    "relu": ("Relu",),
    "tanh": ("Tanh",),
    "logistic": ("Sigmoid",),
    "abs_tanh": ("Tanh", "Abs"),
}


class Graph:
    """Nodes and constants, of which each name is that of its result."""

    def __init__(self):
        try:
            from onnx import TensorProto, helper, numpy_helper
        except ImportError:
            raise NotInstalledError("--destination: *.onnx", "onnx") from None
        self.helper, self.from_array = helper, numpy_helper.from_array
        self.types = TensorProto
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.at = ""  # the stage that is being added

    def add(
        self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any
    ) -> Any:
        """Add a node; the name of its result, or of its results."""
        stem = f"{self.at}/{operator}_{len(self.nodes)}"
        names = [f"{stem}_{i}" for i in range(outputs)] if outputs > 1 else [stem]
        node = self.helper.make_node(operator, inputs, names, name=stem, **attributes)
        self.nodes.append(node)
        return names if outputs > 1 else stem

    def constant(self, array: Any, name: str = "") -> str:
        """Add a constant; Python's whole numbers become int64, as shapes are."""
        array = np.asarray(array)
        name = name or f"{self.at}/constant_{len(self.constants)}"
        self.constants.append(self.from_array(array, name))
        return name

    def split(self, x: str, parts: int, length: int, axis: int = 1) -> Sequence[str]:
        """`parts` equal parts along an axis of `length`."""
        if parts == 1:
            return [x]
        lengths = self.constant([length // parts] * parts)
        return self.add("Split", x, lengths, outputs=parts, axis=axis)

    def join(self, parts: Sequence[str]) -> str:
        """The inverse of `split`."""
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=1)


def write(
    file: Path,
    tensors: Tensors,
    network: AlexNet,
    mean_image: np.ndarray,
    crop: int,
    classes: Sequence[str],
) -> None:
    """Write the graph: 'images' uint8 (N, S, S, 3) → 'probabilities' (N, classes).

    It takes the centre view, subtracts the mean image and ends with the softmax. N is
    open. The class names are in its metadata, under 'classes', as JSON.

    Args:
        file: to write.
        tensors: float32, outputs first.
        network: only its fields are read.
        mean_image: float32 (S, S, 3), RGB.
        crop: side of the view.
        classes: names in label order.
    """
    graph = Graph()
    x = _centre_view(graph, mean_image, crop)
    for stage in stages(network, crop):
        graph.at = stage.label.replace(" ", "_")
        x = _stage(graph, x, stage, network, tensors)
    graph.nodes[-1].output[0] = "logits"
    last = graph.helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1)
    graph.nodes.append(last)

    helper, types, size = graph.helper, graph.types, len(mean_image)
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        graph.nodes,
        "alexnet_jax",
        [value("images", types.UINT8, ("N", size, size, 3))],
        [value("probabilities", types.FLOAT, ("N", len(classes)))],
        graph.constants,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(made, opset_imports=[opset], ir_version=8)
    helper.set_model_props(model, {"classes": json.dumps(list(classes))})
    with file.open("wb") as opened:
        opened.write(model.SerializeToString())


def _centre_view(graph: Graph, mean_image: np.ndarray, crop: int) -> str:
    graph.at = "pixels"
    margin = (len(mean_image) - crop) // 2
    centre = slice(margin, margin + crop)
    corner = graph.constant([margin] * 2), graph.constant([margin + crop] * 2)
    x = graph.add("Slice", "images", *corner, graph.constant([1, 2]))
    x = graph.add("Cast", x, to=graph.types.FLOAT)
    x = graph.add("Sub", x, graph.constant(mean_image[centre, centre]))
    return graph.add("Transpose", x, perm=(0, 3, 1, 2))


def _stage(
    graph: Graph, x: str, stage: Stage, network: AlexNet, tensors: Tensors
) -> str:
    match stage.name:
        case unit if unit in UNITS:
            for operator in UNITS[unit]:
                x = graph.add(operator, x)
            return x
        case "normalise":
            return _across_maps(graph, x, stage, network)
        case "normalise_within_maps":
            return _within_maps(graph, x, network)
        case "pool" | "average_pool":
            return _pool(graph, x, stage, network)
        case "dropout":
            return graph.add("Mul", x, graph.constant(np.float32(1 - network.dropout)))
        case "inverted_dropout" | "batch_normalise":  # see layout.with_outputs_first
            return x
    weight = tensors[f"{stage.name}.weight"]
    bias = graph.constant(tensors[f"{stage.name}.bias"], f"{stage.name}.bias")
    if stage.local:
        return _local(graph, x, stage, weight, bias)
    weights = graph.constant(weight, f"{stage.name}.weight")
    if len(stage.output) == 3:
        grid = _grid(stage.input, stage.size, stage.stride, stage.padding)
        return graph.add("Conv", x, weights, bias, group=stage.groups, **grid)
    if len(stage.input) == 3:
        x = graph.add("Flatten", x)
    parts = graph.split(x, stage.groups, weight.shape[1] * stage.groups)
    kernels = graph.split(weights, stage.groups, len(weight), axis=0)
    products = [
        graph.add("Gemm", own, kernel, transB=1)
        for own, kernel in zip(parts, kernels, strict=True)
    ]
    return graph.add("Add", graph.join(products), bias)


def _grid(maps: tuple[int, ...], size: int, stride: int, padding: Any) -> dict:
    """Attributes of a window that moves over maps (H, W, C) and covers them."""
    height, width = grid_margins(maps[:2], (size, size), stride, padding)
    pads = (height[0], width[0], height[1], width[1])
    return {"kernel_shape": (size,) * 2, "strides": (stride,) * 2, "pads": pads}


def _across_maps(graph: Graph, x: str, stage: Stage, network: AlexNet) -> str:
    ranges = 1 if network.response_range == "layer" else network.towers
    depth = network.response_depth
    constants: dict[str, Any] = {
        "size": depth,
        "alpha": network.response_alpha * depth,  # ONNX divides the sum by its depth
        "beta": network.response_beta,
        "bias": network.response_k,
    }
    parts = graph.split(x, ranges, stage.input[-1])
    return graph.join([graph.add("LRN", part, **constants) for part in parts])


def _within_maps(graph: Graph, x: str, network: AlexNet) -> str:
    size = network.spatial_size
    mean = graph.add(
        "AveragePool",
        graph.add("Mul", x, x),
        kernel_shape=(size, size),
        pads=(size // 2,) * 4,
        count_include_pad=1,
    )
    factor = graph.constant(np.float32(network.spatial_alpha * size**2))
    sums = graph.add("Mul", mean, factor)
    denominator = graph.add("Add", sums, graph.constant(np.float32(1)))
    power = graph.add("Pow", denominator, graph.constant(np.float32(-0.75)))
    return graph.add("Mul", x, power)


def _pool(graph: Graph, x: str, stage: Stage, network: AlexNet) -> str:
    operator = "MaxPool" if stage.name == "pool" else "AveragePool"
    grid = _grid(stage.input, network.pool_size, network.pool_stride, 0)
    return graph.add(operator, x, **grid)  # pixels beyond the edge do not count


def _local(graph: Graph, x: str, stage: Stage, weight: np.ndarray, bias: str) -> str:
    """A convolution cuts out the patches, which a product reads."""
    rows, columns, inputs, outputs = weight.shape
    size, groups, channels = stage.size, stage.groups, inputs // stage.size**2
    cut = np.eye(inputs, dtype=np.float32).reshape(inputs, size, size, channels)
    kernel = np.tile(cut.transpose(0, 3, 1, 2), (groups, 1, 1, 1))
    grid = _grid(stage.input, size, stage.stride, stage.padding)
    x = graph.add("Conv", x, graph.constant(kernel), group=groups, **grid)
    x = graph.add("Transpose", x, perm=(0, 2, 3, 1))
    patches = graph.constant([0, rows * columns, groups, 1, inputs])
    by_group = weight.reshape(rows * columns, inputs, groups, -1).transpose(0, 2, 1, 3)
    kernels = graph.constant(by_group.copy(), f"{stage.name}.weight")
    x = graph.add("MatMul", graph.add("Reshape", x, patches), kernels)
    x = graph.add("Reshape", x, graph.constant([0, rows, columns, outputs]))
    return graph.add("Transpose", graph.add("Add", x, bias), perm=(0, 3, 1, 2))
