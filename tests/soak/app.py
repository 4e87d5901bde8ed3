"""An app of the package in trouble: what is done to it, and what it leaves."""

import contextlib
import dataclasses
import mmap
import os
import resource
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apps
import psutil

PATIENCE = 240.0  # seconds after which an app counts as hanging
VANISH = 10.0  # seconds in which the processes of an app that ended must end too
QUICK = "--xla_backend_optimization_level=0"  # compiles in half the time
PHASE = 64  # bytes of the file in which an app notes what it is doing
OPERATIONS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}


@dataclasses.dataclass(frozen=True)
class Trouble:
    """What is arranged in the process of an app before the app starts."""

    kill_at: int = 0  # SIGKILL before this one of its file operations; 0: never
    kill_in: str = ""  # … counting only those of this phase
    compile_always: bool = False  # no program comes from the cache
    report: bool = False  # write the report after a training
    limit: tuple[int, int] | None = None  # of `resource`, and how much
    memory_group: Path | None = None  # a control group that it enters
    handles: int = 0  # of files beyond those that it has open at its start
    clock_back_at: int = 0  # training step after which the clock is a day behind
    heartbeat: int = 0  # seconds, in place of processes.HEARTBEAT

    def arrange(self, watched: Path, notes: Path) -> None:
        """Arrange it in this process, and note phases and operations from here on."""
        phase = Phase(notes)
        phase.wrap_functions()
        sys.addaudithook(Operations(self, watched, phase).heard)
        from alexnet_jax import processes, train

        train.product_flops = lambda *_: None  # a second, for one figure of the log
        if self.heartbeat:
            processes.HEARTBEAT = self.heartbeat
        if self.compile_always:
            import jax

            jax.config.update("jax_enable_compilation_cache", False)
        if not self.report:
            page = types.ModuleType("alexnet_jax.report.page")
            page.make_report = lambda folders: "left out"  # type: ignore[attr-defined]
            sys.modules[page.__name__] = page
        if self.clock_back_at:
            self._turn_clock_back()
        if self.memory_group:
            (self.memory_group / "cgroup.procs").write_text(str(os.getpid()))
        if self.handles:
            most = psutil.Process().num_fds() + self.handles
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if self.limit:
            which, most = self.limit
            resource.setrlimit(which, (most, most))

    def _turn_clock_back(self) -> None:
        """Python's clock only: nothing of a run reads another one."""
        from alexnet_jax.metrics import MetricsFile

        write, seconds, nanoseconds = MetricsFile.write, time.time, time.time_ns

        def turning(metrics: MetricsFile, line: dict[str, Any]) -> None:
            write(metrics, line)
            if line["step"] >= self.clock_back_at:
                time.time = lambda: seconds() - 86_400
                time.time_ns = lambda: nanoseconds() - 86_400 * 10**9

        MetricsFile.write = turning  # type: ignore[method-assign]


class Phase:
    """What an app is doing, in a file that a SIGKILL leaves as it is."""

    def __init__(self, path: Path):
        path.write_bytes(b" " * PHASE)
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), PHASE)
        self.now = ""
        self.note("starting")

    def note(self, phase: str, operations: int | None = None) -> None:
        self.now = phase
        self._bytes[:32] = phase.encode().ljust(32)
        if operations is not None:
            self.count(operations)

    def count(self, operations: int) -> None:
        self._bytes[32:] = str(operations).encode().ljust(32)

    def wrap_functions(self) -> None:
        from jax._src import compiler

        from alexnet_jax import inputs, train

        self._wrap(inputs, "survey", "surveying")
        self._wrap(train.Run, "first_state", "restoring")
        self._wrap(train.Run, "go", "training")
        self._wrap(train.Run, "validate", "validating")
        self._wrap(compiler, "backend_compile_and_load", "compiling")

    def _wrap(self, owner: Any, name: str, phase: str) -> None:
        function = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            before = self.now
            self.note(phase)
            try:
                return function(*arguments, **options)
            finally:
                self.note(before)

        setattr(owner, name, noted)


