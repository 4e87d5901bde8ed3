"""Folders that earlier versions prepared.

material/prepared was made by commit 590dde5 with --encoding=raw --image_size=32 from
the images of `source`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL
import pytest
from pictures import encoded
from preparing import contents, made, records, refused

from alexnet_jax.data.statistics import Statistics

MATERIAL = Path(__file__).parents[1] / "material" / "prepared"


def image(number: int) -> np.ndarray:
    y, x, colour = np.indices((32, 32, 3))
    return ((7 * x + 3 * y + 50 * colour + 40 * number) % 256).astype(np.uint8)


@pytest.fixture
def source(tmp_path):
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(("circle", "square")):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                data = encoded(image(10 * label + i))
                (folder / f"{i}.png").write_bytes(data)
    return tmp_path / "source"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    manifest = json.loads((MATERIAL / "manifest.json").read_text())
    monkeypatch.setattr(PIL, "__version__", manifest["settings"]["Pillow"])
    return Path(shutil.copytree(MATERIAL, tmp_path / "earlier"))


def test_it_is_read(earlier):
    for role, numbers in (("train", (0, 1, 2, 10, 11, 12)), ("validation", (0, 10))):
        images = records(earlier, role)
        assert images.classes == ("circle", "square")
        assert [record.label for record in images] == [n // 10 for n in numbers]
        for record, number in zip(images, numbers, strict=True):
            np.testing.assert_array_equal(record.image, image(number))
    statistics = Statistics.load(earlier / "statistics.npz")
    mean = np.mean([image(n) for n in (0, 1, 2, 10, 11, 12)], 0)
    np.testing.assert_allclose(statistics.mean_image, mean, rtol=1e-6)


def test_it_is_verified_and_nothing_is_written(source, earlier, capsys):
    before = {path: path.stat().st_mtime_ns for path in earlier.iterdir()}
    made(source, earlier, encoding="raw", shards=1)
    assert "2 finished shards are kept" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in earlier.iterdir()}
    assert after.pop(earlier / ".lock")
    assert after == before


def test_it_is_mended_and_made_again_with_the_same_bytes(source, earlier, tmp_path):
    shard = earlier / "pictures-train.array_record-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    made(source, earlier, encoding="raw", shards=1)
    assert contents(earlier) == contents(MATERIAL)
    made(source, tmp_path / "again", encoding="raw", shards=1)
    again, before = contents(tmp_path / "again"), contents(MATERIAL)
    assert again.keys() == before.keys()
    for name in before:
        if not name.endswith(".json"):  # another TFDS may describe it otherwise
            assert again[name] == before[name]
    one, other = (json.loads(c["manifest.json"]) for c in (again, before))
    assert {**one, "files": {}} == {**other, "files": {}}


def test_other_settings_than_those_of_earlier_versions_are_refused(source, earlier):
    raw = {"encoding": "raw", "shards": 1}
    refused(lambda: made(source, earlier, shards=1), "--encoding=raw, not jpeg")
    refused(
        lambda: made(source, earlier, exif_rotation=False, **raw),
        "--exif_rotation=True, not False",
    )


def test_jpegs_of_earlier_versions_are_4_2_0(source, tmp_path):
    # They recorded no subsampling, as today with 4:2:0.
    out = tmp_path / "out"
    manifest = made(source, out, subsampling="4:2:0")
    assert "--subsampling" not in manifest["settings"]
    before = contents(out)
    refused(
        lambda: made(source, out, subsampling="4:4:4"),
        "was begun with --subsampling=4:2:0, not 4:4:4",
    )
    (out / "classes.txt").unlink()
    made(source, out)  # takes the folder's own
    assert contents(out) == before
