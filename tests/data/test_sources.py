import gzip
import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pictures import Numbered, encoded, write_class_folders, write_tar
from preparing import refused
from tensorflow_datasets.core import constants

from alexnet_jax.data.folders import ClassFolders, ClassTar
from alexnet_jax.data.generated import Generated
from alexnet_jax.data.images import View
from alexnet_jax.data.sources import match_classes, open_source
from alexnet_jax.errors import ImageError

KEY = "dataset.train"
CLASSES = {"beta": 3, "alpha": 2, "gamma": 12}


def opened(kind, where, role="train", **options):
    options = {"key": f"dataset.{role}", "image_size": 32, "seed": 0, **options}
    return open_source(kind, where, role, **options)


@pytest.fixture
def folder(tmp_path):
    return write_class_folders(tmp_path / "train", CLASSES)


def test_folders_are_classes_in_order_of_name(folder):
    source = opened("folder", str(folder))
    assert source.classes == ("alpha", "beta", "gamma")
    assert [label for _, _, label in source] == [0] * 2 + [1] * 3 + [2] * 12
    files = ["0", "1", "10", "11", *"23456789"]  # as names, not numbers
    assert [name for name, _, label in source if label == 2] == [
        f"{folder}/gamma/{file}.JPEG" for file in files
    ]
    for name, image, _ in source:
        with open(name, "rb") as file:
            assert file.read() == image


def test_pictures_are_found_at_any_depth_by_any_common_suffix(tmp_path):
    picture = encoded(np.zeros((4, 4, 3), np.uint8))
    wanted = ["a/1.JPG", "a/images/2.jpeg", "a/z.webp", "b/x/y/3.Png", "b/4.tif"]
    ignored = ["a/.5.png", "a/notes.txt", "b/.cache/6.png", ".git/7.png", "8.png"]
    for file in wanted + ignored:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    source = opened("folder", tmp_path)
    assert source.classes == ("a", "b")
    names = [os.path.relpath(name, tmp_path) for name, _, _ in source]
    assert sorted(names) == sorted(wanted)


def test_test_images_of_a_folder_are_those_of_the_folder(folder):
    one, other = (opened("folder", folder, role) for role in ("test", "validation"))
    assert list(one) == list(other)


def test_links_are_followed(folder, tmp_path):
    links = tmp_path / "links"
    links.mkdir()
    (links / "one").symlink_to(folder / "alpha")
    (links / "two").mkdir()
    (links / "two" / "inner").symlink_to(folder / "beta")
    source = opened("folder", links)
    assert [label for _, _, label in source] == [0, 0, 1, 1, 1]
    assert source[4].image == (folder / "beta" / "2.JPEG").read_bytes()


def test_links_that_go_round(folder):
    names = [record.name for record in opened("folder", folder)]
    first = sorted(f for f in folder.iterdir() if f.is_dir())[0]
    (first / "again").symlink_to(first)
    assert [record.name for record in opened("folder", folder)] == names


def test_a_folder_that_cannot_be_listed(folder, monkeypatch):
    first = sorted(f for f in folder.iterdir() if f.is_dir())[0]
    (first / "more").mkdir()
    scandir = os.scandir

    def no_right(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", no_right)
    with pytest.raises(PermissionError, match="more"):
        opened("folder", folder)


@pytest.mark.parametrize("inside", ["train", ".", "tiny/train", "./x"])
def test_folder_and_tar_give_the_same_records(folder, tmp_path, inside):
    tar = ClassTar(write_tar(tmp_path / "a.tar", folder, inside), KEY)
    folders = ClassFolders(folder, KEY)
    assert tar.classes == folders.classes
    assert len(tar) == len(folders)
    for one, two in zip(tar, folders, strict=True):
        assert (one.image, one.label) == (two.image, two.label)
        assert isinstance(one.label, int)
    inner = os.path.normpath(f"{inside}/alpha/0.JPEG")
    assert tar[0].name == f"{tmp_path}/a.tar:{inner}"


def test_sources_survive_pickling(folder, tmp_path):
    tar = ClassTar(write_tar(tmp_path / "a.tar", folder, "train"), KEY)
    for source in (tar, ClassFolders(folder, KEY), View(tar, np.array([3, 1]))):
        again = pickle.loads(pickle.dumps(source))
        assert list(again) == list(source)
        assert again.classes == source.classes


def test_real_tar_of_full_size_pictures(shared_data):
    path = shared_data / "imagenet-samples" / "imagenet-samples-300.tar"
    source = opened("folder", str(path))
    assert len(source) == len(source.classes) == 300
    with tarfile.open(path) as tar:
        name = source[77].name.split(":")[1]
        assert tar.extractfile(name).read() == source[77].image
    assert name.split("/")[1] == source.classes[77] == sorted(source.classes)[77]


def test_real_tiny_imagenet(shared_data, tmp_path):
    path = tmp_path / "val.tar"
    packed = shared_data / "tiny-imagenet-100" / "tiny-imagenet-100-val.tar.gz"
    with gzip.open(packed) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target)
    source = opened("folder", path, "validation")
    assert len(source) == 5000
    table = (packed.parent / "classes.tsv").read_text().splitlines()
    wnids = [word for line in table for word in line.split("\t") if word[0] == "n"]
    assert set(source.classes) <= set(wnids)
    assert np.bincount([label for _, _, label in source]).tolist() == [50] * 100
    refused(lambda: opened("folder", packed), "compressed", "gunzip", packed)


