"""Runs in trouble, each compared with one that had none."""

import contextlib
import dataclasses
import functools
import json
import random
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from runs import contents, logged, tiny_config, tiny_flags
from soak.app import App, Trouble

from alexnet_jax import experiment
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data.files import locked
from alexnet_jax.errors import InputError

OFTEN = {"checkpoint_every_steps": 2, "log_every_steps": 3}
TWO = {**OFTEN, "mesh.data": 2}
OURS = re.compile(r"error: |interrupted|Traceback|  File |\w*Error|.*Warning")


@dataclasses.dataclass
class Outcome:
    """One try of some trouble, and what was found after it."""

    trouble: str  # the row of the table
    what: str  # happened, such as 'killed'
    orphans: int = 0
    locked: bool = False
    lines: int = 0  # of stderr, the most that a process printed
    losses: bool | None = None  # equal; None: there are none to compare
    files: bool | None = None
    wrong: list[str] = dataclasses.field(default_factory=list)


class Bench:
    """A folder in which runs come to harm.

    Attributes:
        rng: the source of all chance.
        long: stop processes for a minute and with the package's own heartbeat.
    """

    def __init__(self, folder: Path, long: bool = False):
        self.folder, self.long = folder, long
        self._count = 0
        self.begin("")

    def begin(self, seed: str) -> None:
        """Make what chance decides in a scenario depend on this alone."""
        self.seed, self.rng = seed, random.Random(seed)

    def new(self, name: str = "run") -> Path:
        """A path in a folder of its own, below which nothing is."""
        self._count += 1
        path = self.folder / f"{self._count:05}" / name
        path.parent.mkdir(parents=True)
        return path

    @contextlib.contextmanager
    def disk(self) -> Iterator[Path | None]:
        """A disk of its own; None where this user may not mount one."""
        disk = self.new("disk")
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "soak", disk]
        if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
            yield None
            return
        try:
            yield disk
        finally:
            subprocess.run(["umount", "-l", disk], check=False)

    # --- training ---------------------------------------------------------------------

    def train(self, workdir: Path, trouble: Trouble | None = None, **changes: Any):
        """A training of one process; `changes` are keys with __ for a point."""
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        flags = tiny_flags(workdir, {**OFTEN, **keys})
        return App(self.new("output"), workdir, "main", *flags, trouble=trouble)

    def pair(self, workdir: Path, *troubles: Trouble | None) -> list[App]:
        """The two processes of a training."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        flags = [*tiny_flags(workdir, TWO), f"--coordinator={address}", "--processes=2"]
        return [
            App(
                self.new(f"process{index}"),
                workdir,
                *("main", *flags, f"--process={index}"),
                trouble=trouble,
            )
            for index, trouble in enumerate(troubles or (None, None))
        ]

    @functools.cached_property
    def reference(self) -> Path:
        """The work directory of a training without trouble."""
        workdir = self.new("reference")
        app = self.train(workdir)
        if app.ended() or app.lines:
            raise RuntimeError(f"status {app.status}: {app.lines}")
        self.operations = app.operations  # on files, of such a training
        return workdir

    @functools.cached_property
    def reference_of_two(self) -> Path:
        workdir = self.new("reference")
        apps = self.pair(workdir)
        if statuses := [app.ended() for app in apps if app.ended()]:
            raise RuntimeError(f"statuses {statuses}: {apps[0].lines}")
        return workdir

    def finish(
        self, workdir: Path, outcomes: Iterable[Outcome], **changes: Any
    ) -> None:
        """Resume without trouble, compare, and enter what is found."""
        app, outcomes = self.train(workdir, **changes), list(outcomes)
        self.checked(outcomes, [app])
        compare(workdir, self.reference, outcomes)

    def finish_two(self, workdir: Path, outcomes: list[Outcome]) -> None:
        """The same for two processes."""
        self.checked(outcomes, self.pair(workdir))
        compare(workdir, self.reference_of_two, outcomes)

    def checked(self, outcomes: list[Outcome], apps: Sequence[App]) -> None:
        """Wait for apps that have to end well, without a line on stderr."""
        for app in apps:
            if app.ended() or said(app):
                for outcome in outcomes:
                    told = f"resumed: status {app.status}: {' / '.join(app.lines[-3:])}"
                    outcome.wrong.append(f"{app.folder}: {told}")

    # --- what an interrupted app leaves -----------------------------------------------

    def outcome(self, trouble: str, what: str, *apps: App) -> Outcome:
        """What apps that have ended leave: processes, locks, lines."""
        result = Outcome(trouble, what)
        for app in apps:
            if app.status == 999:
                result.wrong.append(f"{app.folder}: hung in phase {app.phase!r}")
            for orphan in (orphans := app.orphans()):
                with contextlib.suppress(Exception):
                    result.wrong.append(f"{app.folder}: left {orphan.cmdline()}")
                    orphan.kill()
            result.orphans += len(orphans)
            lines = said(app)
            result.lines = max(result.lines, len(lines))
            if len(lines) > 1 or "Traceback" in "".join(lines):
                told = " / ".join([*lines[:2], "…", *lines[-3:]])
                result.wrong.append(f"{app.folder}: printed {len(lines)} lines: {told}")
        folder = apps[0].watched
        if folder.is_dir() and (folder / ".lock").exists():
            try:
                with locked(folder, "--workdir", "run"):
                    pass
            except InputError as error:
                result.locked = "another" in str(error)
        return result


def said(app: App) -> list[str]:
    """Its lines on stderr; of two processes, without the log of jaxlib's C++."""
    if not app.name.startswith("process"):
        return app.lines
    return [line for line in app.lines if OURS.match(line)]


