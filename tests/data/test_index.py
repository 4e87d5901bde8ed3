import os

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from alexnet_jax.data import index
from alexnet_jax.prepare.shards import OPTIONS, Fingerprint, find


def some_pictures() -> list[bytes]:
    """Of sizes around those of a block, two alike, and one like what lies between."""
    rng = np.random.default_rng(0)
    sizes = (1, 40, 65_511, 65_512, 65_513, 7, 196_608, 200_000, 3_000, 35_000_000)
    pictures = [rng.bytes(size) for size in sizes]
    return [*pictures, pictures[1], pictures[1], bytes(100_000), bytes(33)]


@pytest.fixture
def shard(tmp_path):
    writer = ArrayRecordWriter(str(tmp_path / "shard"), OPTIONS)
    for i, picture in enumerate(some_pictures()):
        writer.write(b"before" * i + bytes(40) + picture + b"after" * i)
    writer.close()
    return tmp_path / "shard"


def found(shard) -> np.ndarray:
    pictures = some_pictures()
    return find(shard, list(map(Fingerprint.of, pictures)), list(range(len(pictures))))


def read(file, at, size) -> bytes | None:
    out = bytearray(size)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        whole = index.read(descriptor, at, memoryview(out))
    finally:
        os.close(descriptor)
    return bytes(out) if whole else None


def test_pictures_are_read_from_where_they_are_found(shard):
    entries = found(shard)
    for label, (entry, picture) in enumerate(
        zip(entries, some_pictures(), strict=True)
    ):
        assert (entry["label"], entry["size"]) == (label, len(picture))
        assert entry["hash"] == index.hash_of(picture)
        assert read(shard, entry["at"], entry["size"]) == picture
    assert (np.diff(entries["at"]) >= entries["size"][:-1]).all()


def test_a_picture_that_is_not_what_was_written(shard):
    data = bytearray(shard.read_bytes())
    data[data.index(some_pictures()[8][:100]) + 2_000] ^= 1
    shard.write_bytes(data)
    with pytest.raises(RuntimeError, match="record 8 does not read back as written"):
        found(shard)


def test_what_the_end_of_the_file_cuts_off_is_missing(shard):
    entry, end = found(shard)[7], some_pictures()[7][-40:]
    os.truncate(shard, shard.read_bytes().index(end) + 39)
    assert read(shard, entry["at"], entry["size"]) is None
    assert read(shard, entry["at"], entry["size"] - 1) == some_pictures()[7][:-1]
