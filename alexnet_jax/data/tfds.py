"""Images in ArrayRecord files that TFDS describes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.data.images import Record
from alexnet_jax.data.prepared import AGAIN
from alexnet_jax.errors import InputError, NotInstalledError

WANTED = "give a folder that `python -m alexnet_jax.prepare` or TFDS wrote"


class Tfds:
    """One split of a TFDS image classification data set in ArrayRecord files.

    TensorFlow is not needed. Images are read as stored: TFDS would decode them with
    whichever library is installed, and more slowly.
    """

    def __init__(self, split: str, key: str, *, name: str = "", directory: str = ""):
        """Open the split of a data set under TFDS_DATA_DIR, or of a folder.

        Args:
            split: such as 'train' or 'train[:10%]'. In a folder without 'validation',
                that means 'test' or the only split.
            key: the config key or flag that named it, for messages.
            name: of the data set, such as 'imagenet2012' or 'cifar10:3.0.2'; or
            directory: the folder, with its dataset_info.json.
        """
        if directory:
            given = f"{key}={directory!r}"
            prepare = f"{WANTED} ({key})"
        else:
            given = f"dataset.tfds_name={name!r}, {key}={split!r}"
            prepare = f"prepare it once: `tfds build {name} --file_format=array_record`"
        tfds = library(given)
        try:
            if directory:
                builder = tfds.builder_from_directory(directory)
            else:
                builder = tfds.builder(name, file_format="array_record")
            splits = list(builder.info.splits)
            if not splits:
                raise InputError(f"{given}: not in {builder.data_dir}; {prepare}")
            if directory and split == "validation" and split not in splits:
                split = splits[0] if len(splits) == 1 else "test"
            features = builder.info.features
            self._image = _image(features, given)
            self._label = _only(features, tfds.features.ClassLabel, given)
            self._pixels = None  # the shape, where pixels are stored
            if not isinstance(features[self._image], tfds.features.Image):
                self._pixels = features[self._image].shape
            undecoded = tfds.decode.DeserializeMethod.RAW_BYTES
            self._records = builder.as_data_source(split, deserialize_method=undecoded)
            self._files = [
                (instruction.take, instruction.filename)
                for instruction in builder.info.splits[split].file_instructions
            ]
        except InputError:
            raise
        except Exception as error:  # TFDS raises many kinds, most with a page of advice
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{given}: {reason}; {prepare}") from None
        self.classes = tuple(features[self._label].names)
        self.names: Sequence[str] = ()
        self.folder = str(builder.data_path)
        self._split, self._given = split, given

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            example = tf_example_pb2.Example.FromString(self._records[i])
            stored = example.features.feature
            image: bytes | np.ndarray = stored[self._image].bytes_list.value[0]
            if self._pixels:
                image = np.frombuffer(image, np.uint8).reshape(self._pixels)
            label = stored[self._label].int64_list.value[0]
        except Exception as error:  # a damaged file raises many kinds
            reason = str(error).split(";")[0]
            raise InputError(
                f"{self._file_of(i)}: damaged ({reason}); if `prepare` wrote it, "
                f"{AGAIN}"
            ) from None
        return Record(f"{self._split}[{i}]", image, label)

    def labelled(self) -> "Tfds":
        """This source, unless its labels are missing, as in imagenet2012's 'test'."""
        if len(self) and self[0].label < 0:
            raise InputError(
                f"{self._given}: the split {self._split!r} has no labels; name another"
            )
        return self

    def _file_of(self, i: int) -> str:
        for records, file in self._files:
            if i < records:
                return file
            i -= records
        raise IndexError(i)


def library(needed_by: str) -> Any:
    """tensorflow_datasets, an extra, imported here: it takes half a second.

    `needed_by` is for the message where it is absent.
    """
    try:
        import tensorflow_datasets
    except ModuleNotFoundError:
        raise NotInstalledError(needed_by, "tfds") from None
    return tensorflow_datasets


def splits_in(directory: str, key: str) -> list[str]:
    """The names of the splits in the folder of a data set."""
    tfds = library(f"{key}={directory!r}")
    try:
        return list(tfds.builder_from_directory(directory).info.splits)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{key}={directory!r}: {reason}; {WANTED}") from None


def _image(features: Any, given: str) -> str:
    """The name of the image feature, or of the pixels of `prepare --encoding=raw`."""
    tfds = library(given)
    pixels = [
        name
        for name, feature in features.items()
        if type(feature) is tfds.features.Tensor
        and feature.np_dtype == np.uint8
        and feature.shape[2:] == (3,)
    ]
    if len(pixels) == 1:
        return pixels[0]
    return _only(features, tfds.features.Image, given)


def _only(features: Any, kind: type, given: str) -> str:
    """The name of the only feature of a kind."""
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(names) != 1:
        raise InputError(
            f"{given}: has {len(names)} {kind.__name__} features among "
            f"{sorted(features)}; it must have one image and one label"
        )
    return names[0]
