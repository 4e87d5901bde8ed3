import csv
import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from pictures import (
    class_tars,
    drawn,
    encoded,
    numbered_tar,
    tar_bytes,
    write_class_folders,
)
from scipy.io import savemat

from alexnet_jax.data.folders import open_folder
from alexnet_jax.data.ilsvrc import Split, official_classes
from alexnet_jax.data.images import View
from alexnet_jax.errors import InputError
from alexnet_jax.prepare.ilsvrc import open_tar, tars_in

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def opened(folder, split):
    year, tars = tars_in(folder)
    return open_tar(year, split, tars[split])


def refused(folder, split, *parts):
    """Check that a tar is refused in one line with all the parts."""
    with pytest.raises(InputError) as caught:
        opened(folder, split)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_the_miniature_tars_have_the_official_labels(shared_data):
    folder = shared_data / "ilsvrc2012-mini"
    validation = opened(folder, Split.VALIDATION)
    with (folder / "val_labels.tsv").open() as table:
        expected = [(row[0], int(row[2])) for row in csv.reader(table, delimiter="\t")]
    found = [(r.name.split(":")[1], r.label) for r in validation]
    assert found == expected
    train = opened(folder, Split.TRAIN)
    assert len(train) == 2095
    # Read another way: both tars by tarfile, of which every picture is compared.
    with tarfile.open(folder / TRAIN) as outer:
        pictures = {}
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                for info in inner:
                    wnid = member.name.removesuffix(".tar")
                    pictures[wnid, info.name] = inner.extractfile(info).read()
    classes = official_classes()
    ours = [(classes[r.label], r.name.split("/")[-1], r.image) for r in train]
    assert ours == [(*key, pictures[key]) for key in sorted(pictures)]


def test_the_official_classes():
    classes = official_classes()
    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[281]) == (TENCH, "n02123045")  # tench, tabby


def test_the_order_in_the_tar_does_not_matter(tmp_path):
    for name, backwards in (("one", False), ("two", True)):
        (tmp_path / name).mkdir()
        data = class_tars({TENCH: 2, SHARK: 3}, backwards)
        (tmp_path / name / TRAIN).write_bytes(data)
    one, two = (opened(tmp_path / name, Split.TRAIN) for name in ("one", "two"))
    assert [r.label for r in one] == [0, 0, 2, 2, 2]  # goldfish is missing
    assert [r[1:] for r in one] == [r[1:] for r in two]


def test_parts(tmp_path):
    (tmp_path / TRAIN).write_bytes(class_tars({TENCH: 2, GOLDFISH: 3}))
    whole = opened(tmp_path, Split.TRAIN)
    part = View(whole, range(1, 4))
    assert list(part) == [whole[i] for i in (1, 2, 3)]
    assert part.classes == whole.classes


@pytest.mark.parametrize(
    ("numbers", "parts"),
    [
        ([1, 2, 4, 5, 7], ["number 3 is missing", "val_00000003.JPEG", "1 to 7"]),
        ([2, 3], ["number 1 is missing"]),
        ([0, 1], ["numbers 0 to 1", "1 to 50000"]),
    ],
)
def test_a_validation_set_with_gaps(tmp_path, numbers, parts):
    (tmp_path / VAL).write_bytes(numbered_tar("ILSVRC2012_val", numbers))
    refused(tmp_path, Split.VALIDATION, VAL, *parts)


def test_unpacked_validation_pictures(shared_data, tmp_path):
    folder = shared_data / "ilsvrc2012-mini"
    with tarfile.open(folder / VAL) as tar:
        tar.extractall(tmp_path / "val", filter="data")
    (tmp_path / "val" / "list.txt").write_text("no picture")
    of_tar, flat = opened(folder, Split.VALIDATION), open_folder(tmp_path / "val", "k")
    assert len(flat) == len(of_tar)
    for file, member in zip(flat, of_tar, strict=True):
        assert file.name.endswith(member.name.split(":")[1])
        assert file.image == member.image
        assert flat.classes[file.label] == of_tar.classes[member.label]
    assert set(flat.classes) == {of_tar.classes[r.label] for r in of_tar}

    numbered = sorted((tmp_path / "val").glob("*.JPEG"))
    other = numbered[0].with_name("cat.jpg")
    numbered[2].rename(other)
    with pytest.raises(InputError, match=r"holds .cat\.jpg.; next to ILSVRC2012"):
        open_folder(tmp_path / "val", "k")
    other.unlink()
    with pytest.raises(InputError, match="number 3 is missing"):
        open_folder(tmp_path / "val", "k")


def test_a_folder_of_class_folders_is_one_whatever_lies_beside(tmp_path):
    write_class_folders(tmp_path, {"a": 1, "b": 2})
    (tmp_path / "ILSVRC2012_val_00000001.JPEG").write_bytes(encoded(drawn(0)))
    assert open_folder(tmp_path, "k").classes == ("a", "b")


def test_a_number_twice(tmp_path):
    name = "ILSVRC2012_val_00000001.JPEG"
    (tmp_path / VAL).write_bytes(tar_bytes({f"a/{name}": b"", f"b/{name}": b""}))
    refused(tmp_path, Split.VALIDATION, f"{name} twice")


