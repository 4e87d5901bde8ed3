import json
import shutil

import pytest
from runs import contents, finished_run, tiny_config

from alexnet_jax import parallel, workdir
from alexnet_jax.errors import InputError
from alexnet_jax.values import flat
from alexnet_jax.workdir import write_config


def test_until_there_is_a_checkpoint_only_the_pictures_must_be_the_same(tmp_path):
    workdir.settle_config(tiny_config(), tmp_path, 100)
    other = tiny_config({"optimizer.rate": 0.1, "batch_size": 8})
    workdir.settle_config(other, tmp_path, 100)
    assert workdir.read_config(tmp_path).optimizer.rate == 0.1
    with pytest.raises(InputError, match=r"dataset.train \(100 there, 99 here\)"):
        workdir.settle_config(tiny_config({"dataset.train": "99"}), tmp_path, 99)
    shutil.copytree(finished_run() / "checkpoints" / "24", tmp_path / "checkpoints/24")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"batch_size \(8 there, 16 here\)"):
        workdir.settle_config(tiny_config(), tmp_path, 100)
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
        workdir.settle_config(tiny_config(change), tmp_path, 100)
        assert flat(workdir.read_config(tmp_path)) == flat(tiny_config(change))
        kept = json.loads((tmp_path / "config.json").read_text())
        assert kept["steps"] == change.get("steps", 24)
    else:
        with pytest.raises(InputError, match=next(iter(change))):
            workdir.settle_config(tiny_config(change), tmp_path, 100)


def test_a_run_from_before_a_key_was_there_goes_on(tmp_path):
    config = tiny_config()
    del config.accumulation, config.mesh.fc
    write_config(config, tmp_path / "config.json")
    assert flat(workdir.read_config(tmp_path)) == flat(tiny_config())
    workdir.settle_config(tiny_config(), tmp_path, 100)
    assert json.loads((tmp_path / "config.json").read_text())["accumulation"] == 1


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
    (tmp_path / "classes.txt").write_text("one\ntwo\n")
    with pytest.raises(InputError, match=r"fc8.bias is \(10,\) there and \(2,\)"):
        workdir.load_model(tmp_path, config, mesh(), views=1)
    shutil.copy(run / "classes.txt", tmp_path)
    wider = tiny_config({"dataset.image_size": 73})
    with pytest.raises(InputError, match=r"is \(72, 72, 3\), .*image_size=73"):
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
