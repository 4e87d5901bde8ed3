import json
import shutil

import pytest
from pictures import write_class_folders, write_tar
from runs import contents, finished_run, tiny_config

from alexnet_jax import inputs, parallel, workdir
from alexnet_jax.errors import InputError
from alexnet_jax.fingerprints import fingerprints_of, note_images
from alexnet_jax.manifest import NAME
from alexnet_jax.values import flat
from alexnet_jax.workdir import write_config


def settle(config, folder):
    """What a start does with the images that the config names."""
    training = inputs.open_images(config, "train")
    validation = inputs.open_images(config, "validation", training.classes)
    sets = fingerprints_of(training, validation)
    workdir.settle_config(config, folder, len(training), sets)
    note_images(sets, folder)


def test_until_there_is_a_checkpoint_only_the_pictures_must_be_the_same(tmp_path):
    settle(tiny_config(), tmp_path)
    other = tiny_config({"optimizer.rate": 0.1, "batch_size": 8})
    settle(other, tmp_path)
    assert workdir.read_config(tmp_path).optimizer.rate == 0.1
    with pytest.raises(InputError) as refused:
        settle(tiny_config({"dataset.train": "99"}), tmp_path)
    assert str(refused.value) == (
        f"--workdir={tmp_path}: was begun with other images: dataset.train (100 there, "
        "99 here): 100 images in 10 classes there, 99 images in 10 classes here; give "
        "another --workdir, or the same images"
    )
    shutil.copytree(finished_run() / "checkpoints" / "24", tmp_path / "checkpoints/24")
    (tmp_path / "checkpoints" / "24" / NAME).unlink()  # it notes another config
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"batch_size \(8 there, 16 here\)"):
        settle(tiny_config(), tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        ({"steps": 25}, True),
        ({"steps": 23}, False),
        ({"steps": 0, "epochs": 3.84}, True),  # 24 updates of 16 are 3.84 epochs
        ({"steps": 0, "epochs": 3.0}, False),
        ({"mesh.tower": 2, "dataset.threads": 3, "checkpoints_to_keep": 1}, True),
        ({"precision": "bfloat16"}, False),
    ],
)
def test_a_run_may_be_prolonged_but_not_changed(change, accepted, tmp_path):
    shutil.copy(finished_run() / "config.json", tmp_path)
    (tmp_path / "checkpoints" / "24").mkdir(parents=True)
    if accepted:
        settle(tiny_config(change), tmp_path)
        assert flat(workdir.read_config(tmp_path)) == flat(tiny_config(change))
        kept = json.loads((tmp_path / "config.json").read_text())
        assert kept["steps"] == change.get("steps", 24)
    else:
        with pytest.raises(InputError, match=next(iter(change))):
            settle(tiny_config(change), tmp_path)


def test_a_run_whose_rates_depend_on_its_length_is_not_prolonged(tmp_path):
    polynomial = {"optimizer.schedule": "polynomial"}
    settle(tiny_config(polynomial), tmp_path)
    (tmp_path / "checkpoints" / "24").mkdir(parents=True)
    settle(tiny_config({**polynomial, "log_every_steps": 3}), tmp_path)
    with pytest.raises(InputError, match=r"steps \(24 there, 48 here\)"):
        settle(tiny_config({**polynomial, "steps": 48}), tmp_path)


