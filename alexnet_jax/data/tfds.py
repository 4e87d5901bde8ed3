"""Pictures in ArrayRecord files with the description that TFDS keeps of them."""

from alexnet_jax.data.record import Record
from alexnet_jax.errors import InputError


class Tfds:
    """One split of an image classification data set of TFDS, kept as ArrayRecord.

    TensorFlow is not needed to read it. The bytes come as they are stored: TFDS would
    decode with whichever library it finds.
    """

    def __init__(self, split: str, key: str, *, name: str = "", directory: str = ""):
        """Open the split.

        Args:
            split: a TFDS split, such as 'train' or 'train[:10%]'. In a directory that
                has no 'validation', that is 'test' or the only split.
            key: the config key or flag that named it, for messages.
            name: a TFDS data set, such as 'imagenet2012' or 'cifar10:3.0.2', prepared
                under TFDS_DATA_DIR; or
            directory: the folder of one prepared version, with its dataset_info.json.

        Raises:
            InputError: not prepared, no such split, or not pictures with one label.
        """
        import tensorflow_datasets as tfds  # half a second, and only here

        if directory:
            given = f"{key}={directory!r}"
            prepare = "give a folder that `python -m alexnet_jax.prepare` or TFDS wrote"
        else:
            given = f"dataset.tfds_name={name!r}, {key}={split!r}"
            prepare = f"prepare it once: `tfds build {name} --file_format=array_record`"
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
            self._image = _only(features, tfds.features.Image, given)
            self._label = _only(features, tfds.features.ClassLabel, given)
            raw = {self._image: tfds.decode.SkipDecoding()}
            self._records = builder.as_data_source(split, decoders=raw)
        except InputError:
            raise
        except Exception as error:  # of many kinds, most with a page of advice
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{given}: {reason}; {prepare}") from None
        self.classes = tuple(features[self._label].names)
        self._split = split

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        record = self._records[i]
        name = f"{self._split}[{i}]"
        return Record(name, record[self._image], int(record[self._label]))


def _only(features, kind: type, given: str) -> str:
    """The name of the single feature of a kind."""
    names = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(names) != 1:
        raise InputError(
            f"{given}: has {len(names)} {kind.__name__} features among "
            f"{sorted(features)}; a data set with one picture and one label is needed"
        )
    return names[0]
