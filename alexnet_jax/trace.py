"""What the processor and the devices do during a few updates, for other programs."""

from pathlib import Path

import jax

from alexnet_jax.cli import say
from alexnet_jax.errors import InputError

FIRST, LAST = 10, 15  # of the updates after a start: compiling and filling is over


class Trace:
    """Records updates 10 to 15 after a start, as Perfetto and TensorBoard read it."""

    def __init__(self, folder: Path | None, done: int, total: int):
        """Waits for these updates.

        Args:
            folder: what is recorded goes to its plugins/profile/<time>/, the layout
                of TensorBoard. None: nothing is recorded.
            done: updates before this start.
            total: updates in the whole run.

        Raises:
            InputError: the run ends before the last of them.
        """
        if folder and total - done < LAST:
            raise InputError(
                f"--profile: records updates {FIRST} to {LAST} after a start, and of "
                f"this run's {total:,} updates {total - done:,} are left; set a larger "
                "--config.steps or --config.epochs, or another --workdir"
            )
        self._folder, self._recording = folder, False
        self._first, self._last = done + FIRST, done + LAST

    def before(self, step: int, loss: jax.Array) -> None:
        """Begins or ends the recording, where its time has come.

        Args:
            step: the update that comes next.
            loss: of the last one; the devices are done when this is.
        """
        if self._folder and step == self._first:
            loss.block_until_ready()
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each call of a function: 100 times larger
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._recording = True
        elif self._recording and step == self._last + 1:
            loss.block_until_ready()
            self.close()

    def close(self) -> None:
        """Writes what was recorded, if it is not written yet."""
        if self._folder and self._recording:
            self._recording = False
            jax.profiler.stop_trace()
            written = max(self._folder.rglob("*.trace.json.gz"))
            say(
                f"trace of updates {self._first:,} to {self._last:,}: {written} "
                f"(ui.perfetto.dev, or tensorboard --logdir {self._folder})"
            )