def test_a_wrong_file_for_the_training_tar(tmp_path):
    wanted = f"must be the tar of class tars, {TENCH}.tar …, of ILSVRC2012"
    wrong = {
        "'ILSVRC2012_val_00000001.JPEG'": numbered_tar("ILSVRC2012_val", [1]),
        "'n00000001.tar'": class_tars({"n00000001": 1}),
        "not a whole tar": b"hello " * 500,
        "empty": b"",
        "no images": tar_bytes({}),
    }
    for part, data in wrong.items():
        (tmp_path / TRAIN).write_bytes(data)
        refused(tmp_path, Split.TRAIN, TRAIN, part, wanted)
    (tmp_path / VAL).write_bytes(class_tars({TENCH: 1}))
    refused(tmp_path, Split.VALIDATION, VAL, f"{TENCH}.tar", "ILSVRC2012_val_00000001")


def test_truncated_training_tars(tmp_path):
    whole = class_tars({TENCH: 2, GOLDFISH: 2, SHARK: 2})
    last = whole.rindex(f"{SHARK}.tar".encode())
    inside = whole.rindex(f"{SHARK}_1.JPEG".encode())
    for cut in (inside + 700, inside + 100, inside, last + 512, last + 100, last):
        (tmp_path / TRAIN).write_bytes(whole[:cut])
        refused(tmp_path, Split.TRAIN, TRAIN)
    # A class tar without its end, in a whole tar.
    inner = tar_bytes({f"{GOLDFISH}_{i}.JPEG": bytes(3000) for i in range(2)})
    second = inner.rindex(b"_1.JPEG")
    for size in (second // 512 * 512, second + 700):
        tars = {f"{GOLDFISH}.tar": inner[:size], f"{SHARK}.tar": tar_bytes({})}
        (tmp_path / TRAIN).write_bytes(tar_bytes(tars))
        refused(tmp_path, Split.TRAIN, f"{GOLDFISH}.tar", "cut short")


def test_a_picture_that_is_there_twice(tmp_path):
    once = tar_bytes({f"{SHARK}_1.JPEG": b"1"})
    twice = tar_bytes({f"{SHARK}_1.JPEG": b"1"})[:1024] + once
    (tmp_path / TRAIN).write_bytes(tar_bytes({f"{SHARK}.tar": twice}))
    refused(tmp_path, Split.TRAIN, f"{SHARK}.tar/{SHARK}_1.JPEG twice")
    outer = tar_bytes({f"{SHARK}.tar": once})
    end = outer.rindex(once[:1024]) + len(once)
    (tmp_path / TRAIN).write_bytes(outer[:end] + outer)
    refused(tmp_path, Split.TRAIN, f"{SHARK}.tar/{SHARK}_1.JPEG twice")


def test_a_tar_with_a_hole(tmp_path):
    pictures = {f"{GOLDFISH}_{i}.JPEG": bytes([i]) * 3000 for i in range(4)}
    whole = tar_bytes(pictures)
    second = whole.index(f"{GOLDFISH}_1.JPEG".encode())
    inner = whole[:second] + bytes(512) + whole[second + 512 :]
    (tmp_path / TRAIN).write_bytes(tar_bytes({f"{GOLDFISH}.tar": inner}))
    refused(tmp_path, Split.TRAIN, f"{GOLDFISH}.tar", "damaged or cut short")


@pytest.fixture
def of_2010(tmp_path):
    """The tars of ILSVRC2010 with three classes, and its devkit."""
    numbers = {"n03": 1, "n01": 2, "n02": 3, "n99": 1001}  # the last holds the others
    synsets = np.array(
        [(number, name) for name, number in numbers.items()],
        dtype=[("ILSVRC2010_ID", "O"), ("WNID", "O")],
    )
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    files = {
        "devkit-1.0/data/meta.mat": meta.getvalue(),
        "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt": b"3\n1\n2\n3\n",
    }
    with tarfile.open(tmp_path / "ILSVRC2010_devkit-1.0.tar.gz", "w:gz") as devkit:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            devkit.addfile(info, io.BytesIO(data))
    (tmp_path / "ILSVRC2010_test_ground_truth.txt").write_text("2\n2\n1\n")
    tars = {
        "train": class_tars({"n02": 2, "n01": 1, "n03": 3}),
        "val": numbered_tar("val/ILSVRC2010_val", [4, 2, 3, 1]),
        "test": numbered_tar("test/ILSVRC2010_test", [1, 2, 3]),
    }
    for name, data in tars.items():
        (tmp_path / f"ILSVRC2010_images_{name}.tar").write_bytes(data)
    return tmp_path


def test_ilsvrc2010(of_2010):
    train, validation, test = (opened(of_2010, split) for split in Split)
    assert train.classes == validation.classes == test.classes == ("n01", "n02", "n03")
    assert [r.label for r in train] == [0, 1, 1, 2, 2, 2]
    assert [r.label for r in validation] == [1, 2, 0, 1]
    assert [r.label for r in test] == [0, 0, 2]
    assert test[2].name.endswith(":ILSVRC2010_test_00000003.JPEG")


def test_pictures_of_ilsvrc2010_are_replaced_by_the_patches(of_2010):
    before = {split: [r.image for r in opened(of_2010, split)] for split in Split}
    patches = {
        "patch_images/train/n03_1.JPEG": b"another 1 of n03",
        "patch_images/val/ILSVRC2010_val_00000002.JPEG": b"another 2 of val",
        "patch_images/val/ILSVRC2010_test_00000002.JPEG": b"of no split",
        "patch_images/readme.txt": b"what this is",
    }
    tar = of_2010 / "patch_images.tar"
    tar.write_bytes(tar_bytes(patches))
    train = opened(of_2010, Split.TRAIN)
    assert [r.label for r in train] == [0, 1, 1, 2, 2, 2]
    place = [r.name for r in train].index(f"{tar}:patch_images/train/n03_1.JPEG")
    expected = before[Split.TRAIN].copy()
    expected[place] = b"another 1 of n03"
    assert train[place - 1].name.endswith("train.tar:n03.tar/n03_0.JPEG")
    assert [r.image for r in train] == expected
    part = pickle.loads(pickle.dumps(View(train, [place])))  # as workers get it
    assert part[0] == train[place]
    validation = [r.image for r in opened(of_2010, Split.VALIDATION)]
    first, _, *others = before[Split.VALIDATION]
    assert validation == [first, b"another 2 of val", *others]
    assert [r.image for r in opened(of_2010, Split.TEST)] == before[Split.TEST]
    tar.write_bytes(tar_bytes({"n03_1.JPEG": b"where does it belong?"}))
    refused(of_2010, Split.TRAIN, tar.name, "no images", "train/, val/ and test/")
    tar.write_bytes(tar_bytes(patches)[:700])
    refused(of_2010, Split.TEST, tar.name, "not a whole tar")


def test_a_thousand_parts_of_a_tar_hold_no_file_open(of_2010, monkeypatch):
    tar = opened(of_2010, Split.TRAIN)
    expected = list(tar)
    opened_files = []
    to_open = os.open
    monkeypatch.setattr(
        os, "open", lambda *given: opened_files.append(given) or to_open(*given)
    )
    views = [View(tar, [i]) for i in range(len(tar))]
    parts = [pickle.loads(pickle.dumps(view)) for view in views]  # as workers get them
    assert not opened_files
    assert [part[0] for part in parts] == expected
    assert len(opened_files) == len(parts)


def test_single_pictures_may_be_compressed(tmp_path):
    # Some of ILSVRC2010 are.
    picture = encoded(drawn(0), "JPEG")
    packed = gzip.compress(picture)
    files = {"1.JPEG": picture, "2.JPEG": packed, "3.JPEG": packed[:-9]}
    tar = tar_bytes({f"{TENCH}.tar": tar_bytes(files)})
    (tmp_path / TRAIN).write_bytes(tar)
    found = [record.image for record in opened(tmp_path, Split.TRAIN)]
    assert found == [picture, picture, packed[:-9]]


def test_a_devkit_whose_members_go_round_is_refused(of_2010):
    member = tarfile.TarInfo("data/readme.txt")
    member.size = -tarfile.BLOCKSIZE  # the next one is itself
    devkit = of_2010 / "ILSVRC2010_devkit-1.0.tar.gz"
    devkit.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(9_000)))
    refused(of_2010, Split.VALIDATION, devkit.name, "readme.txt has -512 bytes")


