"""What a config makes of the images."""

import shutil
import sys

import numpy as np
import pytest
from pictures import AXES, STDDEV, Numbered, encoded, write_class_folders, write_tar
from preparing import made, refused
from runs import contents, finished_run, tiny_config

from alexnet_jax import inputs
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.inputs import make_augmentation

STATISTICS = Statistics(
    mean_image=np.zeros((72, 72, 3), np.float32),
    color_stddev=np.array(STDDEV, np.float32),
    color_axes=np.array(AXES, np.float32),
)


def drawn(images: int = 1000, **augment) -> dict[str, np.ndarray]:
    """The random numbers of the first 64 images of a run."""
    changes = {f"augment.{name}": value for name, value in augment.items()}
    augmentation = make_augmentation(tiny_config(changes), STATISTICS, images)
    return augmentation.draw(first=0, count=64, side=72)


@pytest.mark.parametrize(
    ("noise", "rescale", "scale"),
    [
        (0.1, True, 1 / 1.1),  # the code of 2012 divides by 1 + coefficient …
        (0.25, True, 1 / 1.25),
        (0.0, True, 1.0),  # … where there is noise
        (0.1, False, 1.0),  # the paper
    ],
)
def test_noisy_pixels_are_divided_by_one_plus_the_noise(noise, rescale, scale):
    numbers = drawn(colour_noise=noise, rescale_noisy=rescale)
    np.testing.assert_array_equal(numbers["scale"], np.float32(scale))
    deviation = numbers["colour_offset"].std()
    assert (deviation > 0) == (noise > 0)


def test_noise_and_its_scale_end_at_an_epoch():
    numbers = drawn(
        images=20, colour_noise=0.1, rescale_noisy=True, colour_noise_until_epoch=1.5
    )
    np.testing.assert_array_equal(numbers["scale"][:30], np.float32(1 / 1.1))
    np.testing.assert_array_equal(numbers["scale"][30:], 1)
    assert numbers["colour_offset"][:30].all()
    assert not numbers["colour_offset"][30:].any()


@pytest.fixture
def folder(tmp_path):
    return write_class_folders(tmp_path / "pictures", {"a": 10, "b": 21})


def held_out(train, source="folder", share=0.1, **changes):
    return tiny_config({
        "dataset.source": source,
        "dataset.train": str(train),
        "dataset.validation": "",
        "dataset.held_out": share,
        "dataset.image_size": 32,
        "augment.crop": 28,
        "augment.offsets": 5,
        "batch_size": 4,
        **changes,
    })  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "tar", "records", "generated"])
def test_training_and_validation_divide_the_images_of_train(kind, folder, tmp_path):
    where = {
        "folder": folder,
        "tar": tmp_path / "p.tar",
        "records": tmp_path / "out",
        "generated": 31,
    }[kind]
    if kind == "tar":
        write_tar(where, folder, "p")
    elif kind == "records":
        made(folder, where)
    config = held_out(where, "folder" if kind == "tar" else kind)
    training = inputs.open_images(config, "train")
    validation = inputs.open_images(config, "validation", training.classes)
    config.dataset.held_out = 0.0
    whole = inputs.open_images(config, "train")
    assert len(whole) == 31
    assert len(validation) == {"generated": 10}.get(kind, 3)  # 1 of 10 and 2 of 21

    def seen(source):
        return sorted(name for name, _, _ in source)

    assert sorted(seen(training) + seen(validation)) == seen(whole)


def test_a_validation_folder_is_taken_before_held_out_images(folder, tmp_path):
    other = write_class_folders(tmp_path / "val", {"b": 2})
    config = held_out(folder, **{"dataset.validation": str(other)})
    assert len(inputs.open_images(config, "train")) == 31
    assert len(inputs.open_images(config, "validation", ("a", "b"))) == 2
    config = held_out(folder, share=0.0)
    with pytest.raises(InputError) as none:
        inputs.open_images(config, "validation", ("a", "b"))
    assert str(none.value) == (
        "dataset.validation='': names nothing to read; set dataset.validation, or "
        "dataset.held_out=0.1 to validate on a tenth of the training images"
    )
    with pytest.raises(InputError, match=r"dataset.validation='': names nothing to"):
        inputs.open_images(held_out(folder), "test", ("a", "b"))


