"""One shard: some consecutive images of a split, encoded into one ArrayRecord file.

'raw' stores the 8-bit pixels of a square, 197 kB for 256 pixels, 'jpeg' a JPEG of
quality 95. An original that is a JPEG of the right size is copied byte for byte.
Colours are kept at full resolution (4:4:4) unless --subsampling says otherwise:
docs/input.md, 'What `prepare` writes', has the measurement.
"""

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from alexnet_jax.data import index
from alexnet_jax.data.files import replaced, sha256
from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.data.images import Source, StoredImage
from alexnet_jax.data.preprocess import Square, open_image
from alexnet_jax.data.statistics import Sums
from alexnet_jax.errors import ImageError, InputError
from alexnet_jax.prepare.pool import stop_if_asked

ENCODINGS = ("jpeg", "raw")
SUBSAMPLINGS = {"4:4:4": 0, "4:2:0": 2}  # as Pillow numbers them
QUALITY = 95
ORIENTATION = 0x0112  # in EXIF
# Each record alone, for random access. Compression would not make JPEGs smaller, and
# raw pixels slower to read.
OPTIONS = "group_size:1,uncompressed"
GAP = index.BLOCK  # bytes from the end of a record to the next; in fact far less


class DiskError(InputError):
    """A file cannot be written: no space, no permission, no disk."""


@dataclass(frozen=True)
class Shard:
    """Images `start` to `stop` − 1 of a split, and facts about the written files."""

    file: str
    split: Split
    start: int
    stop: int
    sha256: str = ""  # until the shard is written
    index: str = ""  # SHA-256 of the index file, which old folders lack
    bytes: int = 0  # size of the file
    records: int = 0
    classes: Sequence[int] = ()  # the labels in it, each once, sorted
    unreadable: Sequence[str] = ()  # a message for each image that cannot be decoded

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Encoder:
    """The form of stored images: one of ENCODINGS, one of SUBSAMPLINGS, a square."""

    encoding: str
    subsampling: str
    square: Square

    def encode(self, record: tuple[str, StoredImage, int]) -> tuple[bytes, np.ndarray]:
        """The bytes to store, and the size×size×3 uint8 pixels that they decode to."""
        pixels = self.square.pixels(record)
        if self.encoding == "raw":
            return pixels.tobytes(), pixels
        name, image, label = record
        if isinstance(image, bytes) and self._fits(image):
            return image, pixels
        file, chroma = io.BytesIO(), SUBSAMPLINGS[self.subsampling]
        Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY, subsampling=chroma)
        return file.getvalue(), self.square.pixels((name, file.getvalue(), label))

    def _fits(self, data: bytes) -> bool:
        """Whether an original can be stored as it is."""
        try:
            with open_image(data) as image:
                form = image.format, image.mode, image.size
                upright = image.getexif().get(ORIENTATION, 1) == 1
                return form == ("JPEG", "RGB", (self.square.size,) * 2) and upright
        except Exception:  # headers that Pillow reads more strictly than simplejpeg
            return False


class Fingerprint(NamedTuple):
    """Prefix, size and hash that locate a record."""

    prefix: bytes
    size: int
    hash: int

    @classmethod
    def of(cls, image: bytes) -> "Fingerprint":
        """The fingerprint of a record's image."""
        return cls(image[:32], len(image), index.hash_of(image))


def plan(dataset: str, split: Split, images: int, shards: int) -> list[Shard]:
    """Divide a split into shards; 0 chooses their number, 1,024 for ImageNet."""
    if not shards:
        shards = max(min(-(-images // 128), 64), -(-images // 1252))
    shards = min(shards, images)
    bounds = [images * i // shards for i in range(shards + 1)]
    name = f"{dataset.lower()}-{split}.array_record"
    return [
        Shard(f"{name}-{i:05}-of-{shards:05}", split, start, stop)
        for i, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def write(
    shard: Shard, images: Source, *, folder: Path, source: Path, encoder: Encoder
) -> tuple[Shard, Sums]:
    """Write a shard and its index, each as a whole or not at all.

    If the shard was written before, its file must come out the same. Image names are
    stored relative to the source.

    Returns:
        The shard with all facts, and the sums over its images if they are for training.
    """
    path, below = folder / shard.file, f"{source}/"
    sums = Sums.none(encoder.square.size)
    labels: list[int] = []
    fingerprints: list[Fingerprint] = []
    unreadable: list[str] = []
    try:
        with replaced(path) as records, replaced(index.file_of(path)) as entries:
            writer = ArrayRecordWriter(str(records), OPTIONS)
            for i in range(len(images)):
                stop_if_asked()
                try:
                    name, image, label = images[i]
                    name = name.removeprefix(below)
                    stored, pixels = encoder.encode((name, image, label))
                except ImageError as error:
                    unreadable.append(str(error).removeprefix(below))
                    continue
                writer.write(_example(stored, label, re.split("[/:]", name)[-1]))
                labels.append(label)
                fingerprints.append(Fingerprint.of(stored))
                if shard.split == Split.TRAIN:
                    sums.add(pixels)
            writer.close()
            with entries.open("wb") as file:
                np.save(file, find(records, fingerprints, labels))
            written = replace(
                shard,
                sha256=sha256(records),
                index=sha256(entries),
                bytes=records.stat().st_size,
                records=len(labels),
                classes=sorted(set(labels)),
                unreadable=unreadable,
            )
            if shard.sha256 not in ("", written.sha256):
                raise InputError(
                    f"--source={str(source)!r}: its images are not those from which "
                    f"{shard.file} was made before; give another --destination, to "
                    "make all shards from the same images"
                )
    except OSError as error:
        raise DiskError(f"{path}: cannot be written: {error.strerror}") from None
    except RuntimeError as error:  # of ArrayRecordWriter and `find`
        reason = str(error).split(";")[0].removeprefix("write() failed: ")
        raise DiskError(f"{path}: cannot be written: {reason}") from None
    return written, sums


def is_whole(shard: Shard, *, folder: Path) -> bool:
    """Whether the files of a shard are still as they were written."""
    path = folder / shard.file
    unchanged = not shard.index or is_unchanged(index.file_of(path), shard.index)
    return unchanged and is_unchanged(path, shard.sha256)


def is_unchanged(path: Path, checksum: str) -> bool:
    """Whether a file exists and has this SHA-256."""
    return path.is_file() and sha256(path) == checksum


def find(path: Path, fingerprints: list[Fingerprint], labels: list[int]) -> np.ndarray:
    """The `index.ENTRY` of each record of a shard, found in the order of writing."""
    entries = np.empty(len(labels), index.ENTRY)
    end = 0  # of the previous image
    with path.open("rb") as file:
        for i, (prefix, size, expected) in enumerate(fingerprints):
            near = bytearray(GAP + size)
            index.read(file.fileno(), end, memoryview(near))
            place = near.find(prefix)
            while index.hash_of(near[place : place + size]) != expected:
                place = near.find(prefix, place + 1)
                if place < 0:
                    raise RuntimeError(f"record {i} does not read back as written")
            entries[i] = end + place, size, labels[i], expected
            end += place + size
    return entries


def _example(image: bytes, label: int, file_name: str) -> bytes:
    """A record as TFDS stores it, a tf.Example; the same bytes in every process."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(image)
    feature["label"].int64_list.value.append(label)
    name = file_name.encode("utf-8", "surrogateescape")
    feature["file_name"].bytes_list.value.append(name)
    return example.SerializeToString(deterministic=True)
