"""A checkpoint, and the files beside it, are what was written or named in one line."""

import errno
import json
import shutil
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import jax
import numpy as np
import pytest
from apps import refusal, run_app
from runs import (
    assert_same_weights,
    contents,
    copy_of_finished_run,
    finished_run,
    logged,
    tiny_config,
    tiny_flags,
)
from test_checkpoint import OPTIMIZER, like, numbered_state

from alexnet_jax import manifest, workdir
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import InputError
from alexnet_jax.network.alexnet import AlexNet
from alexnet_jax.step import initial_params, state_of
from alexnet_jax.train import train


def flip(file: Path, at: float, bit: int = 3) -> None:
    """Flip a bit of the byte at a share of a file's length."""
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    file.write_bytes(data)


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder: Path) -> Path:
    return max(files_of(folder), key=lambda file: file.stat().st_size)


@pytest.fixture
def saved(tmp_path) -> Path:
    """The folder of a checkpoint."""
    with closing(Checkpoints(tmp_path / "checkpoints", keep=2)) as checkpoints:
        checkpoints.save(numbered_state(3), {"seconds": 1.5})
    return tmp_path / "checkpoints" / "3"


def restored(folder: Path, reads_all: bool = True):
    checkpoints = Checkpoints(folder.parent, keep=2 if reads_all else None)
    with closing(checkpoints):
        state = like(numbered_state(3))
        return checkpoints.restore(state) if reads_all else None


def same(state) -> bool:
    pairs = jax.tree.map(np.array_equal, state, numbered_state(3))
    return jax.tree.all(pairs)


def test_no_flipped_bit_is_restored(saved):
    named = 0
    for file in files_of(saved):
        name = str(file.relative_to(saved))
        if name in manifest.LATER:
            continue
        data = file.read_bytes()
        for at in (0, 0.31, 0.5, 0.77, 1 - 1e-9):
            flip(file, at)
            with pytest.raises(InputError) as refused:
                restored(saved)
            assert f"{saved}: a damaged checkpoint ({name}" in str(refused.value) or (
                name == "metrics/metrics"
            )
            assert "\n" not in str(refused.value)
            file.write_bytes(data)
            named += 1
    assert named == 5 * (len(files_of(saved)) - len(manifest.LATER))
    state, memory = restored(saved)
    assert same(state)
    assert memory == {"seconds": 1.5}


def test_what_orbax_writes_last_changes_no_number(saved):
    for name in manifest.LATER:
        for at in (0, 0.5, 1 - 1e-9):
            flip(saved / name, at)
            assert same(restored(saved)[0])
            flip(saved / name, at)


def test_orbax_alone_restores_other_weights(saved):
    (saved / manifest.NAME).unlink()
    file, others, flips = largest(saved / "params"), 0, 12
    for place in range(flips):
        flip(file, (place + 0.5) / flips)
        with suppress(InputError):
            others += not same(restored(saved)[0])
        flip(file, (place + 0.5) / flips)
    print(f"\nwithout a manifest, {others} of {flips} are restored as other weights")
    assert others > flips / 2  # else the manifests can go


@pytest.mark.parametrize("change", ["absent", "cut", "longer", "unreadable"])
def test_every_kind_of_damage_is_named(change, saved, monkeypatch):
    file = largest(saved / "rest")
    name = str(file.relative_to(saved))
    if change == "absent":
        file.unlink()
    elif change == "unreadable":

        def bad_sector(path):
            if path == file:
                raise OSError(errno.EIO, "Input/output error")
            return whole(path)

        whole = manifest.checksum
        monkeypatch.setattr(manifest, "checksum", bad_sector)
    else:
        data = file.read_bytes()
        file.write_bytes(data[:-1] if change == "cut" else data + b"x")
    with pytest.raises(InputError) as refused:
        restored(saved)
    assert f"a damaged checkpoint ({name}" in str(refused.value)
    assert "there is no other: restore it from a copy" in str(refused.value)
    restored(saved, reads_all=False)  # 'rest' is not read


def test_a_checkpoint_of_an_earlier_version_is_read_without_a_manifest(saved):
    (saved / manifest.NAME).unlink()
    assert same(restored(saved)[0])


def test_a_checkpoint_without_a_manifest_never_gets_its_name(tmp_path, monkeypatch):
    directory = tmp_path / "checkpoints"
    with closing(Checkpoints(directory, keep=2)) as checkpoints:
        checkpoints.save(numbered_state(3), {})

    def full(folder, run):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(manifest, "write_manifest", full)
    checkpoints = Checkpoints(directory, keep=2)
    checkpoints.save(numbered_state(4), {})
    with pytest.raises(InputError, match="No space left"):
        checkpoints.close()
    assert manifest.steps_in(directory) == [3]


