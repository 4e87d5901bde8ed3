"""Signals, clocks, disks and limits that a training of one process meets."""

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

from pictures import write_class_folders
from soak.app import App, Trouble
from soak.bench import Bench, Outcome, compare, remove, steps

ROWS = (
    *("SIGTERM storm", "SIGINT storm", "SIGTERM/SIGINT storm"),
    *("the clock set back by a day", "a full disk, then room"),
    *("a file that may not grow at a random byte", "a read-only work directory"),
    *("the disk of the work directory gone for seconds", "the images gone for seconds"),
    *("few file handles", "little memory"),
)
GROUPS = Path("/sys/fs/cgroup/memory")
ROOM = 64 << 20  # bytes of a disk that is not full


def signals(bench: Bench) -> list[Outcome]:
    """Tens of signals within a second; a second SIGINT ends it at once."""
    workdir, rng = bench.new(), bench.rng
    numbers = rng.choice(([signal.SIGTERM], [signal.SIGINT], [15, 15, 15, 2]))
    app, after = bench.train(workdir), rng.choice((0, 0, 3, 6, 9))
    app.until(lambda: app.phase == "training" and steps(workdir) >= after)
    for _ in range(40):
        app.send(rng.choice(numbers))
        time.sleep(rng.random() / 20)
    app.ended()
    names = "/".join(sorted({signal.Signals(n).name for n in numbers}, reverse=True))
    return _resumed(bench, app, f"{names} storm", {0, 130, 143, -15, -2})


def clock(bench: Bench) -> list[Outcome]:
    """The clock is set back by a day, and the run is killed and resumed."""
    workdir, rng = bench.new(), bench.rng
    at = rng.choice((3, 6, 9))
    app = bench.train(workdir, Trouble(clock_back_at=at))
    app.until(lambda: steps(workdir) >= at + 3)
    app.kill()
    return _resumed(bench, app, "the clock set back by a day", {-9, 0})


def full_disk(bench: Bench) -> list[Outcome]:
    """A disk that is full at any page, or files that may not grow beyond any byte."""
    rng, row = bench.rng, "a full disk, then room"
    with bench.disk() as disk:
        if disk is None or rng.random() < 0.3:
            workdir, most = bench.new(), rng.randint(1, 40_000)
            trouble = Trouble(limit=(resource.RLIMIT_FSIZE, most))
            app = bench.train(workdir, trouble)
            app.ended()
            row = "a file that may not grow at a random byte"
            return _resumed(bench, app, row, {0, 2})
        workdir = disk / "run"
        disk_size(disk, 4096 * rng.randint(1, 150))
        app = bench.train(workdir)
        app.ended()
        disk_size(disk, ROOM)
        return _resumed(bench, app, row, {0, 2})


def read_only(bench: Bench) -> list[Outcome]:
    """A work directory that cannot be written, new or begun."""
    with bench.disk() as disk:
        if disk is None:
            return []
        workdir = disk / "run"
        if bench.rng.random() < 0.5:
            begun = bench.train(workdir, Trouble(kill_at=bench.rng.randint(20, 100)))
            begun.ended()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        app = bench.train(workdir)
        app.ended()
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        return _resumed(bench, app, "a read-only work directory", {2})


def disk_away(bench: Bench) -> list[Outcome]:
    """The disk of the work directory is gone for some seconds, and comes back."""
    with bench.disk() as disk:
        if disk is None:
            return []
        seat = bench.new("seat")
        seat.mkdir()
        subprocess.run(["mount", "--bind", disk, seat], check=True)
        try:
            workdir = seat / "run"
            app = bench.train(workdir)
            after = bench.rng.choice((0, 3, 6, 9))
            app.until(lambda: app.phase == "training" and steps(workdir) >= after)
            subprocess.run(["umount", "-l", seat], check=True)
            app.until(lambda: False, seconds=10 if bench.long else 3)
            subprocess.run(["mount", "--bind", disk, seat], check=True)
            app.ended()
            row = "the disk of the work directory gone for seconds"
            return _resumed(bench, app, row, {0, 2})
        finally:
            subprocess.run(["umount", "-l", seat], check=False)


def images_away(bench: Bench) -> list[Outcome]:
    """The folder of the images is gone for some seconds, and comes back."""
    folder, away = bench.folder / "images", bench.folder / "images.away"
    keys = {
        "dataset__source": "folder",
        "dataset__train": folder,
        "dataset__validation": folder,
    }
    if not folder.exists():
        write_class_folders(folder, {f"class{i}": 10 for i in range(10)})
        bench.of_images = bench.new("reference")
        app = bench.train(bench.of_images, **keys)
        assert app.ended() == 0, app.lines
    workdir, rng = bench.new(), bench.rng
    app = bench.train(workdir, **keys)
    moment = rng.choice(("surveying", "training", "validating"))
    app.until(lambda: app.phase == moment)
    time.sleep(rng.random() * (0.02 if moment == "surveying" else 0.3))
    folder.rename(away)
    app.until(lambda: False, seconds=10 if bench.long else 2)
    away.rename(folder)
    app.ended()
    outcome = bench.outcome("the images gone for seconds", app.killed, app)
    resumed = bench.train(workdir, **keys)
    bench.checked([outcome], [resumed])
    compare(workdir, bench.of_images, [outcome])
    return _cleared(workdir, [outcome])


def file_handles(bench: Bench) -> list[Outcome]:
    """Too few of them."""
    workdir = bench.new()
    app = bench.train(workdir, Trouble(handles=bench.rng.randint(3, 24)))
    app.ended()
    return _resumed(bench, app, "few file handles", {0, 2})


def memory(bench: Bench) -> list[Outcome]:
    """A control group with too little of it: the kernel kills the training."""
    most, group = bench.rng.randint(20, 600) << 20, GROUPS / f"soak-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(most))
    except OSError:  # another system of groups, or another user
        if group.is_dir():
            group.rmdir()
        return []
    workdir = bench.new()
    app = bench.train(workdir, Trouble(memory_group=group))
    app.ended()
    app.orphans()
    group.rmdir()
    return _resumed(bench, app, "little memory", {0, 2, -9})


def disk_size(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def _resumed(bench: Bench, app: App, row: str, allowed: set[int]) -> list[Outcome]:
    workdir, outcome = app.watched, bench.outcome(row, app.killed, app)
    if app.status not in allowed:
        told = " / ".join(app.lines[-3:])
        outcome.wrong.append(f"{app.folder}: status {app.status}: {told}")
    bench.finish(workdir, [outcome])
    return _cleared(workdir, [outcome])


def _cleared(workdir: Path, outcomes: list[Outcome]) -> list[Outcome]:
    if not any(outcome.wrong for outcome in outcomes):
        remove(workdir.parent)
    return outcomes
