"""Pictures in ArrayRecord files with the description that TFDS keeps of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet_jax.data import prepared
from alexnet_jax.data.images import Record
from alexnet_jax.errors import InputError

WANTED = "give a folder that `python -m alexnet_jax.prepare` or TFDS wrote"


class Tfds:
    """One split of an image classification data set of TFDS, kept as ArrayRecord.

    TensorFlow is not needed to read it. The bytes come as they are stored: TFDS would
    decode with whichever library it finds, and take its time for it.
    """

    def __init__(
        self,
        split: str,
        key: str,
        *,
        name: str = "",
        directory: str = "",
        test: bool = False,
    ):
        """Open the split.

        Args:
            split: a TFDS split, such as 'train' or 'train[:10%]'. In a directory that
                has no 'validation', that is 'test' or the only split.
            key: the config key or flag that named it, for messages.
            name: a TFDS data set, such as 'imagenet2012' or 'cifar10:3.0.2', prepared
                under TFDS_DATA_DIR; or
            directory: the folder of one prepared version, with its dataset_info.json.
            test: whether the test pictures of ImageNet may be named.

        Raises:
            InputError: not prepared, no such split, or not pictures with one label.
        """
        import tensorflow_datasets as tfds  # half a second, and only here

        if directory:
            given = f"{key}={directory!r}"
            prepare = f"{WANTED} ({key})"
        else:
            given = f"dataset.tfds_name={name!r}, {key}={split!r}"
            prepare = f"prepare it once: `tfds build {name} --file_format=array_record`"
        try:
            if directory:
                prepared.read_manifest(directory)  # refuses one that is not finished
                builder = tfds.builder_from_directory(directory)
            else:
                builder = tfds.builder(name, file_format="array_record")
            splits = list(builder.info.splits)
            if not splits:
                raise InputError(f"{given}: not in {builder.data_dir}; {prepare}")
            if directory:
                split = prepared.stand_in(directory, split, splits, given)
            if not test:
                prepared.require_no_test(builder.data_path, split, given)
            features = builder.info.features
            self._image = _image(features, given)
            self._label = _only(features, tfds.features.ClassLabel, given)
            self._pixels = None  # the shape of what is stored without encoding
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
        except Exception as error:  # of many kinds, most with a page of advice
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{given}: {reason}; {prepare}") from None
        self.classes = tuple(features[self._label].names)
        self.names: Sequence[str] = ()
        self._split = split

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
        except Exception as error:  # whatever stands in the file
            reason = str(error).split(";")[0]
            raise InputError(
                f"{self._file_of(i)}: damaged ({reason}); if `prepare` wrote it, "
                f"{prepared.AGAIN}"
            ) from None
        return Record(f"{self._split}[{i}]", image, label)

    def _file_of(self, i: int) -> str:
        for records, file in self._files:
            if i < records:
                return file
            i -= records
        raise IndexError(i)


def splits_in(directory: str, key: str) -> list[str]:
    """The names of the splits in the folder of a data set.

    Raises:
        InputError: it is not one.
    """
    import tensorflow_datasets as tfds

    try:
        prepared.read_manifest(directory)
        return list(tfds.builder_from_directory(directory).info.splits)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{key}={directory!r}: {reason}; {WANTED}") from None


def _image(features: Any, given: str) -> str:
    """The name of the picture: an Image, or pixels as `prepare --encoding=raw` does."""
    import tensorflow_datasets as tfds

    pixels = [
        name
        for name, feature in features.items()
        if type(feature) is tfds.features.Tensor
        and feature.np_dtype == np.uint8
        and feature.shape[2:] == (3,)
    ]
    return (
        pixels[0] if len(pixels) == 1 else _only(features, tfds.features.Image, given)
    )


def _only(features: Any, kind: type, given: str) -> str:
    """The name of the single feature of a kind."""
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(names) != 1:
        raise InputError(
            f"{given}: has {len(names)} {kind.__name__} features among "
            f"{sorted(features)}; a data set with one picture and one label is needed"
        )
    return names[0]
