"""State, plateau and timing, saved and restored as one thing; Orbax stays in here.

The data position is the step itself: batch s of the training stream is a function of
the seed and s (`data.loader`), so nothing else needs keeping.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.step import State


def holds_any(directory: Path) -> bool:
    """Whether there is a whole checkpoint; half-written ones have longer names."""
    return directory.is_dir() and any(d.name.isdigit() for d in directory.iterdir())


class Checkpoints:
    """The checkpoints/ of a work directory."""

    def __init__(self, directory: Path, keep: int | None = None):
        """Opens it.

        Args:
            directory: W/checkpoints.
            keep: the newest so many are kept; None opens it for reading only.

        Raises:
            InputError: for reading, and there is none.
        """
        self._directory = directory
        if keep is None and not directory.is_dir():
            raise InputError(
                f"{directory}: no such folder; give a work directory in which "
                "alexnet_jax.main has saved a checkpoint"
            )
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            # Apart, so that evaluation reads a third of the bytes.
            item_handlers={
                "params": ocp.StandardCheckpointHandler(),
                "rest": ocp.StandardCheckpointHandler(),
                "memory": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                read_only=keep is None,
                cleanup_tmp_directories=keep is not None,  # a kill left them
            ),
        )

    @property
    def newest(self) -> int | None:
        """Updates done in the newest whole checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: State, memory: dict[str, Any]) -> None:
        """Starts writing; a kill before the end leaves the older ones untouched.

        Args:
            state: of the training; its step names the checkpoint.
            memory: plain numbers: plateau and timing.

        Raises:
            NonFiniteError: a parameter is not finite; nothing is written.
        """
        step = int(state.step)
        if step == self.newest:
            return
        if not bool(_all_finite(state.params)):
            raise NonFiniteError(f"a parameter is not finite after update {step}")
        rest = {"step": state.step, "velocity": state.velocity, "sums": state.sums}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(rest),
                memory=ocp.args.JsonSave(memory),
            ),
        )

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Reads the newest checkpoint onto the devices that `like` names.

        Args:
            like: shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves).

        Raises:
            InputError: it is damaged, or of another network.
        """
        params = self.restore_params(like.params)
        rest = {"step": like.step, "velocity": like.velocity, "sums": like.sums}
        with self._telling_of_damage():
            restored = self._manager.restore(
                self.newest,
                args=ocp.args.Composite(
                    rest=ocp.args.StandardRestore(rest), memory=ocp.args.JsonRestore()
                ),
            )
        return State(params=params, **restored.rest), restored.memory

    def restore_params(self, like: Any) -> Any:
        """Reads the parameters of the newest checkpoint alone; see `restore`."""
        if self.newest is None:
            raise InputError(f"{self._directory}: holds no whole checkpoint")
        with self._telling_of_damage():
            self._check_shapes(like)
            return self._manager.restore(
                self.newest,
                args=ocp.args.Composite(params=ocp.args.StandardRestore(like)),
            ).params

    @contextmanager
    def _telling_of_damage(self) -> Iterator[None]:
        before = sys.unraisablehook

        def left_behind(unraisable: Any) -> None:
            # Where one array cannot be read, Orbax forgets the others on their way:
            # they tell of it later, at the end of the program.
            if "Event loop is closed" not in str(unraisable.exc_value):
                before(unraisable)

        sys.unraisablehook = left_behind
        try:
            yield
            sys.unraisablehook = before
        except (InputError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            # Not the checkpoint's fault: a device without room, a lost process.
            sys.unraisablehook = before
            raise
        except Exception as error:  # Orbax, TensorStore and JSON raise many kinds
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            raise InputError(
                f"{self._directory / str(self.newest)}: a damaged checkpoint "
                f"({reason}); move this folder away to use the one before it"
            ) from error

    def _check_shapes(self, like: Any) -> None:
        stored = _shapes(self._manager.item_metadata(self.newest).params.tree)
        wanted = _shapes(like)
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise InputError(
                    f"{self._directory}: a checkpoint of another network: {name} is "
                    f"{stored.get(name, 'absent')} there and "
                    f"{wanted.get(name, 'absent')} in this config; give the config "
                    "(and classes.txt) that it was trained with"
                )

    def close(self) -> None:
        """Waits until what was started is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {".".join(key.key for key in path): tuple(a.shape) for path, a in leaves}


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