def test_a_run_from_before_a_key_was_there_goes_on(tmp_path):
    config = tiny_config()
    del config.accumulation, config.mesh.fc
    write_config(config, tmp_path / "config.json")
    assert flat(workdir.read_config(tmp_path)) == flat(tiny_config())
    settle(tiny_config(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["accumulation"] == 1


CLASSES = {"ant": 3, "bee": 4, "cow": 5}


def of_folders(train, validation, **changes):
    return tiny_config({
        "dataset.source": "folder",
        "dataset.train": str(train),
        "dataset.validation": str(validation),
        **changes,
    })  # fmt: skip


def test_images_are_known_by_what_they_are_wherever_they_lie(tmp_path):
    train = write_class_folders(tmp_path / "a" / "train", CLASSES)
    val = write_class_folders(tmp_path / "a" / "val", {"bee": 2}, seed=1)
    run = tmp_path / "run"
    run.mkdir()
    settle(of_folders(train, val), run)
    (run / "checkpoints" / "4").mkdir(parents=True)  # trained: nothing else may change
    known = (run / "images.json").read_bytes()

    moved = shutil.move(tmp_path / "a", tmp_path / "b")
    tar = write_tar(tmp_path / "pets.tar", moved / "train", "pets/of/2012")
    for elsewhere in (
        moved / "train",
        f"{moved}/../b//train",  # spelled otherwise
        tar,
    ):
        config = of_folders(elsewhere, moved / "val")
        settle(config, run)
        assert flat(workdir.read_config(run)) == flat(config)
        assert (run / "images.json").read_bytes() == known


@pytest.mark.parametrize(
    ("change", "sizes"),
    [
        (lambda top: (top / "cow" / "9.JPEG").write_bytes(b"x"),
         "12 images in 3 classes there, 13 images in 3 classes here"),
        (lambda top: (top / "cow" / "4.JPEG").unlink(),
         "12 images in 3 classes there, 11 images in 3 classes here"),
        (lambda top: (top / "cow").rename(top / "dog"),
         "12 images in 3 classes both, with other names or contents"),
        (lambda top: (top / "cow" / "0.JPEG").rename(top / "cow" / "z.JPEG"),
         "12 images in 3 classes both, with other names or contents"),
        (lambda top: shutil.copy(top / "ant" / "1.JPEG", top / "cow" / "2.JPEG"),
         "12 images in 3 classes both, with other names or contents"),
    ],
)  # fmt: skip
def test_other_images_at_another_place_are_refused(change, sizes, tmp_path):
    train = write_class_folders(tmp_path / "train", CLASSES)
    run, other = tmp_path / "run", shutil.copytree(train, tmp_path / "other")
    run.mkdir()
    settle(of_folders(train, train), run)
    change(other)
    before = contents(run)
    given = {"dataset.train": of_folders(other, other)}
    if not (other / "dog").exists():  # which is no class of training
        given["dataset.validation"] = of_folders(train, other)
    for key, config in given.items():
        with pytest.raises(InputError) as refused:
            settle(config, run)
        assert str(refused.value) == (
            f"--workdir={run}: was begun with other images: {key} ({train} there, "
            f"{other} here): {sizes}; give another --workdir, or the same images"
        )
        assert contents(run) == before


def test_images_that_changed_where_they_are_get_a_warning(tmp_path, capsys):
    train = write_class_folders(tmp_path / "train", CLASSES)
    run = tmp_path / "run"
    run.mkdir()
    for _ in range(2):
        settle(of_folders(train, train), run)
    assert capsys.readouterr().out == ""
    shutil.copy(train / "ant" / "1.JPEG", train / "cow" / "2.JPEG")
    settle(of_folders(train, train), run)
    assert capsys.readouterr().out == "".join(
        f"warning: dataset.{role}: not the images that the run was begun with: 12 "
        "images in 3 classes both, with other names or contents\n"
        for role in ("train", "validation")
    )


def test_a_run_from_before_images_were_noted(tmp_path):
    train = write_class_folders(tmp_path / "train", CLASSES)
    run, other = tmp_path / "run", shutil.copytree(train, tmp_path / "other")
    run.mkdir()
    settle(of_folders(train, train), run)
    noted = (run / "images.json").read_bytes()
    (run / "images.json").unlink()
    with pytest.raises(
        InputError, match=r"another config: dataset.train \(.*other here"
    ):
        settle(of_folders(other, train), run)
    settle(of_folders(train, train), run)
    assert (run / "images.json").read_bytes() == noted
    for rubbish in ("", "[]", "{}", '{"dataset.train": {"images": 1}}'):
        (run / "images.json").write_text(rubbish)
        with pytest.raises(InputError, match=r"images.json: not two fingerprints of"):
            settle(of_folders(train, train), run)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not the JSON of a config"),
        ('{"seed": 0', "not the JSON of a config"),
        ("[1, 2]", "not the JSON of a config"),
        ("{}", "lacks the key seed"),
        ('{"seed": 0, "sead": 1}', "lacks the key batch_size"),
        ('{"network": {"conv1_size": 11}}', "lacks the key .network.conv1_stride"),
        ("\x00\x01", "not the JSON of a config"),
    ],
)
def test_a_rubbish_config_file_is_named(text, reason, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"config.json: .*{reason}"):
        workdir.read_config(tmp_path)


def test_the_other_files_of_a_work_directory_must_fit(tmp_path):
    config, run = tiny_config(), finished_run()
    for name in ("classes.txt", "statistics.npz", "checkpoints"):
        with pytest.raises(InputError, match=f"{name}: no such"):
            workdir.load_model(tmp_path, config, mesh(), views=1)
        copy = shutil.copytree if (run / name).is_dir() else shutil.copy
        copy(run / name, tmp_path / name)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        (checkpoint / NAME).unlink()  # as of an earlier version: it notes the classes
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"fc8.bias is \(10,\) there and \(2,\)"):
        workdir.load_model(tmp_path, config, mesh(), views=1)
    shutil.copy(run / "classes.txt", tmp_path)
    wider = tiny_config({"dataset.image_size": 73})
    with pytest.raises(InputError, match=r"is \(72, 72, 3\), .*image_size=73"):
        workdir.load_model(tmp_path, wider, mesh(), views=1)
    wider = tiny_config({"network.units": (10**9, 16)})
    with pytest.raises(InputError, match=r"fc7 has .* weights; the network needs more"):
        workdir.load_model(tmp_path, wider, mesh(), views=1)
    (tmp_path / "statistics.npz").write_bytes(b"PK rubbish")
    with pytest.raises(InputError, match=r"statistics.npz: not a file of statistics"):
        workdir.load_model(tmp_path, config, mesh(), views=1)


def mesh():
    return parallel.make_mesh(1, 1, 2, 1)


def test_classes_are_replaced_as_a_whole(tmp_path):
    workdir.settle_classes(("a", "b"), tiny_config(), tmp_path)
    path, reader = tmp_path / "classes.txt", tmp_path / "reader"
    reader.hardlink_to(path)  # what another process has open
    workdir.settle_classes(("c",), tiny_config(), tmp_path)
    assert (workdir.read_classes(path), workdir.read_classes(reader)) == (
        ["c"],
        ["a", "b"],
    )
    assert contents(tmp_path).keys() == {"classes.txt", "reader"}
