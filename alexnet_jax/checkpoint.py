"""The state of a training, saved and restored as a whole; Orbax is used only here.

The data position is the step itself: batch s of the training stream is a function of
the seed and s (`data.loader`), so nothing else needs to be kept.
"""

import functools
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from logging import WARNING, getLogger
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict
from orbax.checkpoint import checkpoint_managers as rules

from alexnet_jax import manifest
from alexnet_jax.errors import InputError, NonFiniteError
from alexnet_jax.manifest import ERROR
from alexnet_jax.step import State

# In the complaints of a read or write that Orbax has abandoned.
ABANDONED = ("Event loop is closed", "Encountered error while reading array")

# Orbax warns of what it makes of `read_only`.
getLogger("absl").addFilter(lambda r: r.levelno > WARNING or "orbax" not in r.pathname)


def _failure_named(write: Callable[..., None]) -> Callable[..., None]:
    # What Orbax and TensorStore raise about a disk, of many kinds, becomes one line.
    @functools.wraps(write)
    def named(self: "Checkpoints", *arguments: Any, **options: Any) -> None:
        _ignore_abandoned_requests()  # a write may fail until the next one begins
        try:
            write(self, *arguments, **options)
        except (InputError, MemoryError, jax.errors.JaxRuntimeError):
            raise  # not the disk's fault: a device without memory, a lost process
        except Exception as error:
            why = re.findall(r"([^:\n]+) \[os_error_code", str(error)) or [str(error)]
            raise InputError(
                f"{self._directory}: a checkpoint cannot be written ({why[0][:200]}); "
                "those before are kept: correct that, and the same command continues"
            ) from error

    return named


def newest_step(directory: Path) -> int | None:
    """Steps done in the newest complete checkpoint; unfinished ones are no numbers."""
    return next(iter(manifest.steps_in(directory)), None)


def holds_any(directory: Path) -> bool:
    """Whether there is a complete checkpoint."""
    return newest_step(directory) is not None