class Operations:
    """The operations on files below a folder, counted; one of them may be the last."""

    def __init__(self, trouble: Trouble, watched: Path, phase: Phase):
        self._trouble, self._watched, self._phase = trouble, str(watched), phase
        self._thread = threading.local()
        self._counts = {"": 0, trouble.kill_in: 0}

    def heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook."""
        if event == "shutil.rmtree":
            self._thread.tree = str(arguments[0])
        if event not in OPERATIONS or isinstance(arguments[0], int):
            return
        path = os.fsdecode(arguments[0])
        tree = getattr(self._thread, "tree", "")
        if event == "open" and not self._writes(path, arguments[2]):
            return
        if event in ("os.remove", "os.rmdir") and tree.startswith(self._watched):
            name = Path(tree).name
            what = "deleting" if name.isdigit() else "clearing up"
        elif path.startswith(self._watched):
            self._thread.tree = ""
            what = "saving" if "/checkpoints/" in path else self._phase.now
        else:
            return
        for phase in {"", what} & self._counts.keys():
            self._counts[phase] += 1
        self._phase.count(self._counts[""])
        of, at = self._trouble.kill_in, self._trouble.kill_at
        if of in ("", what) and self._counts[of] == at:
            self._phase.note(what)
            os.kill(os.getpid(), signal.SIGKILL)

    def _writes(self, path: str, how: int) -> bool:
        return path.startswith(self._watched) and bool(
            how & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )


class App:
    """A command that runs, as a fork of the server of tests/apps.py."""

    def __init__(
        self,
        folder: Path,
        watched: Path,
        name: str,
        *arguments: object,
        trouble: Trouble | None = None,
    ):
        """Start it.

        Args:
            folder: for its output.
            watched: the folder that it writes.
            name: of the app.
            arguments: its flags.
            trouble: to arrange.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.watched, self.name = folder, watched, folder.name
        self.status: int | None = None
        self._notes, self._mark = folder / "phase", f"{folder}:{time.time_ns()}"
        self._notes.write_bytes(b"")
        files = [folder / "out", folder / "err"]
        for file in files:
            file.write_text("")
        self._process = apps._context.Process(
            target=_begin,
            args=(
                f"alexnet_jax.{name}",
                [name, *map(str, arguments)],
                files,
                {
                    "SOAK_MARK": self._mark,
                    "XLA_FLAGS": f"--xla_force_host_platform_device_count=1 {QUICK}",
                },
                trouble or Trouble(),
                watched,
                self._notes,
            ),
        )
        self._started = time.monotonic()
        self.seconds = 0.0  # that it ran
        self._process.start()
        self.pid: int = self._process.pid  # type: ignore[assignment]

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def phase(self) -> str:
        return self._notes.read_bytes()[:32].decode().strip() or "starting"

    @property
    def operations(self) -> int:
        return int(self._notes.read_bytes()[32:] or 0)

    @property
    def lines(self) -> list[str]:
        """What it printed on stderr, without the log of jaxlib's C++."""
        text = (self.folder / "err").read_text(errors="replace")
        return [line for line in text.splitlines() if line.strip()]

    def until(self, reached: Callable[[], object], seconds: float = PATIENCE) -> bool:
        """Wait for something, or the end of the app; whether it came to that."""
        deadline = time.monotonic() + seconds
        while not reached():
            if not self.running or time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True

    def send(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self.ended()

    def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit status, −number of the signal that ended it; 999: it hung."""
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
            self.status = 999
            return 999
        status = self._process.exitcode
        assert status is not None
        if self.status is None:
            self.status, self.seconds = status, time.monotonic() - self._started
        return status

    @property
    def killed(self) -> str:
        """What became of it, in words."""
        return "killed" if self.status == -signal.SIGKILL else f"status {self.status}"

    def orphans(self) -> list[psutil.Process]:
        """Processes of it that are left, after some time in which they may end."""
        deadline = time.monotonic() + VANISH
        while left := list(self._left()):
            if time.monotonic() > deadline:
                return left
            time.sleep(0.05)
        return []

    def _left(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                named = str(self.watched) in " ".join(process.cmdline())
                marked = process.environ().get("SOAK_MARK") == self._mark
                if os.getsid(process.pid) == self.pid or named or marked:
                    yield process


def _begin(
    module: str,
    argv: list[str],
    files: list[Path],
    environment: dict[str, str],
    trouble: Trouble,
    watched: Path,
    notes: Path,
) -> None:
    os.setsid()  # by which its children are found
    os.environ.update(environment)
    trouble.arrange(watched, notes)
    apps._main(module, argv, files, environment, False)
