import json
import shutil

import numpy as np
import pytest
from apps import refusal, run_app
from pictures import encoded, write_class_folders
from preparing import prepared_with
from runs import (
    copy_of_finished_run,
    finished_run,
    logged,
    tiny_config,
    tiny_flags,
    unsealed,
)

from alexnet_jax.errors import ImageError, InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.train import train

EMPTY = {"dataset.train": "", "dataset.validation": ""}


@pytest.mark.parametrize("batch_size", [16, 40, 24])
def test_it_answers_what_training_logged(batch_size):
    config = tiny_config({"batch_size": batch_size})
    rates = evaluate([finished_run()], config)
    last = logged(finished_run())[-1]
    assert rates == {
        "images": 40,
        "views": 1,
        "models": 1,
        "loss": pytest.approx(last["validation/loss"], rel=1e-6),
        "top1_error": last["validation/top1_error"],
        "top5_error": last["validation/top5_error"],
    }


def test_the_command_prints_one_json_object_last():
    answer = run_app("evaluate", f"--checkpoint={finished_run()}", "--views=10")
    assert answer.status == 0
    printed = json.loads(answer.out.splitlines()[-1])
    assert printed == evaluate([finished_run()], views=10)
    assert printed["views"] == 10
    assert printed["loss"] != evaluate([finished_run()], tiny_config())["loss"]


def test_the_best_checkpoint_is_evaluated_when_asked_for():
    lines = [x for x in logged(finished_run()) if "validation/loss" in x]
    best = min(lines, key=lambda line: line["validation/top1_error"])
    rates = evaluate([finished_run()], tiny_config(), best=True)
    assert rates["loss"] == pytest.approx(best["validation/loss"], rel=1e-6)
    run = f"--checkpoint={finished_run()}"
    answers = [run_app("evaluate", run, flag).out for flag in ("--best", "--nobest")]
    losses = [json.loads(out.splitlines()[-1])["loss"] for out in answers]
    assert losses == pytest.approx(
        [best["validation/loss"], lines[-1]["validation/loss"]]
    )


def test_five_classes_have_no_top_5_error_and_pipes_no_bar(tmp_path):
    folder = write_class_folders(tmp_path / "pictures", dict.fromkeys("abcde", 4))
    source = {
        "dataset.source": "folder",
        "dataset.train": str(folder),
        "dataset.validation": str(folder),
    }
    flags = tiny_flags(tmp_path / "run", {**source, "steps": 1})
    trained = run_app("main", *flags)
    assert (trained.status, trained.err) == (0, "")
    assert "top-1 error" in trained.out
    assert max(map(len, trained.out.replace(str(tmp_path), "").splitlines())) <= 100
    answer = run_app("evaluate", f"--checkpoint={tmp_path}/run")
    assert (answer.status, answer.err) == (0, "")
    words, printed = answer.out.splitlines()
    assert words.startswith("20 images, 1 view(s), 1 model(s): loss ")
    assert json.loads(printed)["top5_error"] == 0.0
    assert "top-5" not in trained.out + words
    ten = run_app("evaluate", f"--checkpoint={finished_run()}")
    assert ", top-5 error " in ten.out


def test_an_ensemble_averages_and_the_split_is_chosen(tmp_path):
    twin = copy_of_finished_run(tmp_path / "twin")
    alone = evaluate([twin], tiny_config(), split="train")
    assert alone["images"] == 100
    both = evaluate([twin, finished_run()], tiny_config(), split="train")
    assert both == {**alone, "models": 2, "loss": pytest.approx(alone["loss"])}

    shutil.rmtree(twin / "checkpoints" / "24")  # a model that answers otherwise
    older = evaluate([twin], tiny_config(), split="train")["loss"]
    mixed = evaluate([twin, finished_run()], tiny_config(), split="train")["loss"]
    assert older != alone["loss"]
    # −log is convex: an average is better than the models are on average.
    assert mixed < (older + alone["loss"]) / 2


