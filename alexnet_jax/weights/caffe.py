"""Networks and mean images of Caffe: *.caffemodel, *.binaryproto.

They are messages of caffe.proto (BVLC/caffe, src/caffe/proto), of which `SCHEMA` has
the few fields that hold weights. Both generations of layers are found in the wild.
Caffe's images are blue, green, red; what this module returns is red, green, blue.
"""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.data.files import array_of, read_file
from alexnet_jax.errors import InputError
from alexnet_jax.weights.layout import Found, Tensors

# {message: {field: (number, type, repeated)}}. Packed floats are bytes on the wire, and
# are read as such: a list of 60 million Python floats would take 2 GB.
SCHEMA: dict[str, dict[str, tuple[int, str, bool]]] = {
    "BlobShape": {"dim": (1, "int64", True)},
    "BlobProto": {
        "num": (1, "int64", False), "channels": (2, "int64", False),
        "height": (3, "int64", False), "width": (4, "int64", False),
        "data": (5, "bytes", False), "shape": (7, "BlobShape", False),
        "double_data": (8, "bytes", False),
    },
    "V1LayerParameter": {
        "name": (4, "string", False), "type": (5, "int32", False),
        "blobs": (6, "BlobProto", True),
    },
    "LayerParameter": {
        "name": (1, "string", False), "type": (2, "string", False),
        "blobs": (7, "BlobProto", True),
    },
    "NetParameter": {
        "name": (1, "string", False), "layers": (2, "V1LayerParameter", True),
        "layer": (100, "LayerParameter", True),
    },
}  # fmt: skip
# 'type' of a layer, of the second and the first generation.
STAGES = {"LRN": "normalise", 15: "normalise", "Pooling": "pool", 17: "pool"}
NETWORKS: dict[tuple[str, ...], str] = {  # by the first two of those stages
    ("normalise", "pool"): "configs/caffe.py:bvlc_alexnet",
    ("pool", "normalise"): "configs/caffe.py:caffenet",
}


@functools.cache
def messages() -> dict[str, Any]:
    """The classes of `SCHEMA`'s messages, in a pool of their own."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            own = message.field.add(name=field, number=number)
            own.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in SCHEMA:
                own.type, own.type_name = kinds.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                own.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"caffe.{name}")
        )
        for name in SCHEMA
    }


def read(file: Path, mean: Path | None) -> Found:
    """A network, for RGB images.

    Args:
        file: *.caffemodel.
        mean: *.binaryproto or *.npy, for `read_mean`.
    """
    if mean is None:
        raise InputError(
            f"--source={file}: needs the mean image of its training; add --mean=FILE, "
            "such as Caffe's imagenet_mean.binaryproto or ilsvrc_2012_mean.npy"
        )
    network = _parsed("NetParameter", file, "--source")
    tensors: Tensors = {}
    order = []
    for layer in network.layer or network.layers:
        if layer.blobs:
            order.append(f"{layer.name}")  # bytes, where they are no text
            for name, blob in zip(("weight", "bias"), layer.blobs, strict=False):
                key = f"{layer.name}.{name}"
                tensors[key] = _array(blob, f"--source={file}: {key}")
        elif layer.type in STAGES:
            order.append(STAGES[layer.type])
    if not tensors:
        raise InputError(
            f"--source={file}: holds no layer with weights; give the *.caffemodel of a "
            "trained network"
        )
    first = next(iter(tensors))
    if tensors[first].shape[1:2] == (3,):
        tensors[first] = tensors[first][:, ::-1]
    kinds = tuple(name for name in order if name in STAGES.values())
    return Found(
        tensors,
        mean_image=read_mean(mean),
        order=tuple(order),
        config=NETWORKS.get(kinds[:2], ""),
    )


def read_mean(file: Path) -> np.ndarray:
    """A mean image, float32 (S, S, 3) RGB, or a mean colour, (1, 1, 3).

    Args:
        file: *.binaryproto or *.npy, (3, S, S) or (3,), BGR.
    """
    flag = f"--mean={file}"
    if file.suffix == ".npy":
        try:
            array = array_of(read_file(file))
        except (OSError, ValueError) as error:
            raise InputError(f"{flag}: cannot be read ({error})") from None
    else:
        array = _array(_parsed("BlobProto", file, "--mean"), flag)
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.shape == (3,):
        array = array.reshape(3, 1, 1)
    numbers = array.dtype.kind in "fiu" and np.isfinite(array).all()
    if array.ndim != 3 or len(array) != 3 or not numbers:
        raise InputError(
            f"{flag}: is {array.shape}, and must be (3, height, width) or (3,), finite"
        )
    return array[::-1].transpose(1, 2, 0).astype(np.float32)


def _parsed(message: str, file: Path, flag: str) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return messages()[message].FromString(read_file(file))
    except OSError as error:
        raise InputError(f"{flag}={file}: cannot be read ({error})") from None
    except DecodeError:
        raise InputError(
            f"{flag}={file}: is damaged or cut off, or no file of Caffe's; fetch it "
            "again"
        ) from None


def _array(blob: Any, what: str) -> np.ndarray:
    """The numbers of a blob, without the sides of 1 that old files put first."""
    data, kind = blob.double_data or blob.data, "<f8" if blob.double_data else "<f4"
    shape = tuple(blob.shape.dim)
    if not shape:
        shape = blob.num, blob.channels, blob.height, blob.width
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    there = len(data) / np.dtype(kind).itemsize
    if there != math.prod(shape) or min(shape) < 0 or len(shape) > 4:
        raise InputError(
            f"{what}: has {there:g} numbers for the shape {shape}; fetch the file again"
        )
    return np.frombuffer(data, kind).reshape(shape)