class Checkpoints:
    """The checkpoints/ of a work directory.

    Attributes:
        best_error: the least validation error of one; infinity where none has any.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None = None,
        best: bool = False,
        skip_damaged: bool = False,
        run: dict[str, Any] | None = None,
    ):
        """Open W/checkpoints, and check the checkpoint to read against its manifest.

        Args:
            directory: W/checkpoints.
            keep: so many of the newest, and the one of least validation error; None to
                read only.
            best: read the one of least validation error, not the newest.
            skip_damaged: read the next one where one is damaged; where `keep` allows
                writing, 24 becomes 24.damaged.
            run: what the manifests of new checkpoints note (`manifest.noted`).
        """
        self._directory, self._run, self._saving = directory, run or {}, directory
        self.skip_damaged = skip_damaged
        if keep is None and not directory.is_dir():
            raise InputError(
                f"{directory}: no such folder; give a work directory in which "
                "alexnet_jax.main has saved a checkpoint"
            )
        self._chosen, self.best_error = manifest.choose(
            directory, best=best, reads_all=keep is not None, skip=skip_damaged
        )
        if keep is not None:
            manifest.clear(directory, keep)
        best_one = rules.BestN(
            get_metric_fn=_validation_error,
            reverse=True,  # the least error is the best
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        kept = rules.AnyPreservationPolicy([rules.LatestN(keep), best_one])
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            # Separate items, so that evaluation reads a third of the bytes.
            item_handlers={
                "params": ocp.StandardCheckpointHandler(),
                "rest": ocp.StandardCheckpointHandler(),
                "memory": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                best_fn=_validation_error,  # else Orbax writes no metrics
                preservation_policy=kept,
                read_only=keep is None,
                lightweight_initialize=keep is None,  # reads no metrics
                cleanup_tmp_directories=keep is not None,  # a kill left them
                async_options=ocp.options.AsyncOptions(
                    # In the first process, when all have written and before the folder
                    # gets its final name: it is complete with its manifest only.
                    post_finalization_callback=lambda: manifest.write_manifest(
                        self._saving, self._run
                    )
                ),
            ),
        )

    @property
    def newest(self) -> int | None:
        """Steps done in the newest complete checkpoint, None where there is none."""
        return self._manager.latest_step()

    @_failure_named
    def save(
        self, state: State, on_host: dict[str, Any], error: float = math.inf
    ) -> None:
        """Start writing; a kill before the end leaves the older ones untouched.

        A parameter that is not finite is an error, and nothing is written.

        Args:
            state: of the training.
            on_host: what JSON can hold: plateau and timing.
            error: of the validation after this step, infinity where there was none.
        """
        step = int(state.step)
        if step == self.newest:
            return
        if not _all_finite(state.params):
            what = f"a parameter is not finite after step {step:,}"
            raise NonFiniteError(what, self.newest)
        self._manager.wait_until_finished()  # with the one before
        name = f"{step}{ocp.utils.TMP_DIR_SUFFIX}"
        self._saving = self._directory.absolute() / name
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                rest=ocp.args.StandardSave(_rest(state)),
                memory=ocp.args.JsonSave(on_host),
            ),
            metrics={ERROR: error},
        )
        self.best_error = min(error, self.best_error)

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Read the checkpoint onto the devices that `like` names.

        Args:
            like: shapes, dtypes and shardings (`jax.ShapeDtypeStruct` leaves).
        """
        restored = self._read(
            like.params,
            rest=ocp.args.StandardRestore(_rest(like)),
            memory=ocp.args.JsonRestore(),
        )
        step, velocity, sums = (restored.rest[x] for x in ("step", "velocity", "sums"))
        return State(step, restored.params, velocity[-1], sums), restored.memory

    def restore_params(self, like: Any) -> Any:
        """Read the parameters of the checkpoint alone; see `restore`."""
        return self._read(like).params

    def restore_layers(self, like: Any) -> Any:
        """Read the parameters of some layers of another network's checkpoint.

        Args:
            like: {layer: …} of the layers wanted, as for `restore`.
        """
        with self._damage_named():
            tree = self._stored()
        wanted = _shapes(like)
        if different := _differences(_shapes(tree), wanted, wanted, "here"):
            raise InputError(
                f"start.checkpoint={self._directory.parent}: {'; '.join(different)}; "
                "name these layers in start.fresh, or start from another checkpoint"
            )
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        others = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here),
            {layer: own for layer, own in tree.items() if layer not in like},
        )
        restored = self._read({**others, **like}).params
        return {layer: restored[layer] for layer in like}

    def _read(self, params: Any, **others: Any) -> Any:
        items = {"params": ocp.args.StandardRestore(params), **others}
        with self._damage_named():
            _ignore_abandoned_requests()
            self._check_shapes(params)
            args = ocp.args.Composite(**items)
            return self._manager.restore(self._chosen, args=args)

    def _stored(self) -> Any:
        """Shapes and dtypes of the parameters in the checkpoint."""
        if self._chosen is None:
            raise InputError(f"{self._directory}: holds no complete checkpoint")
        return self._manager.item_metadata(self._chosen).params.tree

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        """What Orbax raises about a damaged checkpoint, as one line."""
        try:
            yield
        except (InputError, MemoryError, PermissionError, jax.errors.JaxRuntimeError):
            raise  # not the checkpoint's fault: a device without memory, a lost process
        except Exception as error:  # Orbax, TensorStore and JSON raise many kinds
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            damaged = manifest.damaged(self._directory / str(self._chosen), reason)
            raise InputError(
                f"{damaged}; move this folder away to use the one before it"
            ) from error

    def _check_shapes(self, like: Any) -> None:
        stored, wanted = _shapes(self._stored()), _shapes(like)
        names = sorted(stored.keys() | wanted.keys())
        if different := _differences(stored, wanted, names, "in this config"):
            raise InputError(
                f"{self._directory}: a checkpoint of another network: {different[0]}; "
                "give the config (and classes.txt) that it was trained with"
            )

    @_failure_named
    def close(self) -> None:
        """Wait until saves in progress are written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _validation_error(metrics: dict[str, float]) -> float:
    return metrics[ERROR]


def _rest(state: State) -> dict[str, Any]:
    """A state without its parameters, as it is laid out on the disk.

    The velocities are the last part of a chain of three, which the optimizer once was.
    """
    chain = (optax.MaskedState(optax.EmptyState()), optax.EmptyState(), state.opt_state)
    return {"step": state.step, "velocity": chain, "sums": state.sums}


def _ignore_abandoned_requests() -> None:
    """Print nothing of what reads and writes complain about after an error."""
    before: Any = sys.unraisablehook
    if not (isinstance(before, functools.partial) and before.func is _complaint):
        sys.unraisablehook = functools.partial(_complaint, before)


def _complaint(before: Callable[[Any], Any], unraisable: Any) -> None:
    if not any(words in str(unraisable.exc_value) for words in ABANDONED):
        before(unraisable)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(a.shape) for name, a in flatten_dict(params, sep=".").items()}


def _differences(
    stored: dict[str, Any], wanted: dict[str, Any], names: Iterable[str], where: str
) -> list[str]:
    """Those of the named parameters whose shapes are others in the checkpoint."""
    return [
        f"{name} is {stored.get(name, 'absent')} there and "
        f"{wanted.get(name, 'absent')} {where}"
        for name in names
        if stored.get(name) != wanted.get(name)
    ]


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(p).all() for p in jax.tree.leaves(params)]))
