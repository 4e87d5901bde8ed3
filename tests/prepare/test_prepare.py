import errno
import fcntl
import functools
import io
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from apps import refusal, run_app, start_app
from pictures import (
    class_tars,
    drawn,
    encoded,
    numbered_tar,
    write_class_folders,
)
from PIL import Image
from runs import contents, tiny_config

from alexnet_jax import pictures
from alexnet_jax.data import prepared
from alexnet_jax.data.files import read_lines
from alexnet_jax.data.folders import ClassFolders
from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.data.prepared import Prepared
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.data.survey import survey
from alexnet_jax.data.tfds import Tfds
from alexnet_jax.errors import InputError
from alexnet_jax.prepare import pool, shards
from alexnet_jax.prepare.__main__ import prepare
from alexnet_jax.prepare.manifest import Settings, load_unfinished

SIZE = 32
CLASSES = ("bird", "cat", "dog")


@pytest.fixture
def source(tmp_path):
    """Sixty drawn pictures of three classes to train on, six to validate."""
    for split, count in (("train", 20), ("val", 2)):
        for label, name in enumerate(CLASSES):
            folder = tmp_path / "source" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                data = encoded(drawn(100 * label + i), "JPEG")
                (folder / f"{i:02}.JPEG").write_bytes(data)
    return tmp_path / "source"


def made(source: Path, destination: Path, splits=(), **changes) -> dict:
    """Prepare in this process, and read the manifest."""
    values = {
        "encoding": "jpeg",
        "image_size": SIZE,
        "shards": 5,
        "workers": 1,
        **changes,
    }
    prepare(Settings(source, destination, **values), splits)
    return json.loads((destination / "manifest.json").read_text())


def refused(make, *parts):
    """Check that `make` raises an InputError of one line with all the parts."""
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def records(folder: Path, role: str = "train", size: int = SIZE):
    return open_source(
        "records", str(folder), role, key=f"dataset.{role}", image_size=size, seed=0
    )


def prepared_with(tmp_path: Path, splits: dict[str, int]) -> Path:
    """ILSVRC2010 with so many pictures in each split, prepared."""
    folder = tmp_path / "2010"
    folder.mkdir()
    make_devkit(folder)
    for split, count in splits.items():
        stem = "val" if split == "validation" else split
        data = class_tars({"n01": count, "n02": 1})
        if split != "train":
            data = numbered_tar(f"ILSVRC2010_{stem}", range(1, count + 1))
        (folder / f"ILSVRC2010_images_{stem}.tar").write_bytes(data)
    made(folder, tmp_path / "prepared")
    return tmp_path / "prepared"


def make_devkit(folder: Path):
    from scipy.io import savemat

    kinds = [("ILSVRC2010_ID", "O"), ("WNID", "O")]
    synsets = np.array([(1, "n02"), (2, "n01")], dtype=kinds)
    savemat(folder / "meta.mat", {"synsets": synsets})
    for split in ("validation", "test"):
        truth = folder / f"ILSVRC2010_{split}_ground_truth.txt"
        truth.write_text("1\n2\n" * 20)


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

    found, _ = survey(
        records(tmp_path / "out"), Square(SIZE), workers=0, progress=False
    )
    found.save(tmp_path / "found.npz")
    own = (tmp_path / "out" / "statistics.npz").read_bytes()
    assert (tmp_path / "found.npz").read_bytes() == own


def test_training_takes_the_statistics(source, tmp_path, capsys):
    made(source, tmp_path / "out")
    capsys.readouterr()
    keys = {"dataset.source": "records", "dataset.image_size": SIZE}
    config = tiny_config({**keys, "dataset.train": str(tmp_path / "out")})
    training = pictures.open_pictures(config, "train")
    kept, statistics = pictures.surveyed(training, config, tmp_path)
    assert kept is training
    own = tmp_path / "out" / "statistics.npz"
    assert (tmp_path / "statistics.npz").read_bytes() == own.read_bytes()
    np.testing.assert_array_equal(
        statistics.mean_image, Statistics.load(own).mean_image
    )
    assert capsys.readouterr().err == ""  # the bar of a survey