@pytest.mark.slow
def test_the_time_that_manifests_take(tmp_path, monkeypatch):
    # The paper's network: numbers of which no disk or compression saves anything.
    network = AlexNet()
    shapes = jax.eval_shape(
        lambda: state_of(initial_params(network, 0, 224), OPTIMIZER)
    )
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda a: jax.numpy.asarray(rng.standard_normal(a.shape), a.dtype), shapes
    )
    seconds: dict[str, list[float]] = {}

    @contextmanager
    def timed(what: str):
        start = time.perf_counter()
        yield
        seconds.setdefault(what, []).append(time.perf_counter() - start)

    for number in range(6):
        folder, kind = tmp_path / str(number), "with" if number % 2 else "without"
        with monkeypatch.context() as patch:
            if kind == "without":
                patch.setattr(manifest, "write_manifest", lambda folder, run: None)
            with (
                timed(f"save {kind}"),
                closing(Checkpoints(folder, keep=1)) as checkpoints,
            ):
                checkpoints.save(state, {})
        with timed(f"restore {kind}"), closing(Checkpoints(folder, keep=1)) as again:
            again.restore(like(state))
        files = sum(file.stat().st_size for file in files_of(folder))
        if kind == "with":
            with timed("check alone"):
                assert manifest.damage(folder / "0") == ""
        shutil.rmtree(folder)
    print(f"\n{files / 1e6:,.0f} MB; seconds of each round, least first")
    for what, own in sorted(seconds.items()):
        print(f"{what:16}", *(f"{s:6.2f}" for s in sorted(own)))


# --- a damaged newest checkpoint, and the one before it ------------------------------


def damaged_run(tmp_path: Path) -> Path:
    run = copy_of_finished_run(tmp_path / "run")
    flip(largest(run / "checkpoints" / "24" / "params"), 0.5)
    return run


def test_the_one_before_is_offered_and_taken_and_nothing_is_lost(tmp_path):
    run = damaged_run(tmp_path)
    newest = run / "checkpoints" / "24"
    name = largest(newest / "params").relative_to(newest)
    before, bad = contents(run), contents(newest)
    line = (
        f"error: {newest}: a damaged checkpoint ({name} is not what was written); give "
        "main, evaluate, predict or convert --skip_damaged to take step 20 instead, or "
        "move this folder away"
    )
    evaluate = ["evaluate", f"--checkpoint={run}"]
    assert refusal("main", *tiny_flags(run)) == line
    assert refusal(*evaluate) == line
    assert refusal("convert", f"--source={run}", f"--destination={run}.pth") == line
    assert contents(run) == before

    twenty = copy_of_finished_run(tmp_path / "twenty")
    shutil.rmtree(twenty / "checkpoints" / "24")
    answer, expected = (
        run_app(*evaluate, "--skip_damaged"),
        run_app("evaluate", f"--checkpoint={twenty}"),
    )
    assert answer.out.splitlines()[-1] == expected.out.splitlines()[-1]
    taken = f"{newest}: a damaged checkpoint ({name} is not what was written)"
    assert f"{taken}; step 20 is taken" in answer.err
    assert contents(run) == before

    answer = run_app("main", *tiny_flags(run), "--skip_damaged")
    assert answer.status == 0, answer
    assert f"{taken}; kept as 24.damaged; step 20 is taken" in answer.err
    assert "continuing after step 20" in answer.out
    assert contents(run / "checkpoints" / "24.damaged") == bad
    assert logged(run) == logged(finished_run())
    assert_same_weights(run, finished_run())