@pytest.mark.parametrize("kind", ["folder", "records"])
def test_the_statistics_do_not_see_held_out_images(kind, folder, tmp_path):
    where = folder
    if kind == "records":  # whose statistics are of all of them
        where = tmp_path / "out"
        made(folder, where)
    config = held_out(where, kind)
    training = inputs.open_images(config, "train")
    run = tmp_path / "run"
    run.mkdir()
    kept, statistics = inputs.surveyed(training, config, run)
    assert kept is training
    square = inputs.make_square(config)
    mean = np.mean([square.pixels(record) for record in training], axis=0)
    np.testing.assert_allclose(statistics.mean_image, mean, rtol=1e-5)


def test_the_statistics_may_be_those_of_the_run_to_start_from(folder, tmp_path):
    start = {"start.checkpoint": str(finished_run()), "start.statistics": True}
    sizes = {"dataset.image_size": 72, "augment.crop": 64, "augment.offsets": 9}
    config = held_out(folder, **start, **sizes)
    (folder / "a" / "0.JPEG").write_bytes(b"rubbish")
    training = inputs.open_images(config, "train")
    run = tmp_path / "run"
    run.mkdir()
    kept, statistics = inputs.surveyed(training, config, run)
    theirs = Statistics.load(finished_run() / "statistics.npz")
    for name, own in vars(theirs).items():
        np.testing.assert_array_equal(getattr(statistics, name), own)
    assert len(kept) == len(training) - 1  # all images are read all the same
    shutil.rmtree(run)
    run.mkdir()
    config = held_out(folder, **start)
    with pytest.raises(InputError) as wrong:
        inputs.surveyed(training, config, run)
    assert str(wrong.value) == (
        f"start.checkpoint={str(finished_run())!r}: its mean image has 72 pixels, and "
        "dataset.image_size=32; set that to the same, or start.statistics=False"
    )
    assert "statistics.npz" not in contents(run)


@pytest.mark.parametrize(
    ("images", "fits"), [(3, 2), (4, 4), (31, 16), (100, 64)]
)  # powers of two, which divide over the devices
def test_a_batch_that_fits_is_named(images, fits):
    config = tiny_config({"batch_size": 128})
    with pytest.raises(InputError) as large:
        inputs.require_a_batch(Numbered(images), config)
    assert str(large.value) == (
        f"batch_size=128: more than the {images} images of dataset.train='100'; set "
        f"batch_size={fits} or less"
    )


def test_images_of_another_size_than_the_networks_are_named(tmp_path):
    for side, name in ((30, "small"), (520, "large")):
        for i in range(3):
            (tmp_path / name / "abc"[i]).mkdir(parents=True)
            pixels = np.zeros((side, side + 9, 3), np.uint8)
            (tmp_path / name / "abc"[i] / "1.png").write_bytes(encoded(pixels))
    (tmp_path / "small" / "a" / "2.png").write_bytes(b"rubbish")

    def hints(where, **changes):
        config = held_out(tmp_path / where, share=0.0, **changes)
        return list(inputs.size_hints(inputs.open_images(config, "train"), config))

    assert hints("small") == [
        "images: half of them have 30 pixels or fewer on the shorter side; "
        "dataset.image_size=32 enlarges them, which adds no detail"
    ]
    assert hints("small", **{"start.checkpoint": "x"}) == []
    assert hints("small", **{"dataset.image_size": 30}) == []
    assert hints("large") == [
        "images: half of them have 520 pixels or more on the shorter side, and "
        "decoding them takes most of the time; make them small once: python -m "
        f"alexnet_jax.prepare --source={tmp_path}/large --destination=DIR "
        "--image_size=32"
    ]
    assert hints("large", **{"dataset.image_size": 66}) == []


def test_a_home_directory_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(inputs.open_images(held_out("~/pictures"), "train")) == 28


def test_tfds_is_an_extra(folder, tmp_path, monkeypatch):
    made(folder, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    for where, source in ((folder, "folder"), (tmp_path / "out", "records")):
        assert len(inputs.open_images(held_out(where, source), "train")) == 28
    missing = "needs a library that is not installed; pip install 'alexnet_jax[tfds]'"
    config = held_out("train", "tfds", share=0.0, **{"dataset.tfds_name": "mnist"})
    refused(
        lambda: inputs.open_images(config, "train"),
        f"dataset.tfds_name='mnist', dataset.train='train': {missing}",
    )
    refused(lambda: made(folder, tmp_path / "more"), f"alexnet_jax.prepare: {missing}")
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "ILSVRC2012_val_00000001.JPEG").touch()
    refused(
        lambda: inputs.open_images(held_out(flat), "train"),
        f"ILSVRC2012's classes and labels: {missing}",
    )