def test_ilsvrc2010_needs_its_devkit(of_2010):
    devkit = of_2010 / "ILSVRC2010_devkit-1.0.tar.gz"
    with tarfile.open(devkit) as tar:
        tar.extractall(of_2010, filter="data")
    whole = devkit.read_bytes()
    devkit.write_bytes(whole[:50])
    assert [r.label for r in opened(of_2010, Split.VALIDATION)] == [1, 2, 0, 1]
    truth = of_2010 / "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt"
    truth.write_text("3\n1\n")
    refused(of_2010, Split.VALIDATION, "1 to 4", "labels for 1 to 2")
    truth.write_text("3\n1\n7\n2")
    refused(of_2010, Split.VALIDATION, truth.name, "7", "from 1 to 3")
    truth.unlink()
    refused(of_2010, Split.VALIDATION, devkit.name, "damaged")
    devkit.unlink()
    refused(of_2010, Split.VALIDATION, f"{truth.name} is missing", devkit.name)
    (of_2010 / "meta.mat").write_bytes(b"MATLAB")
    refused(of_2010, Split.TRAIN, "meta.mat is not that of ILSVRC2010")
    (of_2010 / "ILSVRC2010_test_ground_truth.txt").unlink()


def test_both_years_in_one_folder(of_2010):
    (of_2010 / VAL).write_bytes(b"")
    with pytest.raises(InputError, match="tars of ILSVRC2012 and of ILSVRC2010"):
        tars_in(of_2010)
