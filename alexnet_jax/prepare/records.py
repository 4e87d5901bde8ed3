"""A prepared picture as a record: a tf.Example that TFDS and grain read.

'jpeg' stores quality 95 with colours at half the resolution (4:2:0, as nearly all of
ImageNet has them): 32 kB a picture of 256 pixels. A JPEG that already has the size is
kept byte for byte. 'raw' stores the pixels themselves, 197 kB.
"""

import io
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.data.images import StoredImage
from alexnet_jax.data.preprocess import Square

ENCODINGS = ("jpeg", "raw")
QUALITY = 95
SUBSAMPLING = 2  # 4:2:0
OVERHEAD = 150  # bytes of a record beside its picture, at most
ORIENTATION = 0x0112  # in EXIF


def encode(
    record: tuple[str, StoredImage, int], size: int, encoding: str
) -> tuple[bytes, np.ndarray]:
    """Bring a picture to its square and encode it.

    Args:
        record: name, image file or pixels, label.
        size: side of the square in pixels.
        encoding: one of ENCODINGS.

    Returns:
        The bytes to store, and the size×size×3 uint8 pixels that a reader gets from
        them.

    Raises:
        PictureError: the picture cannot be decoded.
    """
    square = Square(size)
    seen = square.pixels(record)
    if encoding == "raw":
        return seen.tobytes(), seen
    name, image, label = record
    if isinstance(image, bytes) and _is_such_a_jpeg(image, size):
        return image, seen
    file = io.BytesIO()
    Image.fromarray(seen).save(file, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return file.getvalue(), square.pixels((name, file.getvalue(), label))


def _is_such_a_jpeg(data: bytes, size: int) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return (image.format, image.mode, image.size) == (
            "JPEG",
            "RGB",
            (size, size),
        ) and image.getexif().get(ORIENTATION, 1) == 1


def example(image: bytes, label: int, file_name: str) -> bytes:
    """The tf.Example of a picture; the same bytes in every process."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    def of_bytes(value: bytes) -> Any:
        values = tf_feature_pb2.BytesList(value=[value])
        return tf_feature_pb2.Feature(bytes_list=values)

    labels = tf_feature_pb2.Int64List(value=[label])
    features = tf_feature_pb2.Features(
        feature={
            "image": of_bytes(image),
            "label": tf_feature_pb2.Feature(int64_list=labels),
            "file_name": of_bytes(file_name.encode("utf-8", "surrogateescape")),
        }
    )
    return tf_example_pb2.Example(features=features).SerializeToString(
        deterministic=True
    )


def features(encoding: str, size: int, classes: tuple[str, ...]) -> Any:
    """What TFDS must know of the records, to read them."""
    import tensorflow_datasets as tfds

    shape = (size, size, 3)
    if encoding == "jpeg":
        image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    else:
        plain = tfds.features.Encoding.BYTES
        image = tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding=plain)
    return tfds.features.FeaturesDict({
        "image": image,
        "label": tfds.features.ClassLabel(names=list(classes)),
        "file_name": tfds.features.Text(),
    })  # fmt: skip