def compare(workdir: Path, reference: Path, outcomes: Sequence[Outcome]) -> None:
    """Enter whether losses and files are those of the reference."""
    wrong: list[str] = []
    whole = (workdir / "metrics.jsonl").exists()
    losses = whole and logged(workdir) == logged(reference)
    files = _files(workdir) == _files(reference)
    if not losses:
        wrong.append(f"{workdir}: other losses than {reference}")
    if not files:
        ours, theirs = _files(workdir), _files(reference)
        differing = sorted(
            name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)
        )
        wrong.append(f"{workdir}: other files than {reference}: {differing}")
    try:
        ours, theirs = map(newest, (workdir, reference))
        if not all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs))):
            files = False
            wrong.append(f"{workdir}: another newest checkpoint than {reference}")
    except InputError as error:
        files = False
        wrong.append(str(error))
    for outcome in outcomes:
        outcome.losses, outcome.files = losses, files
        outcome.wrong += wrong


def _files(workdir: Path) -> dict[str, bytes]:
    """The files of a run, and its checkpoints by number; lines are `logged`."""
    found = {
        name: data
        for name, data in contents(workdir).items()
        if not name.startswith(("checkpoints/", "report/", "metrics.jsonl"))
    }
    folder = workdir / "checkpoints"
    return found | {f"checkpoints/{path.name}": b"" for path in folder.glob("*")}


@functools.cache
def _program() -> Any:
    config = tiny_config(OFTEN)
    return experiment.make_program(config, 10, experiment.make_mesh(config)).state


def newest(workdir: Path) -> Any:
    """The state in the newest checkpoint: weights, velocities, sums and step."""
    with contextlib.closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        state, _ = checkpoints.restore(_program())
    return jax.device_get(state)


def steps(workdir: Path) -> int:
    """The step of the newest line of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    with contextlib.suppress(ValueError, IndexError):
        return json.loads(lines[-1])["step"]
    return 0


def remove(path: Path) -> None:
    """Delete what a scenario without fault has left."""
    shutil.rmtree(path, ignore_errors=True)


def table(outcomes: Iterable[Outcome], rows: Iterable[str]) -> str:
    """A Markdown table with a row for each kind of trouble."""
    head = (
        *("trouble", "tries", "what happened", "losses equal", "files equal"),
        *("orphans", "locks left", "lines printed"),
    )
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    by_row: dict[str, list[Outcome]] = {row: [] for row in rows}
    for outcome in outcomes:
        by_row.setdefault(outcome.trouble, []).append(outcome)
    for row, own in by_row.items():
        whats = [o.what for o in own]
        told = ", ".join(
            f"{w}: {whats.count(w)}" if len(set(whats)) > 1 else w
            for w in sorted(set(whats))
        )
        cells = (
            *(row, len(own), told or "not tried"),
            *(_share([o.losses for o in own]), _share([o.files for o in own])),
            *(sum(o.orphans for o in own), sum(o.locked for o in own)),
            f"at most {max((o.lines for o in own), default=0)}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _share(equal: list[bool | None]) -> str:
    known = [e for e in equal if e is not None]
    return f"{sum(known)} of {len(known)}" if known else "–"