def test_an_ensemble_knows_the_same_classes(tmp_path):
    other = copy_of_finished_run(tmp_path / "other")
    names = (other / "classes.txt").read_text().splitlines()
    (other / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    unsealed(other)
    with pytest.raises(InputError, match=r"other: its classes.txt differs"):
        evaluate([finished_run(), other], tiny_config())


def test_unreadable_images_are_an_error_or_counted(tmp_path, capsys):
    for name in (finished_run() / "classes.txt").read_text().split():
        (tmp_path / name).mkdir()
        picture = encoded(np.full((80, 90, 3), len(name), np.uint8))
        (tmp_path / name / "1.png").write_bytes(picture)
    (tmp_path / "disc" / "2.jpg").write_bytes(b"rubbish")
    (tmp_path / "disc" / "3.jpg").symlink_to(tmp_path / "gone.jpg")
    changes = {"dataset.source": "folder", "dataset.validation": str(tmp_path)}
    config = tiny_config(changes)
    with pytest.raises(ImageError) as refused:
        evaluate([finished_run()], config)
    assert str(refused.value) == (
        f"{tmp_path}/disc/2.jpg: cannot be decoded: not a known picture format; repair "
        "it, or leave such images out with --allow_unreadable"
    )
    rates = evaluate([finished_run()], config, allow_unreadable=True)
    assert rates["images"] == 10
    told = capsys.readouterr().err
    assert "disc/2.jpg: cannot be decoded: not a known picture format" in told
    assert "disc/3.jpg: cannot be read: No such file or directory" in told
    (tmp_path / "nonsense").mkdir()
    (tmp_path / "nonsense" / "1.png").write_bytes(picture)
    with pytest.raises(InputError, match=r"dataset.validation: the class 'nonsense'"):
        evaluate([finished_run()], config)


def test_what_a_config_leaves_empty_is_the_runs():
    run = finished_run()
    rates = evaluate([run], tiny_config())
    assert evaluate([run], tiny_config({**EMPTY, "dataset.source": "tfds"})) == rates
    half = {"dataset.train": "", "dataset.validation": "60"}
    assert evaluate([run], tiny_config(half))["images"] == 60
    assert evaluate([run], tiny_config(half), split="train")["images"] == 100
    assert evaluate([run], tiny_config({"dataset.validation": ""})) == rates


def test_a_run_that_held_images_out_is_evaluated_on_them(tmp_path):
    classes = (finished_run() / "classes.txt").read_text().split()
    folder = write_class_folders(tmp_path / "pictures", dict.fromkeys(classes, 5))
    config = tiny_config({
        "steps": 1,
        "dataset.source": "folder",
        "dataset.train": str(folder),
        "dataset.validation": "",
        "dataset.held_out": 0.2,
    })  # fmt: skip
    run = tmp_path / "run"
    assert train(config, run) is None
    rates = evaluate([run])
    last = logged(run)[-1]
    assert rates["images"] == 10
    assert rates["loss"] == pytest.approx(last["validation/loss"], rel=1e-6)
    # Of whichever config: the share that the run held out is the one to evaluate.
    other = tiny_config({**EMPTY, "dataset.held_out": 0.4})
    assert evaluate([run], other) == rates
    assert evaluate([run], tiny_config(EMPTY), split="train")["images"] == 40
    moved = shutil.move(folder, tmp_path / "moved")
    flags = f"--checkpoint={run}", f"--config.dataset.train={moved}"
    answer = run_app("evaluate", *flags)
    assert json.loads(answer.out.splitlines()[-1]) == pytest.approx(rates)
    answer = run_app("evaluate", flags[0], f"--config.dataset.validation={moved}")
    assert json.loads(answer.out.splitlines()[-1])["images"] == 50


def test_a_mesh_of_the_training_becomes_one_of_this_machine(tmp_path):
    run = copy_of_finished_run(tmp_path / "run")
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"data": 1,', '"data": 64,'))
    flags = f"--checkpoint={run}", "--config.dataset.validation=60"
    answer = run_app("evaluate", *flags)
    assert json.loads(answer.out.splitlines()[-1])["images"] == 60
    line = refusal("evaluate", *flags, "--config.mesh.data=32")
    assert line.startswith("error: mesh.data=32, mesh.tower=1: there are 8 device(s)")


def test_imagenets_test_images_are_evaluated_when_asked_for(tmp_path):
    prepared = prepared_with(tmp_path, {"train": 3, "validation": 2, "test": 4})
    config = tiny_config({
        "batch_size": 2,
        "steps": 1,
        "dataset.source": "records",
        "dataset.train": str(prepared),
        "dataset.validation": str(prepared),
        "dataset.image_size": 32,
        "augment.crop": 28,
        "augment.offsets": 5,
        "network.sizes": (5, 5, 3, 3, 3),
        "network.strides": (1,) * 5,
    })  # fmt: skip
    assert train(config, tmp_path / "run") is None
    images = {
        split: evaluate([tmp_path / "run"], config, split=split)["images"]
        for split in ("train", "validation", "test")
    }
    assert images == {"train": 4, "validation": 2, "test": 4}
    run, split = f"--checkpoint={tmp_path}/run", "--split=test"
    answer = run_app("evaluate", run, split, "--views=10")
    assert answer.status == 0, answer
    assert json.loads(answer.out.splitlines()[-1])["images"] == 4


def test_the_config_must_be_of_the_network():
    with pytest.raises(InputError, match=r"network.units \(\[16, 16\] there, \[8, 8\]"):
        evaluate([finished_run()], tiny_config({"network.units": (8, 8)}))


def test_bad_flags_are_refused(tmp_path):
    assert "--checkpoint: must be given" in refusal("evaluate")
    assert "--checkpoint=: name a work" in refusal("evaluate", "--checkpoint=")
    nothing = refusal("evaluate", f"--checkpoint={tmp_path}")
    assert "config.json: no such file" in nothing
    few = refusal("evaluate", "--checkpoint=x", "--views=3")
    assert few == "error: --views=3: value should be one of <1|9|10>"
    bad = refusal("evaluate", "--checkpoint=x,y", "--weights=a")
    assert bad == "error: --weights=a: must be numbers, 0 or more"
    run = finished_run()
    for weights in ("1", "1,2,3", "0,0", "-1,3", "1,inf", "1,nan"):
        with pytest.raises(InputError, match=r"--weights=.*must be 2 numbers, one for"):
            evaluate([run, run], weights=list(map(float, weights.split(","))))
    other = refusal("evaluate", "--checkpoint=x", "--split=tests")
    assert other == (
        "error: --split=tests: value should be one of <validation|train|test>"
    )
    untouched = "--checkpoint=x", "--split=test"  # allowed: the next mistake is named
    assert "x/config.json: no such file" in refusal("evaluate", *untouched)
