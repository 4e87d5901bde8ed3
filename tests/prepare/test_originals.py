import functools
import io
import shutil
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from apps import refusal
from pictures import (
    class_tars,
    drawn,
    encoded,
    write_class_folders,
)
from preparing import SIZE, made, prepared_with, records, refused

from alexnet_jax.data.ilsvrc import Split
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.sources import open_source
from alexnet_jax.data.tfds import Tfds


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


def test_tars_by_other_names(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.tar").write_bytes(class_tars({"n01": 1}))
    refused(
        lambda: made(tmp_path / "source", tmp_path / "out"), "ILSVRC2012_img_train.tar"
    )


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


def test_images_that_would_not_be_read_are_named(source, tmp_path):
    (source / "val").rename(source / "valid")
    refused(lambda: made(source, tmp_path / "out"), "train/", "in valid/", "rename")
    made(source, tmp_path / "train", [Split.TRAIN])  # asked for: no doubt
    shutil.rmtree(source / "valid")
    (source / "devkit").mkdir()
    (source / "devkit" / "readme.txt").write_text("none")
    made(source, tmp_path / "alone")
    # Classes, one of them with the name of a split.
    write_class_folders(tmp_path / "ways", {"train": 2, "cat": 2})
    refused(lambda: made(tmp_path / "ways", tmp_path / "out"), "images in cat/")


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
    refused(lambda: made(empty, out), "none of the 1 images of train", "cat/1.jpg")


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


def test_bad_flags(source, tmp_path):
    given = f"--source={source}", f"--destination={tmp_path / 'out'}"
    assert "--source: must be given" in refusal("prepare", given[1])
    assert "--split='tset': allowed are train" in refusal(
        "prepare", *given, "--split=train,tset"
    )
    assert "--encoding=png" in refusal("prepare", *given, "--encoding=png")
    assert "--workers=0" in refusal("prepare", *given, "--workers=0")
    assert not (tmp_path / "out").exists()