@pytest.mark.parametrize(
    "changed",
    [
        {"other": 3, "custom_metadata": {"a": 1}},
        {"commit_timestamp_nsecs": 1e300},
        {"commit_timestamp_nsecs": "soon"},
    ],
)
def test_what_orbax_notes_of_a_checkpoint_may_be_damaged(changed, tmp_path):
    with closing(Checkpoints(tmp_path, keep=3)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(numbered_state(step), {}, 0.5)
    noted = tmp_path / "1" / "_CHECKPOINT_METADATA"
    noted.write_text(json.dumps(json.loads(noted.read_text()) | changed))
    with pytest.raises(InputError) as refused:
        Checkpoints(tmp_path, keep=3)
    line = str(refused.value)
    assert line.startswith(f"{noted.parent}: a damaged checkpoint ({noted.name}: ")
    assert "--skip_damaged to take step 2 instead" in line
    Checkpoints(tmp_path).close()  # to read: 2 alone
    with closing(Checkpoints(tmp_path, keep=3, skip_damaged=True)) as checkpoints:
        assert checkpoints.newest == 2
    assert {d.name for d in tmp_path.iterdir()} == {"1.damaged", "2"}


def test_the_best_is_chosen_among_those_that_are_whole(tmp_path):
    with closing(Checkpoints(tmp_path, keep=3)) as checkpoints:
        for step, error in [(1, 0.5), (2, 0.25), (3, 0.75)]:
            checkpoints.save(numbered_state(step), {}, error)
    flip(largest(tmp_path / "2" / "params"), 0.5)
    with pytest.raises(InputError, match="--skip_damaged to take step 1 instead"):
        Checkpoints(tmp_path, best=True)
    with closing(Checkpoints(tmp_path, best=True, skip_damaged=True)) as checkpoints:
        params = checkpoints.restore_params(like(numbered_state(0).params))
    jax.tree.map(np.testing.assert_array_equal, params, numbered_state(1).params)
    flip(tmp_path / "3" / "metrics" / "metrics", 0)
    with closing(Checkpoints(tmp_path, keep=3, skip_damaged=True)) as checkpoints:
        assert (checkpoints.newest, checkpoints.best_error) == (1, 0.5)
    assert {d.name for d in tmp_path.iterdir()} == {"1", "2.damaged", "3.damaged"}
    flip(largest(tmp_path / "1" / "params"), 0.5)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="there is no other: restore it from a copy"):
        Checkpoints(tmp_path, keep=3, skip_damaged=True)
    assert contents(tmp_path) == before


# --- the files beside it -------------------------------------------------------------


def test_an_edit_of_config_json_is_held_to_the_rule_of_flags(tmp_path):
    run = copy_of_finished_run(tmp_path / "run")
    path = run / "config.json"
    kept = json.loads(path.read_text())

    def edit(**changes) -> None:
        path.write_text(json.dumps({**kept, **changes}))

    edit(optimizer={**kept["optimizer"], "rate": 0.02}, seed=1)
    line = (
        f"{path}: damaged or edited: the checkpoints were trained with other values: "
        "seed (0 there, 1 here); optimizer.rate (0.01 there, 0.02 here); put theirs "
        "back"
    )
    for app, flag in (("main", "--workdir"), ("evaluate", "--checkpoint")):
        assert refusal(app, f"{flag}={run}") == f"error: {line}"
    assert refusal("predict", f"--checkpoint={run}", "x.png") == f"error: {line}"
    edit(steps=25, log_every_steps=7)
    assert workdir.read_config(run).steps == 25
    assert train(workdir.read_config(run), run) is None
    assert logged(run)[-1]["step"] == 25


def test_a_flipped_class_name_is_named_and_repaired_by_training(tmp_path):
    run = copy_of_finished_run(tmp_path / "run")
    path = run / "classes.txt"
    before = path.read_bytes()
    flip(path, 0.3, bit=0)
    with pytest.raises(InputError, match=r"classes.txt: damaged or edited: the check"):
        workdir.read_classes(path)
    assert train(tiny_config(), run) is None
    assert path.read_bytes() == before


def test_a_flipped_bit_of_the_statistics_changes_no_number(tmp_path):
    path, refused = tmp_path / "statistics.npz", 0
    Statistics(
        np.arange(48, dtype=np.float32).reshape(4, 4, 3),
        np.array([3, 2, 1], np.float32),
        np.eye(3, dtype=np.float32),
    ).save(path)
    data, whole = path.read_bytes(), Statistics.load(path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        found = None
        with suppress(InputError):  # anything else is a traceback
            found = Statistics.load(path)
        refused += found is None
        for name, array in vars(found).items() if found else ():
            np.testing.assert_array_equal(getattr(whole, name), array)
    assert refused > len(data) / 2


def test_sealed_json_is_what_was_written_or_an_error(tmp_path):
    path, content = tmp_path / "sealed.json", {"a": {"images": 100}, "b": [1.5, "x"]}
    manifest.write_sealed(content, path)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with suppress(ValueError):
            assert manifest.read_sealed(path) == content
    for rubbish in (b"", b"[]", b"{}", b"null", b"[" * 100_000, b"\xff"):
        path.write_bytes(rubbish)
        with pytest.raises(ValueError):  # noqa: PT011
            manifest.read_sealed(path)
