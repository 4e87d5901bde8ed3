import json
import math
import random
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from apps import run_app, start_app
from pictures import encoded, write_class_folders, write_tar
from runs import (
    assert_same_weights,
    contents,
    copy_of_finished_run,
    finished_run,
    interrupt_after_line,
    logged,
    tiny_config,
    tiny_flags,
    weights,
)

from alexnet_jax import schedules
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data.files import locked
from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.processes import stop_signal
from alexnet_jax.schedules import chance_error
from alexnet_jax.train import train


def start_training(workdir: Path, **changes):
    """The real command, saving often."""
    changes = {"checkpoint_every_steps": 2, **changes}
    return start_app(workdir.parent, "main", *tiny_flags(workdir, changes))


def last_line(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def test_a_run_killed_at_any_moment_ends_like_one_never_interrupted(tmp_path):
    workdir = tmp_path / "run"
    rng = random.Random(2012)
    for kill in range(5):
        # Inside of a checkpoint's writing, or anywhere.
        writing, delay = kill % 2 == 0, rng.random() * 0.05
        line = min(last_line(workdir) + rng.randint(1, 4), 15)
        training = start_training(workdir, **{"dataset.threads": 1 + int(kill == 3)})
        while last_line(workdir) < line or (
            writing and not list(workdir.glob("checkpoints/*tmp*"))
        ):
            assert training.is_alive()
            time.sleep(0.002)
        time.sleep(0 if writing else delay)
        training.kill()
        training.join()
        assert training.exitcode == -signal.SIGKILL
    training = start_training(workdir)
    training.join()
    assert training.exitcode == 0
    assert logged(workdir) == logged(finished_run())
    assert_same_weights(workdir, finished_run())


def test_sigterm_saves_and_the_next_start_goes_on(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after_line(patch, 10)
        assert train(tiny_config({"steps": 22}), tmp_path) == signal.SIGTERM
    assert logged(tmp_path) == logged(finished_run())[:3]
    # Line 10 is written once step 11 is dispatched, and that step is kept.
    assert "stopped after step 11" in capsys.readouterr().out
    assert train(tiny_config(), tmp_path) is None  # to more steps than at first
    assert "continuing after step 11\n" in capsys.readouterr().out
    assert logged(tmp_path) == logged(finished_run())
    assert_same_weights(tmp_path, finished_run())


def test_the_signal_before_slurms_time_limit_saves_too(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after_line(patch, 10, signal.SIGUSR1)
        assert train(tiny_config(), tmp_path) == signal.SIGUSR1
    assert train(tiny_config(), tmp_path) is None
    assert logged(tmp_path) == logged(finished_run())
    assert_same_weights(tmp_path, finished_run())


def test_one_signal_is_noted_and_a_second_ctrl_c_acts():
    with stop_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        assert signal.getsignal(number) == signal.SIG_DFL


def test_mesh_and_logging_may_change(tmp_path):
    exact = {
        "precision": "float64"
    }  # in float32 two meshes may part (docs/machines.md)
    one, tmp_path = tmp_path / "one", tmp_path / "run"
    train(tiny_config(exact), one)
    first = {**exact, "steps": 12, "mesh.data": 2, "mesh.tower": 2}
    train(tiny_config(first), tmp_path)
    mesh = {**exact, "mesh.data": 4, "mesh.tower": 2, "mesh.fc": 2, "accumulation": 2}
    train(tiny_config({**mesh, "log_every_steps": 1, "dataset.threads": 1}), tmp_path)
    lines = {line["step"]: line for line in logged(tmp_path)}
    assert list(lines)[-4:] == [21, 22, 23, 24]
    for line in logged(one):
        if "validation/loss" in line:
            for name in ("validation/loss", "validation/top1_error"):
                assert lines[line["step"]][name] == pytest.approx(line[name], rel=1e-5)
    ours, theirs = weights(tmp_path), weights(one)  # rounded to float32
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-7)


def test_another_config_is_refused_and_nothing_touched(tmp_path):
    workdir = copy_of_finished_run(tmp_path / "run")
    before = contents(workdir)
    other = {"optimizer.rate": 0.5, "network.dropout": 0.25, "log_every_steps": 1}
    with pytest.raises(InputError) as refused:
        train(tiny_config(other), workdir)
    assert "network.dropout (0.5 there, 0.25 here)" in str(refused.value)
    assert "optimizer.rate (0.01 there, 0.5 here)" in str(refused.value)
    assert "log_every_steps" not in str(refused.value)
    with pytest.raises(InputError, match=r"steps \(24 there, 23 here\)"):
        train(tiny_config({"steps": 23}), workdir)
    assert contents(workdir) == before


def test_two_runs_at_once_are_refused_and_one_after_the_other_is_not(tmp_path):
    workdir = copy_of_finished_run(tmp_path / "run")
    before = contents(workdir)
    with (
        locked(workdir, "--workdir", "run"),
        pytest.raises(InputError, match=r"--workdir='.*/run': another run is using it"),
    ):
        train(tiny_config(), workdir)
    assert contents(workdir) == before
    assert train(tiny_config(), workdir) is None


# A rate so low that the error never improves.
PLATEAU = {
    "steps": 0,
    "dataset.train": "32",
    "optimizer.schedule": "plateau",
    "optimizer.rate": 1e-9,
    "optimizer.patience": 1,
}


def test_the_plateau_is_remembered(tmp_path, monkeypatch):
    """Five validations and three drops, where any error counts as below chance."""
    config = tiny_config(PLATEAU)
    monkeypatch.setattr(schedules, "chance_error", lambda classes, images: 1.0)
    train(config, tmp_path / "whole")
    whole = logged(tmp_path / "whole")
    validated = [line for line in whole if "validation/top1_error" in line]
    assert [line["step"] for line in validated] == [2, 4, 6, 8, 10]
    rates = [line["train/learning_rate"] for line in validated]
    np.testing.assert_allclose(rates, [1e-9, 1e-9, 1e-10, 1e-11, 1e-12])

    with monkeypatch.context() as patch:
        interrupt_after_line(patch, 6)
        assert train(config, tmp_path / "cut") == signal.SIGTERM
    train(config, tmp_path / "cut")
    assert logged(tmp_path / "cut") == whole
    assert_same_weights(tmp_path / "cut", tmp_path / "whole")
    train(config, tmp_path / "cut")  # it has ended: nothing is done again
    assert logged(tmp_path / "cut") == whole


def test_a_plateau_at_chance_does_not_end_a_training_that_has_not_begun(tmp_path):
    assert train(tiny_config({**PLATEAU, "steps": 16}), tmp_path) is None
    lines = [line for line in logged(tmp_path) if "validation/top1_error" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 14, 16]
    chance = chance_error(classes=10, images=40)
    assert min(line["validation/top1_error"] for line in lines) > chance
    assert {line["train/learning_rate"] for line in lines} == {1e-9}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    changes = {"checkpoint_every_steps": 1, "log_every_steps": 1}
    config = tiny_config({"optimizer.rate": 1e12, **changes})
    with pytest.raises(NonFiniteError, match=r"at step \d+: .* diverged") as diverged:
        train(config, tmp_path)
    newest = Checkpoints(tmp_path / "checkpoints").newest
    assert str(diverged.value).endswith(
        f"the checkpoint of step {newest} is kept; start again with a lower "
        "optimizer.rate in another --workdir"
    )
    lines = logged(tmp_path)
    assert lines
    assert all(math.isfinite(v) for line in lines for v in line.values())
    assert newest == lines[-1]["step"]
    assert all(np.isfinite(weight).all() for weight in weights(tmp_path).values())


def test_divergence_before_a_checkpoint_speaks_of_none_and_has_its_status(tmp_path):
    flags = tiny_flags(tmp_path / "run", {"optimizer.rate": 1e12})
    answer = run_app("main", *flags, "--config.checkpoint_every_steps=100")
    assert answer.status == 3
    (line,) = answer.err.splitlines()
    assert line.startswith("error: the loss is ")
    assert line.endswith(
        ": the training has diverged; no checkpoint was saved before; start again "
        "with a lower optimizer.rate"
    )
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_it_trains_outside_of_the_main_thread_in_a_folder_named_by_text(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(train, tiny_config({"steps": 24}), str(tmp_path / "run"))
        assert ended.result() is None
    assert logged(tmp_path / "run") == logged(finished_run())


def test_norms_by_layer_are_those_of_weights_and_their_changes(tmp_path):
    logs = {"log_norms_every_steps": 8, "log_every_steps": 5}
    frozen = {"optimizer.layer_drops": (("conv2", 0.0, 0.0, 0.0),)}
    after = {}
    for steps in (7, 8):
        train(tiny_config({**logs, **frozen, "steps": steps}), tmp_path)
        after[steps] = weights(tmp_path)
    line = logged(tmp_path)[-1]
    assert line["step"] == 8
    found = {key: value for key, value in line.items() if "norm/" in key}
    expected = {}
    for name, new in after[8].items():
        old, new = after[7][name].astype(float), new.astype(float)
        layer, kind = name.split(".")
        expected[f"norm/{layer}/{kind}"] = np.sqrt((new**2).sum())
        expected[f"update_norm/{layer}/{kind}"] = np.sqrt(((new - old) ** 2).sum())
    assert expected["update_norm/conv2/kernel"] == 0
    assert found == pytest.approx(expected, rel=1e-3)  # old + change is rounded
    assert len(found) == 2 * 2 * 8


def test_norms_change_no_step_and_the_lines_of_others_have_none(tmp_path):
    train(tiny_config({"log_norms_every_steps": 10}), tmp_path)
    lines = logged(tmp_path)
    norms = [any("norm/" in key for key in line) for line in lines]
    assert [line["step"] for line, has in zip(lines, norms, strict=True) if has] == [
        10, 20,
    ]  # fmt: skip
    without = [
        {k: v for k, v in line.items() if "norm/" not in k} for line in lines
    ]  # fmt: skip
    assert without == logged(finished_run())
    assert_same_weights(tmp_path, finished_run())


def test_a_checkpoint_is_saved_at_the_best_validation(tmp_path):
    changes = {"checkpoint_every_steps": 100, "checkpoints_to_keep": 1}
    train(tiny_config(changes), tmp_path)
    errors = {
        line["step"]: line["validation/top1_error"]
        for line in logged(tmp_path)
        if "validation/top1_error" in line
    }
    assert list(errors) == [7, 13, 19, 24]
    best = max(step for step in errors if errors[step] == min(errors.values()))
    kept = {int(d.name) for d in (tmp_path / "checkpoints").iterdir()}
    # Of equals the first: only a better one is saved, and the last step.
    first = min(step for step in errors if errors[step] == errors[best])
    assert kept == ({24} if errors[24] == errors[best] else {first, 24})


def test_a_work_directory_is_as_promised(tmp_path, capsys):
    workdir = finished_run()
    assert json.loads((workdir / "config.json").read_text())["batch_size"] == 16
    statistics = np.load(workdir / "statistics.npz")
    assert {n: (statistics[n].shape, statistics[n].dtype) for n in statistics} == {
        "mean_image": ((72, 72, 3), np.float32),
        "color_stddev": ((3,), np.float32),
        "color_axes": ((3, 3), np.float32),
    }
    classes = (workdir / "classes.txt").read_text().splitlines()
    assert classes[0] == "disc"
    assert len(classes) == 10
    # Lines every 5 updates and after every epoch of 6.25, the last one at the end.
    steps = [line["step"] for line in logged(workdir)]
    assert steps == [5, 7, 10, 13, 15, 19, 20, 24]
    for line in logged(workdir):
        validated = line["step"] in (7, 13, 19, 24)
        assert line["epoch"] == line["step"] * 16 / 100
        assert line["train/learning_rate"] == 0.01
        assert line.keys() == {
            *("step", "epoch", "train/loss", "train/top1_error"),
            "train/learning_rate",
            *(
                f"validation/{name}"
                for name in ("loss", "top1_error", "top5_error")
                if validated
            ),
        }
    # Every 4 steps and where a validation was better than all before: the newest three
    # and the best.
    saved, best = set(range(4, 25, 4)), 1.0
    for line in logged(workdir):
        if line.get("validation/top1_error", 1.0) < best:
            best, at = line["validation/top1_error"], line["step"]
            saved.add(at)
    kept = {int(d.name) for d in (workdir / "checkpoints").iterdir()}
    assert kept - {at} == set(sorted(saved)[-3:]) - {at}
    assert at in kept or best == logged(workdir)[-1]["validation/top1_error"]
    copy = copy_of_finished_run(tmp_path / "again")
    train(tiny_config(), copy)
    printed = capsys.readouterr().out
    assert "\n5,482 parameters\n" in printed
    assert f"done: {copy}" in printed
    assert logged(copy) == logged(workdir)


def test_pictures_of_all_kinds_train_and_rubbish_is_left_out(
    tmp_path, shared_data, capsys
):
    folder = write_class_folders(tmp_path / "pictures", dict.fromkeys("abcdefghij", 2))
    for file in (shared_data / "edge-cases").glob("*.JPEG"):
        shutil.copy(file, folder / "a" / file.name)
    config = tiny_config(
        {
            "dataset.source": "folder",
            "dataset.train": str(folder),
            "dataset.validation": str(folder),
            "steps": 4,
        }
    )
    workdir = tmp_path / "run"
    train(config, workdir)
    rubbish = {"empty.JPEG", "not_an_image.JPEG", "truncated.JPEG"}
    for name in ("unreadable.txt", "unreadable_validation.txt"):
        lines = (workdir / name).read_text().splitlines()
        named = [line.split("\t")[1].split(":")[0] for line in lines]
        assert {Path(name).name for name in named} == rubbish
    assert "3 images cannot be decoded and are left out" in capsys.readouterr().out
    assert math.isfinite(logged(workdir)[-1]["validation/loss"])

    # The same images elsewhere have the same list, which may not be damaged.
    folder.rename(tmp_path / "moved")
    tar = write_tar(tmp_path / "pictures.tar", tmp_path / "moved", "of/2012")
    for elsewhere in (tmp_path / "moved", tar):
        config.dataset.train = config.dataset.validation = str(elsewhere)
        train(config, workdir)
    (tmp_path / "moved").rename(folder)
    config.dataset.train = config.dataset.validation = str(folder)
    listed = workdir / "unreadable.txt"
    whole = listed.read_text()
    for damaged in (f"{whole}\n", whole.replace("\t", " "), f"x{whole}"):
        listed.write_text(damaged)
        with pytest.raises(InputError, match=r"unreadable.txt: is damaged, or"):
            train(config, workdir)
    listed.write_text(whole)

    # The list is valid for these images only.
    rubbish_file, moved = folder / "a" / "empty.JPEG", tmp_path / "empty.JPEG"
    rubbish_file.rename(moved)
    with pytest.raises(InputError, match=r"unreadable.txt: .*empty.JPEG.*delete it"):
        train(config, workdir)
    for name in ("unreadable.txt", "statistics.npz"):
        (workdir / name).unlink()
    train(config, workdir)
    assert len((workdir / "unreadable.txt").read_text().splitlines()) == 2
    moved.rename(rubbish_file)
    for name in ("unreadable.txt", "statistics.npz"):
        (workdir / name).unlink()

    # Images that were added or removed change the stream: the run is refused.
    (folder / "b" / "one_more.png").write_bytes(encoded(np.zeros((9, 9, 3), "u1")))
    with pytest.raises(InputError, match=r"has 31 images .* and had 30 "):
        train(config, workdir)
    write_class_folders(folder, {"k": 1})
    before = contents(workdir)
    with pytest.raises(InputError, match=r"has 11 classes, not the 10 .*'k'"):
        train(config, workdir)
    assert contents(workdir) == before


def test_a_batch_must_be_there_before_anything_is_made(tmp_path):
    with pytest.raises(InputError, match=r"batch_size=112: .* 100 images"):
        train(tiny_config({"batch_size": 112}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