def test_neither_workers_nor_kill_9_change_a_byte(source, tmp_path):
    # A file for each picture: there is always one to come when the first is noted.
    made(source, tmp_path / "one", shards=60)
    undisturbed = contents(tmp_path / "one")
    flags = [f"--source={source}", f"--image_size={SIZE}", "--shards=60", "--workers=3"]
    killed, folder = tmp_path / "killed", tmp_path / "log"
    folder.mkdir()
    process = start_app(folder, "prepare", f"--destination={killed}", *flags)
    while process.is_alive() and not noted(killed):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert not (killed / "manifest.json").exists()
    (killed / "pictures-train.array_record-00059-of-00060").write_bytes(b"half")
    refused(lambda: records(killed), killed, "not prepared to the end", "again")
    answer = run_app("prepare", f"--destination={killed}", *flags)
    assert answer.status == 0, answer
    assert "finished shards are kept" in answer.out
    assert contents(killed) == undisturbed


def noted(folder: Path) -> bool:
    """Whether a shard is known to be finished."""
    state = load_unfinished(folder)
    return state is not None and bool(state[1])


def test_a_finished_folder_is_verified_and_mended(source, tmp_path, capsys):
    out = tmp_path / "out"
    made(source, out)
    whole = contents(out)
    capsys.readouterr()
    made(source, out, workers=1)
    assert "10 finished shards are kept" in capsys.readouterr().out
    shard = out / "pictures-train.array_record-00002-of-00005"
    data = shard.read_bytes()
    middle = data.index(b"\xff\xd8") + 100  # in the first JPEG
    for damage in (data[:middle] + b"no" + data[middle + 2 :], data[:middle], None):
        shard.unlink()
        if damage is not None:
            shard.write_bytes(damage)
        with pytest.raises(InputError) as caught:
            list(records(out))
        assert str(caught.value).startswith(f"{shard}: damaged")
        assert "run `python -m alexnet_jax.prepare` again" in str(caught.value)
        made(source, out)
        told = capsys.readouterr().out
        assert f"{shard.name}: damaged; it is written again" in told
        assert "9 finished shards are kept" in told
        assert contents(out) == whole
    (out / "statistics.npz").write_bytes(b"")
    made(source, out)
    assert "statistics.npz: damaged" in capsys.readouterr().out
    assert contents(out) == whole

    shard.unlink()
    for file in (source / "train" / "cat").iterdir():
        file.write_bytes(encoded(drawn(7), "JPEG"))
    refused(lambda: made(source, out), "--source", "not those", shard.name)


def test_other_settings_are_refused(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    refused(lambda: made(source, out, encoding="raw"), "--encoding=jpeg, not raw")
    refused(lambda: made(source, out, image_size=16), "--image_size=32, not 16")
    refused(lambda: made(source, out, shards=1), "10 files in all (--shards), not 2")
    refused(
        lambda: made(source, out, [Split.TRAIN]), "--split=train,validation, not train"
    )
    other = tmp_path / "other"
    shutil.copytree(source, other)
    begun = tmp_path / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "ArrayRecordWriter", broken_writer)
        refused(lambda: made(source, begun), "No space left on device")
    refused(lambda: made(other, begun), f"--source={source}, not {other}")


def broken_writer(path, options):
    raise RuntimeError(f"write() failed: No space left on device; writing {path}")


def test_a_full_disk(source, tmp_path):
    raw = {"encoding": "raw", "shards": 1}
    made(source, tmp_path / "out", **raw)
    full = tmp_path / "full"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A shard of 60 pictures of 3 kB does not fit into this.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        refused(
            lambda: made(source, full, **raw),
            "train.array_record-00000-of-00001: cannot be written: File too large",
            "are still to be written",
            "are free: mend that, then run `python -m alexnet_jax.prepare` again",
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in full.iterdir()] == ["unfinished.npz"]
    made(source, full, **raw)
    assert contents(full) == contents(tmp_path / "out")