def test_no_such_path(tmp_path):
    missing = tmp_path / "x"
    refused(
        lambda: opened("folder", str(missing)),
        f"dataset.train='{missing}': no such file or folder",
        "give a folder of class folders or a plain tar of one (dataset.train)",
    )
    refused(lambda: opened("folder", "", "validation"), "dataset.validation=''")


def test_a_folder_without_class_folders(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    refused(lambda: opened("folder", tmp_path), tmp_path, "holds no class folders")
    tar = write_tar(tmp_path / "a.tar", tmp_path / "1.png", "1.png")
    refused(lambda: opened("folder", tar), tar, "holds no class folders")
    tar = write_tar(tmp_path / "b.tar", tar, "a.tar")
    refused(lambda: opened("folder", tar), tar, "holds no class folders")


def test_an_empty_class_folder(folder, tmp_path):
    (folder / "delta").mkdir()
    (folder / "delta" / "readme.txt").write_text("soon")
    refused(lambda: opened("folder", folder), folder, "class folder 'delta' is empty")
    tar = write_tar(tmp_path / "a.tar", folder, "x/train")
    refused(lambda: opened("folder", tar), tar, "class folder 'delta' is empty")


def test_one_class(tmp_path):
    folder = write_class_folders(tmp_path / "x", {"only": 2})
    refused(lambda: opened("folder", folder), folder, "one class, 'only'", "two")
    assert len(opened("folder", folder, "validation")) == 2


def test_damaged_tars(folder, tmp_path):
    whole = write_tar(tmp_path / "a.tar", folder, "train")
    data = whole.read_bytes()
    last = data.rindex(b"train/gamma")  # the header of the last member
    damaged = {
        "cut in a picture": data[: last + 600],
        "cut in a header": data[: last + 100],
        "cut between": data[:last],
        "overwritten": data[:last] + b"\xff" * 512 + data[last + 512 :],
        "text": b"hello " * 500,
        "empty": b"",
    }
    for name, bad in damaged.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(bad)
        refused(lambda path=path: opened("folder", path), path)


def test_a_tar_with_an_image_outside_of_the_class_folders(folder, tmp_path):
    (folder / "logo.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8)))
    for inside in ("pets", "."):
        tar = write_tar(tmp_path / "a.tar", folder, inside)
        refused(lambda tar=tar: opened("folder", tar), tar, "logo.png'", "all in")


def test_a_tar_that_holds_an_image_twice(folder, tmp_path):
    path = write_tar(tmp_path / "a.tar", folder, "train")
    with tarfile.open(path, "a") as tar:  # as `tar --append` does
        tar.add(folder / "alpha" / "0.JPEG", "./train/alpha/0.JPEG")
    refused(lambda: opened("folder", path), path, "'train/alpha/0.JPEG' twice")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tar(folder, tmp_path, mode):
    tar = write_tar(tmp_path / "a.tar.z", folder, "train", mode)
    refused(lambda: opened("folder", tar), tar, "compressed", "no random access")


def test_a_tar_of_two_sets(folder, tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "d/train")
        tar.add(folder, "d/val")
    refused(lambda: opened("folder", path), path, "'d/train/", "'d/val/")


def test_a_tar_with_links(folder, tmp_path):
    (folder / "alpha" / "9.JPEG").symlink_to("0.JPEG")
    path = write_tar(tmp_path / "a.tar", folder, "train")
    refused(lambda: opened("folder", path), "train/alpha/9.JPEG", "--dereference")


def test_a_picture_that_goes_away(folder):
    source = ClassFolders(folder, KEY)
    (folder / "alpha" / "0.JPEG").unlink()
    with pytest.raises(ImageError, match=r"alpha/0.JPEG: cannot be read: No such"):
        source[0]


def test_view():
    part = View(Numbered(10), [1, 4, 9])
    assert len(part) == 3
    assert [name for name, _, _ in (part[i] for i in range(3))] == ["n/1", "n/4", "n/9"]
    assert part.classes == ("a", "b", "c")
    again = View(part, range(1, 3), ("c", "x", "b", "a"))
    assert [(name, label) for name, _, label in (again[0], again[1])] == [
        ("n/4", 2),
        ("n/9", 3),
    ]
    assert again.classes == ("c", "x", "b", "a")
    assert again.source is part.source  # no chain of views


def test_a_pickled_view_holds_no_other_records(folder, tmp_path):
    tar = ClassTar(write_tar(tmp_path / "a.tar", folder, "train"), KEY)
    for source in (ClassFolders(folder, KEY), tar):
        relabelled = View(source, classes=("gamma", "beta", "alpha"))
        view = View(relabelled, [4, 16])
        data = pickle.dumps(view)
        again = pickle.loads(data)
        assert list(again) == list(view)
        assert [record.label for record in again] == [1, 0]
        assert again.names == view.names
        assert [os.path.basename(name) for name in again.names] == ["2.JPEG", "9.JPEG"]
        assert b"8.JPEG" not in data
        assert len(again.source) == 2


def test_classes_match_by_name(tmp_path):
    folder = write_class_folders(tmp_path / "x", {"c": 1, "a": 2})
    source = opened("folder", folder, "validation")
    matched = match_classes(source, ("a", "b", "c"), "dataset.validation")
    assert matched.classes == ("a", "b", "c")
    assert [matched[i][2] for i in range(3)] == [0, 0, 2]
    assert [matched[i][1] for i in range(3)] == [source[i].image for i in range(3)]
    assert match_classes(source, ("a", "c"), "dataset.validation") is source
    refused(
        lambda: match_classes(source, ("a", "b"), "dataset.validation"),
        "dataset.validation",
        "'c'",
        "2 classes of training",
    )


def test_generated():
    source = opened("generated", "40", "validation", seed=3)
    expected = Generated(40, 32, 3, "validation")
    assert len(source) == 40
    np.testing.assert_array_equal(source[17][1], expected[17][1])
    refused(lambda: opened("generated", "many"), "dataset.train='many'", "4000")
    refused(
        lambda: opened("generated", "40", "test"), "generated images: no 'test' split"
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set of pictures 0 … 5 (train) and 0 … 2 (test), each all i."""

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "photo": tfds.features.Image(shape=(None, None, 3)),
                "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
                "file": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, _):
            return {
                "train": self._generate_examples(6),
                "test": self._generate_examples(3),
            }

        def _generate_examples(self, count):
            for i in range(count):
                # Bytes: TFDS would need TensorFlow to encode an array.
                picture = io.BytesIO(encoded(np.full((4, 4, 3), i, np.uint8)))
                yield i, {"photo": picture, "kind": i % 2, "file": f"{i}.png"}

    builder = Toy(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def check_toy(source, count):
    assert source.classes == ("cat", "dog")
    images = {image: label for _, image, label in (source[i] for i in range(count))}
    assert len(source) == len(images) == count
    for i in range(count):  # TFDS has shuffled them
        assert images[encoded(np.full((4, 4, 3), i, np.uint8))] == i % 2


def test_records(prepared):
    check_toy(opened("records", str(prepared)), 6)
    validation = opened("records", str(prepared), "validation")
    check_toy(validation, 3)  # no 'validation' there, but a 'test'
    assert validation[0].name == "test[0]"
    check_toy(pickle.loads(pickle.dumps(validation)), 3)
    check_toy(opened("records", str(prepared), "test"), 3)


def test_tfds_by_name(prepared, monkeypatch):
    # TFDS reads TFDS_DATA_DIR once, when it is imported.
    monkeypatch.setattr(constants, "DATA_DIR", str(prepared.parents[1]))
    name = "toy:1.0.0"
    check_toy(opened("tfds", "train", tfds_name=name), 6)
    assert len(opened("tfds", "train[:50%]", tfds_name=name)) == 3
    assert len(opened("tfds", "validation", "test", tfds_name=name)) == 3
    bad = "nosuch"
    refused(
        lambda: opened("tfds", bad, tfds_name=name), "toy:1.0.0", bad, "Unknown split"
    )


def test_what_tfds_has_not_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "DATA_DIR", str(tmp_path))
    for name in ("cifar10", "no_such_data_set"):
        refused(
            lambda name=name: opened("tfds", "train", tfds_name=name),
            f"dataset.tfds_name={name!r}",
            f"tfds build {name} --file_format=array_record",
        )
    refused(lambda: opened("tfds", "train"), "dataset.tfds_name=''")
    refused(lambda: opened("records", str(tmp_path)), tmp_path, "prepare")
