import shutil
from contextlib import closing

import jax
import numpy as np
import pytest
from apps import refusal
from runs import (
    contents,
    copy_of_finished_run,
    finished_run,
    tiny_config,
    tiny_flags,
)
from small import small_network

from alexnet_jax.checkpoint import Checkpoints, holds_any
from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.optimizer import momentum_with_decay
from alexnet_jax.step import initial_params, state_of
from alexnet_jax.train import train

OPTIMIZER = momentum_with_decay(0.9, 0.0005)


def numbered_state(step: int):
    """A state in which no two numbers are the same."""
    state = jax.eval_shape(
        lambda: state_of(initial_params(small_network(), 0, 64), OPTIMIZER)
    )
    leaves, tree = jax.tree.flatten(state)
    filled = []
    for leaf in leaves:
        numbers = np.arange(leaf.size).reshape(leaf.shape) + 1e5 * len(filled) + step
        filled.append(jax.numpy.asarray(numbers, leaf.dtype))
    state = jax.tree.unflatten(tree, filled)
    return state.replace(step=jax.numpy.asarray(step, "int32"))


def like(state):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), state
    )


def test_what_is_saved_is_restored_and_the_newest_are_kept(tmp_path):
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpoints(directory, keep=2)
    assert checkpoints.newest is None
    assert not holds_any(directory)
    memory = {"seconds": 1.5, "plateau": {"best": float("inf"), "waited": 2}}
    for step in (3, 5, 9):
        checkpoints.save(numbered_state(step), {**memory, "step": step})
    checkpoints.close()
    assert {d.name for d in directory.iterdir()} == {"5", "9"}
    assert holds_any(directory)

    (directory / "12.orbax-checkpoint-tmp" / "params").mkdir(parents=True)  # a kill
    again = Checkpoints(directory, keep=2)
    assert again.newest == 9
    state, restored = again.restore(like(numbered_state(9)))
    jax.tree.map(np.testing.assert_array_equal, state, numbered_state(9))
    assert restored == {**memory, "step": 9}
    again.save(numbered_state(12), {})
    again.close()
    assert {d.name for d in directory.iterdir()} == {"9", "12"}


def steps_in(directory) -> set[int]:
    return {int(d.name) for d in directory.iterdir()}


def test_the_best_is_kept_with_the_newest_and_remembered(tmp_path):
    directory = tmp_path / "checkpoints"
    with closing(Checkpoints(directory, keep=2)) as checkpoints:
        assert checkpoints.best_error == np.inf
        for step, error in [(1, 0.5), (2, 0.25), (3, 0.5), (4, np.inf), (5, np.inf)]:
            checkpoints.save(numbered_state(step), {}, error)
        assert checkpoints.best_error == 0.25
    assert steps_in(directory) == {2, 4, 5}

    params = like(numbered_state(0).params)
    for best, step in [(True, 2), (False, 5)]:
        with closing(Checkpoints(directory, best=best)) as checkpoints:
            assert checkpoints.newest == 5
            restored = checkpoints.restore_params(params)
        jax.tree.map(
            np.testing.assert_array_equal, restored, numbered_state(step).params
        )

    with closing(Checkpoints(directory, keep=2)) as checkpoints:  # another start
        assert checkpoints.best_error == 0.25
        state, _ = checkpoints.restore(like(numbered_state(0)))
        assert int(state.step) == 5
        checkpoints.save(numbered_state(6), {}, 0.25)  # of equals the later one
        for step in (7, 8):
            checkpoints.save(numbered_state(step), {}, 0.5)
    assert steps_in(directory) == {6, 7, 8}


def test_without_a_validation_the_best_is_the_newest(tmp_path):
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(numbered_state(step), {})
    assert steps_in(tmp_path) == {2}
    with closing(Checkpoints(tmp_path, best=True)) as checkpoints:
        restored = checkpoints.restore_params(like(numbered_state(0).params))
    jax.tree.map(np.testing.assert_array_equal, restored, numbered_state(2).params)


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(numbered_state(3), {})
    state = numbered_state(4)
    bias = state.params["fc7"]["bias"].at[5].set(np.nan)
    state.params["fc7"]["bias"] = bias
    words = "a parameter is not finite after step 4: the training has diverged; the ch"
    with pytest.raises(NonFiniteError, match=f"^{words}eckpoint of step 3 is kept; "):
        checkpoints.save(state, {})
    checkpoints.close()
    assert [d.name for d in (tmp_path / "checkpoints").iterdir()] == ["3"]


def test_another_network_is_refused():
    other = like(numbered_state(0).params)
    with (
        closing(Checkpoints(finished_run() / "checkpoints")) as checkpoints,
        pytest.raises(InputError, match=r"another network: conv2.bias is \(8,\) there"),
    ):
        checkpoints.restore_params(other)


def test_reading_needs_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no such folder; give a work directory"):
        Checkpoints(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        Checkpoints(tmp_path / "checkpoints").restore_params({})


def test_what_a_kill_left_to_be_deleted_is_deleted_at_the_next_start(tmp_path):
    run = copy_of_finished_run(tmp_path / "run")
    before = contents(run / "checkpoints")
    kept = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for name in ("1", "2"):  # neither the best nor new; of one, half is gone
        shutil.copytree(kept[0], run / "checkpoints" / name)
        (run / "checkpoints" / name / "metrics" / "metrics").write_text(
            '{"top1_error": 0.99}'
        )
        (run / "checkpoints" / name / "manifest.json").unlink()
    (run / "checkpoints" / "1" / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(run / "checkpoints" / "1" / "rest")
    Checkpoints(run / "checkpoints").close()  # which only reads
    assert (run / "checkpoints" / "1").is_dir()
    assert train(tiny_config(), run) is None  # nothing is left to train
    assert contents(run / "checkpoints") == before


def test_a_device_without_room_is_no_damaged_checkpoint(monkeypatch):
    def no_room(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    with closing(Checkpoints(finished_run() / "checkpoints")) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "restore", no_room)
        monkeypatch.setattr(checkpoints, "_check_shapes", lambda like: None)
        with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
            checkpoints.restore_params({})


@pytest.mark.parametrize(
    "part",
    ["params/manifest.ocdbt", "rest/d", "memory/metadata", "metrics/metrics"],
)
def test_a_damaged_checkpoint_is_told_of_and_left_alone(part, tmp_path):
    workdir = copy_of_finished_run(tmp_path / "run")
    newest = workdir / "checkpoints" / "24"
    file = newest / part
    if file.is_dir():
        file = max(file.iterdir(), key=lambda f: f.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = contents(workdir / "checkpoints")
    line = refusal("main", *tiny_flags(workdir))
    assert "checkpoints/24: a damaged checkpoint (" in line
    assert line.endswith("to take step 20 instead, or move this folder away")
    assert contents(workdir / "checkpoints") == before
    shutil.move(newest, tmp_path / "damaged")
    assert Checkpoints(workdir / "checkpoints").newest == 20
