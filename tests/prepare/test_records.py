import errno
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pictures import (
    drawn,
    encoded,
)
from PIL import Image
from preparing import (
    CLASSES,
    SIZE,
    made,
    records,
    refused,
)

from alexnet_jax.data.files import read_lines
from alexnet_jax.data.folders import ClassFolders
from alexnet_jax.data.prepared import Prepared
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.statistics import Statistics, survey
from alexnet_jax.data.tfds import Tfds


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_records_are_the_squares_of_the_originals(source, tmp_path, encoding):
    made(source, tmp_path / "out", encoding=encoding)
    # TFDS reads the folder by itself, and decodes.
    builder = tfds.builder_from_directory(tmp_path / "out")
    worst = 0.0
    for split, name in (("train", "train"), ("validation", "val")):
        originals = ClassFolders(source / name, "")
        ours, theirs = records(tmp_path / "out", split), builder.as_data_source(split)
        assert ours.classes == originals.classes == CLASSES
        assert len(ours) == len(theirs) == len(originals)
        for original, own, their in zip(originals, ours, theirs, strict=True):
            expected = Square(SIZE).pixels(original)
            assert own.label == their["label"] == original.label
            assert their["file_name"].decode() == Path(original.name).name
            seen = Square(SIZE).pixels(own)
            np.testing.assert_array_equal(seen, their["image"])
            out = np.empty_like(seen)
            assert Square(SIZE).pixels(own, out) is out
            np.testing.assert_array_equal(out, seen)
            worst = max(worst, np.abs(seen.astype(float) - expected).mean())
    assert worst == 0 if encoding == "raw" else 0 < worst < 3


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_records_without_an_index_are_the_same(source, tmp_path, encoding):
    out = tmp_path / "out"
    manifest = made(source, out, encoding=encoding)
    indexed = records(out)
    for name, shard in manifest["shards"].items():  # as it was before there were any
        del shard["index"]
        (out / f"{name}.index.npy").unlink()
    (out / "manifest.json").write_text(json.dumps(manifest))
    others = records(out)
    assert (type(indexed), type(others)) == (Prepared, Tfds)
    assert indexed.classes == others.classes
    for one, other in zip(indexed, others, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(
            Square(SIZE).pixels(one), Square(SIZE).pixels(other)
        )
    made(source, out, encoding=encoding)  # kept as it is
    assert type(records(out)) is Tfds


def test_damage_is_named(source, tmp_path):
    out = tmp_path / "out"
    made(source, out, encoding="raw")
    opened = records(out)
    first = np.array(opened[0].image)
    shard = out / "pictures-train.array_record-00000-of-00005"
    data = shard.read_bytes()
    shard.write_bytes(data.replace(first.tobytes(), (first ^ 1).tobytes()))
    assert (opened[0].image == first ^ 1).all()  # has been checked
    again = pickle.loads(pickle.dumps(records(out)))
    refused(
        lambda: np.array(again[0].image), shard, "train[0] is not what", "`python -m al"
    )
    shard.write_bytes(data[:30_000])
    refused(lambda: np.array(again[11].image), shard, "train[11] is not what")
    refused(lambda: records(out), f"{shard}: damaged (not of 131,072 bytes)")
    shard.unlink()
    refused(lambda: records(out), f"{shard}: damaged (No such file or directory)")
    shard.write_bytes(data)
    index_file = out / f"{shard.name}.index.npy"
    index_file.write_bytes(index_file.read_bytes()[:-1] + b"x")
    refused(lambda: records(out), f"{index_file}: damaged (not what it was)")
    index_file.unlink()
    refused(lambda: records(out), f"{index_file}: damaged (No such file or directory)")
    made(source, out, encoding="raw")
    np.testing.assert_array_equal(records(out)[0].image, first)


def test_a_jpeg_of_the_size_is_kept_and_nothing_else(tmp_path):
    pixels = drawn(3, SIZE, SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    files = {
        "1.JPEG": encoded(pixels, "JPEG", quality=60),
        "2.JPEG": encoded(pixels, "PNG"),
        "3.JPEG": encoded(pixels[..., 0], "JPEG"),
        "4.JPEG": encoded(pixels, "JPEG", exif=exif),
        "5.JPEG": encoded(drawn(3, SIZE, SIZE + 1), "JPEG"),
    }
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
        for file, data in files.items():
            (tmp_path / "source" / name / file).write_bytes(data)
    made(tmp_path / "source", tmp_path / "out")
    stored = [record.image for record in records(tmp_path / "out")][:5]
    kept = [own == data for own, data in zip(stored, files.values(), strict=True)]
    assert kept == [True, False, False, False, False]


def test_statistics_are_of_what_training_sees(source, tmp_path):
    made(source, tmp_path / "out")
    seen = np.stack([Square(SIZE).pixels(r) for r in records(tmp_path / "out")]).astype(
        float
    )
    statistics = Statistics.load(tmp_path / "out" / "statistics.npz")
    np.testing.assert_allclose(statistics.mean_image, seen.mean(0), rtol=1e-6)
    covariance = np.cov(seen.reshape(-1, 3).T, bias=True)
    axes, variances = statistics.color_axes, statistics.color_stddev.astype(float) ** 2
    np.testing.assert_allclose(axes * variances @ axes.T, covariance, rtol=1e-4)

    found, _ = survey(records(tmp_path / "out"), Square(SIZE), progress=False)
    found.save(tmp_path / "found.npz")
    own = (tmp_path / "out" / "statistics.npz").read_bytes()
    assert (tmp_path / "found.npz").read_bytes() == own


def test_odd_files(shared_data, tmp_path, capsys):
    source = tmp_path / "source"
    for name in ("a", "b"):
        shutil.copytree(shared_data / "edge-cases", source / "train" / name)
    (source / "train" / "b" / "zz.JPEG").symlink_to(tmp_path / "gone")
    manifest = made(source, tmp_path / "out", encoding="raw", shards=27)
    unreadable = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    bad = ("empty", "not_an_image", "truncated", "zz")
    names = [f"train\ttrain/{c}/{b}.JPEG" for c in "ab" for b in bad if c + b != "azz"]
    assert [line.split(": cannot be ")[0] for line in unreadable] == names
    counts = {"pictures": 27, "records": 20, "unreadable": 7, "classes": 2}
    assert manifest["splits"]["train"] == {**counts, "official": None}
    assert "train: 7 images cannot be decoded" in capsys.readouterr().err
    (source / "train" / "b" / "zz.JPEG").unlink()
    originals = ClassFolders(source / "train", "")
    good = [r for r in originals if Path(r.name).stem not in bad]
    for original, record in zip(good, records(tmp_path / "out"), strict=True):
        np.testing.assert_array_equal(record.image, Square(SIZE).pixels(original))


def test_the_miniature_imagenet(shared_data, tmp_path, capsys):
    source = shared_data / "ilsvrc2012-mini"
    manifest = made(source, tmp_path / "out", image_size=64, shards=0)
    lost = {"unreadable": 0, "official": 1281167}
    train = {"pictures": 2095, "records": 2095, "classes": 188, **lost}
    assert manifest["splits"]["train"] == train
    warning = capsys.readouterr().err
    assert "2,095 images of 188 classes, where ILSVRC2012 has 1,281,167" in warning
    assert "100 images of 93 classes, where ILSVRC2012 has 50,000 of 1,000" in warning
    table = (source / "val_labels.tsv").read_text().splitlines()
    labels = [int(line.split("\t")[2]) for line in table]
    validation = records(tmp_path / "out", "validation", 64)
    assert [record.label for record in validation] == labels
    names = (tmp_path / "out" / "classes.txt").read_text().split()
    assert (len(names), names[65]) == (1000, "n01751748")
    assert validation.classes == tuple(names)


def test_names_that_are_no_text(source, tmp_path):
    bad = os.fsdecode(b"caf\xe9.png")
    (source / "train" / "cat" / bad).write_bytes(encoded(drawn(7), "PNG"))
    (source / "train" / "cat" / f"broken {bad}").write_bytes(b"no picture")
    manifest = made(source, tmp_path / "out")
    assert manifest["splits"]["train"]["unreadable"] == 1
    (line,) = read_lines(tmp_path / "out" / "unreadable.txt")
    assert line.startswith(f"train\ttrain/cat/broken {bad}: cannot be decoded")
    (source / "train" / os.fsdecode(b"\xe9")).mkdir()
    shutil.copy(source / "train" / "cat" / bad, source / "train" / os.fsdecode(b"\xe9"))
    refused(lambda: made(source, tmp_path / "other"), "class", "rename")


def test_a_prepared_folder_can_be_prepared_again(source, tmp_path):
    made(source, tmp_path / "out", encoding="raw")
    made(tmp_path / "out", tmp_path / "again", encoding="raw")
    for role in ("train", "validation"):
        one, two = (records(tmp_path / name, role) for name in ("out", "again"))
        assert one.classes == two.classes
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            assert a.label == b.label


def test_too_many_open_files_are_no_damage(source, tmp_path, monkeypatch):
    made(source, tmp_path / "out")
    opened = records(tmp_path / "out")

    def too_many(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", too_many)
        refused(lambda: opened[0], "so many files open", "ulimit -n")
    assert opened[0].label == 0


@pytest.mark.parametrize(
    ("subsampling", "blocks"), [("4:4:4", (1, 1)), ("4:2:0", (2, 2))]
)
def test_chroma_subsampling(source, tmp_path, subsampling, blocks):
    manifest = made(source, tmp_path / "out", subsampling=subsampling)
    recorded = manifest["settings"].get("--subsampling", "4:2:0")
    assert recorded == subsampling
    for record in records(tmp_path / "out"):
        with Image.open(io.BytesIO(record.image)) as image:
            _, horizontal, vertical, _ = image.layer[0]
        assert (horizontal, vertical) == blocks


def test_4_4_4_is_the_default_and_nearer_to_the_original(tmp_path):
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, 1::2, 0] = 255  # red lines of one pixel
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "1.png").write_bytes(encoded(image))
    errors = {}
    for given in ("", "4:4:4", "4:2:0"):
        out = tmp_path / f"out{given}"
        made(tmp_path / "source", out, subsampling=given)
        stored = Square(SIZE).pixels(records(out)[0]).astype(float)
        errors[given] = np.abs(stored - image).mean()
    assert errors[""] == errors["4:4:4"] < 3 < 30 < errors["4:2:0"]


@pytest.mark.parametrize("exif_rotation", [True, False])
def test_exif_rotation(tmp_path, exif_rotation):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated by 90° clockwise
    upright = drawn(3, SIZE, SIZE)
    for name in ("a", "b"):
        (tmp_path / "source" / name).mkdir(parents=True)
        data = encoded(upright, "JPEG", exif=exif, quality=95, subsampling=0)
        (tmp_path / "source" / name / "1.JPEG").write_bytes(data)
    manifest = made(
        tmp_path / "source",
        tmp_path / "out",
        encoding="jpeg",
        exif_rotation=exif_rotation,
    )
    recorded = manifest["settings"].get("--exif_rotation", True)
    assert recorded == exif_rotation
    expected = np.rot90(upright, -1) if exif_rotation else upright
    stored = Square(SIZE).pixels(records(tmp_path / "out")[0]).astype(float)
    assert np.abs(stored - expected).mean() < 3
    refused(
        lambda: made(
            tmp_path / "source", tmp_path / "out", exif_rotation=not exif_rotation
        ),
        f"--exif_rotation={exif_rotation}, not {not exif_rotation}",
    )
