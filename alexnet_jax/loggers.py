"""Loggers of a training, next to metrics.jsonl: TensorBoard and Weights & Biases."""

import importlib.util
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_jax.cli import say
from alexnet_jax.errors import NotInstalledError
from alexnet_jax.metrics import Logger

SECONDS = 20  # to wait for the server of Weights & Biases at a start
LAST_SECONDS = 60  # for it to take the rest at the end


def require_loggers(names: Sequence[str]) -> None:
    """Check that the packages behind `log_to` are installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            otherwise = ", or take it out of log_to"
            raise NotInstalledError(f"log_to={name!r}", name, otherwise)


def open_loggers(
    names: Sequence[str], folder: Path, step: int, config: Mapping[str, Any]
) -> list[Logger]:
    """The loggers that `log_to` names.

    Args:
        names: 'tensorboard', 'wandb'.
        folder: the work directory.
        step: the last one done; later ones that an earlier start wrote do not count.
        config: values by key, to be shown.
    """
    loggers: list[Logger] = []
    if "tensorboard" in names:
        loggers.append(TensorBoard(folder / "tensorboard", step))
    if "wandb" in names:
        loggers.append(WandB(folder, config))
    return loggers


class TensorBoard:
    """Event files of scalars, written by the package tensorboard without TensorFlow."""

    def __init__(self, folder: Path, step: int):
        """Open a file of its own; events after `step` in older ones are void."""
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._file = EventFileWriter(str(folder), flush_secs=10)
        if step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(step + 1, session_log=start)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write every number of a line under its key."""
        values = [
            self._summary.Value(tag=key, simple_value=number)
            for key, number in line.items()
            if key != "step"
        ]
        self._add(line["step"], summary=self._summary(value=values))

    def _add(self, step: int, **what: Any) -> None:
        self._file.add_event(self._event(wall_time=time.time(), step=step, **what))

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()


class WandB:
    """A run of Weights & Biases; its failures are one line and stop no training."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        """Start the run, or continue it; offline where no server can be reached."""
        import wandb

        kept = folder / "wandb_id.txt"
        if not kept.exists():
            kept.write_text(f"{secrets.token_hex(4)}\n")
        settings = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=SECONDS,
            login_timeout=SECONDS,
            finish_timeout=LAST_SECONDS,
            finish_timeout_raises=False,
        )

        def start(mode: Any) -> Any:
            wandb.setup(settings)
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", "alexnet_jax"),
                id=kept.read_text().strip(),
                resume="allow",
                name=folder.resolve().name,
                dir=str(folder),
                config=dict(config),
                mode=mode,
                settings=settings,
            )

        self._run: Any = None
        try:
            self._run = start(None)  # as the environment says
        except Exception as error:  # of many kinds: no key, no network, bad settings
            self._report(error, f"recorded offline in {folder / 'wandb'}")
            wandb.teardown()
            try:
                self._run = start("offline")
            except Exception as again:
                self._report(again, "the training continues without it")

    def write(self, line: Mapping[str, Any]) -> None:
        """Send a line; steps that the run has already are left out by wandb."""
        if self._run is None:
            return
        try:
            self._run.log(dict(line), step=line["step"])
        except Exception as error:
            self._run = None
            self._report(error, "the training continues without it")

    def close(self) -> None:
        """Send the rest, for a minute at most."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._report(error, "`wandb sync` sends what is missing")

    def _report(self, error: Exception, then: str) -> None:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        say(f"wandb: {reason[:120]}; {then}")