def test_a_disk_too_small(source, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)._replace(free=150_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    out = tmp_path / "out"
    refused(
        lambda: made(source, out, shards=1), "--destination", "0.1 MB are free", "raw"
    )
    assert list(out.iterdir()) == []
    usage = usage._replace(free=10_000_000)
    made(source, out, shards=1)
    told = capsys.readouterr().out
    assert "as --encoding=jpeg (about 0.5 MB as --encoding=raw)" in told
    assert "10.0 MB are free" in told


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
    assert "train: 7 pictures cannot be decoded" in capsys.readouterr().err
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
    assert "2,095 pictures of 188 classes, where ILSVRC2012 has 1,281,167" in warning
    assert "100 pictures of 93 classes, where ILSVRC2012 has 50,000 of 1,000" in warning
    table = (source / "val_labels.tsv").read_text().splitlines()
    labels = [int(line.split("\t")[2]) for line in table]
    validation = records(tmp_path / "out", "validation", 64)
    assert [record.label for record in validation] == labels
    names = (tmp_path / "out" / "classes.txt").read_text().split()
    assert (len(names), names[65]) == (1000, "n01751748")
    assert validation.classes == tuple(names)


def test_imagenet_as_kaggle_unpacks_it(tmp_path):
    folder = tmp_path / "CLS-LOC"
    # The first three validation pictures are of these classes.
    snake, ski, dog = "n01751748", "n09193705", "n02105855"
    write_class_folders(folder / "train", {snake: 3, ski: 3, dog: 3, "n01440764": 2})
    (folder / "val").mkdir()
    (folder / "test").mkdir()
    for number in (1, 2, 3):
        for split in ("val", "test"):
            name = f"ILSVRC2012_{split}_{number:08}.JPEG"
            (folder / split / name).write_bytes(encoded(drawn(number), "JPEG"))
    assert made(folder, tmp_path / "out", encoding="raw")["splits"].keys() == {
        "train",
        "validation",
    }
    validation = records(tmp_path / "out", "validation")
    named = [validation.classes[record.label] for record in validation]
    assert named == [snake, ski, dog]
    refused(
        lambda: made(folder, tmp_path / "again", [Split.TEST]),
        "test",
        "holds no class folders",
    )


def test_other_pictures_are_not_mixed_with_those_that_are_there(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    before = contents(out)
    source.rename(tmp_path / "moved")
    made(tmp_path / "moved", out)  # the same ones
    train = tmp_path / "moved" / "train"
    (train / "cat").rename(train / "cow")  # as many, of another class
    (tmp_path / "moved" / "val" / "cat").rename(tmp_path / "moved" / "val" / "cow")
    refused(lambda: made(tmp_path / "moved", out), "other pictures than --source has")
    assert contents(out) == before
    (train / "cow").rename(train / "cat")
    (tmp_path / "moved" / "val" / "cow").rename(tmp_path / "moved" / "val" / "cat")
    (train / "cat" / "00.JPEG").rename(train / "cat" / "99.JPEG")  # in another order
    refused(lambda: made(tmp_path / "moved", out), "other pictures than --source has")


def test_a_lost_index_costs_no_shard(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    (lost,) = out.glob("*-train.*-00000-of-*.index.npy")
    index = lost.read_bytes()
    lost.unlink()
    first = source / "train" / "bird" / "00.JPEG"
    picture = first.read_bytes()
    first.write_bytes(encoded(drawn(99), "JPEG"))
    before = contents(out)
    refused(lambda: made(source, out), "its pictures are not those")
    assert contents(out) == before
    first.write_bytes(picture)
    made(source, out)
    assert lost.read_bytes() == index


def test_what_lies_beside_the_shards_is_checked_too(source, tmp_path):
    out = tmp_path / "out"
    made(source, out)
    classes, statistics = out / "classes.txt", out / "statistics.npz"
    whole = classes.read_bytes()
    for damaged in (b"cat\nbird\ndog\n", b"bird\ncat\n"):
        classes.write_bytes(damaged)
        refused(lambda: records(out), classes, "damaged", "prepare` again")
    classes.write_bytes(whole)
    assert records(out).classes == CLASSES
    assert prepared.statistics_of(out) == statistics
    for damage in (lambda: statistics.write_bytes(b"x"), statistics.unlink):
        damage()
        refused(lambda: prepared.statistics_of(out), statistics, "prepare` again")


def test_what_was_begun_and_is_damaged_is_named(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "unfinished.npz").write_bytes(b"x")
    refused(lambda: made(source, tmp_path / "out"), "unfinished.npz in it is damaged")


def test_tars_by_other_names(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.tar").write_bytes(class_tars({"n01": 1}))
    refused(
        lambda: made(tmp_path / "source", tmp_path / "out"), "ILSVRC2012_img_train.tar"
    )


def test_too_many_open_files_are_no_damage(source, tmp_path, monkeypatch):
    made(source, tmp_path / "out")
    opened = records(tmp_path / "out")

    def too_many(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", too_many)
        refused(lambda: opened[0], "so many files open", "ulimit -n")
    assert opened[0].label == 0


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


def test_the_test_pictures_are_for_a_last_word(tmp_path, monkeypatch):
    out = prepared_with(tmp_path, {"train": 3, "test": 4})
    refused(lambda: records(out, "validation"), "no validation", "only train, test")
    assert len(records(out)) == 4
    # By name, as TFDS knows it.
    place = tmp_path / "tfds" / "ilsvrc2010" / "1.0.0"
    shutil.copytree(out, place)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    options = {"key": "dataset.validation", "image_size": SIZE, "seed": 0}
    by_name = functools.partial(
        open_source, "tfds", tfds_name="ilsvrc2010:1.0.0", **options
    )
    for split in ("test", "test[:50%]", "train+test", "train[:1]+test[:1]", "all"):
        for role in ("train", "validation"):
            refused(lambda s=split, r=role: by_name(s, r), "last word", "--split=test")
    # Nor prepared once more.
    of_test = made(out, tmp_path / "again", [Split.TEST], image_size=16)
    assert of_test["dataset"] == "ILSVRC2010"
    assert of_test["splits"]["test"]["official"] == 150_000
    refused(lambda: records(tmp_path / "again", "validation", 16), "no validation")
    # But evaluated when asked for.
    for last in (by_name("validation", "test"), records(out, "test")):
        assert [record.label for record in last] == [1, 0, 1, 0]
        assert last[0].name == "test[0]"


def test_only_test_pictures(tmp_path):
    out = prepared_with(tmp_path, {"test": 4})
    refused(lambda: records(out, "validation"), "no validation", "only test")
    refused(lambda: records(out, "train"), out, "train")
    assert len(records(out, "test")) == 4


def test_a_folder_without_validation_pictures(source, tmp_path):
    (source / "val").rename(source / "test")
    made(source, tmp_path / "out")
    assert len(records(tmp_path / "out", "validation")) == 6  # of no ImageNet
    assert len(records(tmp_path / "out", "test")) == 6
    shutil.rmtree(source / "test")
    made(source, tmp_path / "train")
    refused(lambda: records(tmp_path / "train", "validation"), "only train")
    refused(lambda: records(tmp_path / "train", "test"), "no test", "only train")


def test_records_that_do_not_fit_the_config(source, tmp_path):
    made(source, tmp_path / "out")
    refused(
        lambda: records(tmp_path / "out", "train", 256),
        "dataset.image_size=256",
        "prepared with 32 pixels",
        "--image_size=256",
    )
    keys = {"dataset.source": "records", "dataset.image_size": SIZE}
    config = tiny_config({**keys, "dataset.validation": str(tmp_path / "out")})
    refused(
        lambda: pictures.open_pictures(config, "validation", ("bird", "cat")),
        "dataset.validation: the class 'dog'",
    )


def test_a_prepared_folder_can_be_prepared_again(source, tmp_path):
    made(source, tmp_path / "out", encoding="raw")
    made(tmp_path / "out", tmp_path / "again", encoding="raw")
    for role in ("train", "validation"):
        one, two = (records(tmp_path / name, role) for name in ("out", "again"))
        assert one.classes == two.classes
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            assert a.label == b.label


def test_a_tfds_folder_with_unlabelled_test_pictures(tmp_path):
    class Unlabelled(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {"train": self._generate_examples(4), "test": self._unlabelled()}

        def _generate_examples(self, count):
            for i in range(count):
                image = io.BytesIO(encoded(drawn(i), "JPEG"))
                yield i, {"image": image, "label": i % 2}

        def _unlabelled(self):  # as the test pictures of imagenet2012
            for i, example in self._generate_examples(2):
                yield i, {**example, "label": -1}

    builder = Unlabelled(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source, out = Path(builder.data_path), tmp_path / "out"
    manifest = made(source, out, encoding="raw")
    assert list(manifest["splits"]) == ["train"]
    originals = Tfds("train", "--source", directory=str(source))
    for original, record in zip(originals, records(out), strict=True):
        np.testing.assert_array_equal(record.image, Square(SIZE).pixels(original))
        assert record.label == original.label
    refused(lambda: made(source, out, [Split.TEST]), "--split=test: has no labels")


def test_two_at_once(source, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    refused(lambda: made(source, out), out, "another `prepare` is using it")
    os.close(descriptor)
    made(source, out)


def test_what_is_no_source(source, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty"
    refused(lambda: made(tmp_path / "x", out), f"--source='{tmp_path}/x': no such")
    empty.mkdir()
    refused(lambda: made(empty, out), f"--source='{empty}': is empty")
    refused(lambda: made(source, out, [Split.TEST]), "--split=test", "validation")
    shutil.copytree(source / "val", source / "validation")
    refused(lambda: made(source, out), "both val/ and validation/")
    shutil.rmtree(source / "validation")
    (source / "val" / "cat").rename(source / "val" / "cow")
    refused(lambda: made(source, out), "the class 'cow'", "3 classes of training")
    (empty / "train" / "cat").mkdir(parents=True)
    refused(lambda: made(empty, out), "class folder 'cat' is empty")
    (empty / "train" / "cat" / "1.jpg").write_bytes(b"no")
    refused(lambda: made(empty, out), "none of the 1 pictures of train", "cat/1.jpg")


def test_what_is_no_destination(source, tmp_path):
    for inside in (source / "train", source / "train" / "new" / "er"):
        refused(lambda inside=inside: made(source, inside), inside, "is to be read")
    assert not (source / "train" / "new").exists()
    file = tmp_path / "file"
    file.write_text("mine")
    refused(lambda: made(source, file), file, "cannot be made: File exists")
    refused(lambda: made(source, file / "x"), f"{file}/x", "cannot be made: Not a dir")
    refused(lambda: made(source, Path("/proc/x")), "--destination='/proc/x': cannot be")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused(lambda: made(source, tmp_path / "out"), "holds 'notes.txt'", "an empty")
    made(source, tmp_path / "new")
    manifest = tmp_path / "new" / "manifest.json"
    for damage in ("", "[]", '{"settings": {}}'):
        manifest.write_text(damage)
        refused(lambda: records(tmp_path / "new"), manifest, "damaged")
        refused(lambda: made(source, tmp_path / "new"), manifest, "damaged")


def test_results_come_in_the_order_of_the_jobs():
    results = pool.run(pow, 2, range(50), [2] * 50)
    assert list(results) == [i**2 for i in range(50)]


def test_a_worker_that_is_killed():
    jobs = pool.run(os._exit, 2, [9] * 3)
    refused(lambda: list(jobs), "--workers=2: one of them was killed")
    assert not multiprocessing.active_children()


def test_bad_flags(source, tmp_path):
    given = f"--source={source}", f"--destination={tmp_path / 'out'}"
    assert "--source: must be given" in refusal("prepare", given[1])
    assert "--split='tset': allowed are train" in refusal(
        "prepare", *given, "--split=train,tset"
    )
    assert "--encoding=png" in refusal("prepare", *given, "--encoding=png")
    assert "--workers=0" in refusal("prepare", *given, "--workers=0")
    assert not (tmp_path / "out").exists()
