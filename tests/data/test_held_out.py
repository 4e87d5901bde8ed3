"""The images that validate where no others are given, and what a set is known by."""

import hashlib
import shutil

import numpy as np
import pytest
from pictures import Numbered, write_class_folders, write_tar
from preparing import made, records

from alexnet_jax.data import held_out
from alexnet_jax.data.folders import ClassFolders, ClassTar
from alexnet_jax.data.generated import Generated
from alexnet_jax.data.images import View, fingerprint, relative_names
from alexnet_jax.errors import InputError

CLASSES = {"one": 1, "two": 2, "ten": 10, "many": 43}
KEY = "dataset.train"


@pytest.fixture
def folder(tmp_path):
    return write_class_folders(tmp_path / "train", CLASSES)


def names_of(source) -> list[str]:
    return [name for name, _, _ in source]


@pytest.mark.parametrize(
    ("share", "of_each"),
    [
        (0.1, {"one": 0, "two": 1, "ten": 1, "many": 4}),
        (0.5, {"one": 0, "two": 1, "ten": 5, "many": 22}),  # 21.5, to even
        (0.99, {"one": 0, "two": 1, "ten": 9, "many": 42}),  # one is left to train on
    ],
)
def test_a_share_of_each_class_is_held_out(folder, share, of_each):
    source = ClassFolders(folder, KEY)
    training, validation = held_out.split(source, share)
    counts = np.bincount([label for _, _, label in validation], minlength=4)
    assert dict(zip(source.classes, counts.tolist(), strict=True)) == of_each
    assert sorted(names_of(training) + names_of(validation)) == names_of(source)
    assert training.classes == validation.classes == source.classes


def test_the_lowest_hashes_of_a_class_are_held_out():
    labels = np.array([1, 0, 1, 0, 1, 1, 0])
    hashes = np.array([5, 9, 2, 1, 7, 3, 4], np.uint64)
    chosen = held_out.held_out(labels, hashes, 0.4)
    assert np.flatnonzero(chosen).tolist() == [2, 3, 5]  # 2 and 3 of class 1, 1 of 0


def test_the_same_images_wherever_they_lie(folder, tmp_path):
    source = ClassFolders(folder, KEY)
    _, validation = held_out.split(source, 0.2)
    expected = [name.removeprefix(f"{folder}/") for name in names_of(validation)]
    assert len(expected) == 12

    moved = ClassFolders(shutil.copytree(folder, tmp_path / "b"), KEY)
    tar = ClassTar(write_tar(tmp_path / "x.tar", folder, "deep/inside"), KEY)
    assert fingerprint(moved) == fingerprint(tar) == fingerprint(source)
    for other in (moved, tar):
        _, again = held_out.split(other, 0.2)
        assert fingerprint(again) == fingerprint(validation)
        assert [n.split("/")[-2:] for n in names_of(again)] == [
            n.split("/") for n in expected
        ]


def test_most_images_keep_their_role_when_one_is_added(folder):
    def validating():
        return set(names_of(held_out.split(ClassFolders(folder, KEY), 0.3)[1]))

    before = validating()
    shutil.copy(folder / "many" / "0.JPEG", folder / "many" / "new.JPEG")
    assert len(before ^ validating()) <= 2


def test_records_and_generated_images_are_held_out_too(folder, tmp_path):
    made(folder, tmp_path / "out")
    prepared = records(tmp_path / "out")
    assert prepared.labels.tolist() == [label for _, _, label in prepared]
    training, validation = held_out.split(prepared, 0.1)
    assert (len(training), len(validation)) == (50, 6)
    assert fingerprint(training) != fingerprint(validation)  # without names
    drawn = Generated(40, 32, 0, "train")
    assert drawn.labels.tolist() == [label for _, _, label in drawn]
    training, validation = held_out.split(drawn, 0.25)
    assert sorted(label for _, _, label in validation) == list(range(10))


def test_what_has_nothing_to_hold_out_is_refused(tmp_path):
    single = write_class_folders(tmp_path / "single", {"a": 1, "b": 1})
    with pytest.raises(InputError, match=r"held_out=0.1: every class has one image"):
        held_out.split(ClassFolders(single, KEY), 0.1)
    with pytest.raises(InputError, match=r"dataset.validation='train\[90%:\]'"):
        held_out.split(Numbered(9), 0.1)  # no list of labels


def test_names_below_the_common_folder():
    class Named:
        def __init__(self, *names):
            self.names = names

    assert relative_names(Named("a/b/c/1", "a/b/d/e/2", "a/b/d/3")) == [
        "c/1",
        "d/e/2",
        "d/3",
    ]
    assert relative_names(Named("cat/1", "cats/1")) == ["cat/1", "cats/1"]
    assert relative_names(Named("cat/1", "cat/2")) == ["1", "2"]
    assert relative_names(Named("1", "2")) == ["1", "2"]
    assert relative_names(Named()) == []


def test_a_fingerprint_is_of_names_labels_and_content(tmp_path):
    folder = write_class_folders(tmp_path / "train", {"a": 1, "b": 2})
    (folder / "b" / "1.JPEG").unlink()
    (folder / "b" / "1.JPEG").symlink_to(folder / "gone")
    digest = hashlib.sha256(b"a\0b\0a/0.JPEG\0b/0.JPEG\0b/1.JPEG\0")
    for i in np.linspace(0, 2, 64).astype(int):
        file, label = [("a/0.JPEG", 0), ("b/0.JPEG", 1), ("", -1)][i]
        data = (folder / file).read_bytes() if file else b""
        digest.update(f"{label} {len(data)} ".encode() + data)
    source = ClassFolders(folder, KEY)
    assert fingerprint(source) == {
        "images": 3,
        "classes": 2,
        "sha256": digest.hexdigest(),
    }
    swapped = View(source, classes=("b", "a"))
    assert fingerprint(swapped)["sha256"] != digest.hexdigest()


def test_images_without_names_are_held_out_too():
    training, validation = held_out.split(Generated(100, 72, 0, "train"), 0.1)
    assert (len(training), len(validation)) == (90, 10)
    assert not training.names
    assert fingerprint(training) != fingerprint(validation)
