"""Kills of `prepare`, `convert` and `report`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from pictures import write_class_folders
from runs import contents
from soak.app import App, Trouble
from soak.bench import Bench, Outcome, remove

NAMES = ("prepare", "convert out of a run", "convert into a run", "report")
KILLS = 3  # of one folder, before the command may reach its end
WITHOUT = ("manifest.json",)  # names the moment and the number of workers


def prepare(bench: Bench) -> list[Outcome]:
    """Its shards are the same byte for byte."""
    source = bench.folder / "pictures"
    if not source.exists():
        classes = dict.fromkeys(("bird", "cat", "dog"), 8)
        write_class_folders(source / "train", classes)
        write_class_folders(source / "val", classes, seed=1)

    def command(folder: Path) -> tuple[str, ...]:
        paths = f"--source={source}", f"--destination={folder}"
        workers = f"--workers={bench.rng.choice('12')}"
        return "prepare.__main__", *paths, "--image_size=32", "--shards=6", workers

    return _killed(bench, "prepare", command)


def convert_out(bench: Bench) -> list[Outcome]:
    """The file is whole or absent."""
    source, ending = bench.reference, bench.rng.choice(("safetensors", "pth", "onnx"))

    def command(folder: Path) -> tuple[str, ...]:
        file = folder / f"weights.{ending}"
        if file.exists():  # it was killed after that
            file.rename(file.with_name("before"))
        return "convert", f"--source={source}", f"--destination={file}"

    return _killed(bench, NAMES[1], command, ending)


def convert_in(bench: Bench) -> list[Outcome]:
    """The same command completes the work directory."""
    file = bench.folder / "weights.safetensors"
    if not file.exists():
        flags = (f"--source={bench.reference}", f"--destination={file}")
        assert App(bench.new(), file, "convert", *flags).ended() == 0

    def command(folder: Path) -> tuple[str, ...]:
        return "convert", f"--source={file}", f"--destination={folder}"

    return _killed(bench, "convert into a run", command)


def report(bench: Bench) -> list[Outcome]:
    """It only reads the run, and can be made again."""

    def command(folder: Path) -> tuple[str, ...]:
        paths = f"--workdir={bench.reference}", f"--destination={folder}"
        return "report.__main__", *paths

    return _killed(bench, "report", command)


_whole: dict[str, tuple[dict[str, bytes], int, float]] = {}


def _killed(
    bench: Bench,
    name: str,
    command: Callable[[Path], tuple[str, ...]],
    ending: str = "",
) -> list[Outcome]:
    """Killed a few times, then run to its end and compared with one never killed."""

    def start(folder: Path, trouble: Trouble | None = None) -> App:
        if name == "report":
            trouble = dataclasses.replace(trouble or Trouble(), report=True)
        output = folder.parent / "output"
        return App(output, folder, *command(folder), trouble=trouble)

    key = f"{name} {ending}"
    if key not in _whole:
        folder = bench.new("whole")
        app = start(folder)
        if app.ended() or app.lines:
            raise RuntimeError(f"{name}: status {app.status}: {app.lines}")
        _whole[key] = _content(folder), app.operations, app.seconds
    content, operations, seconds = _whole[key]
    folder, outcomes, app = bench.new("killed"), list[Outcome](), None
    for _ in range(KILLS):
        if bench.rng.random() < 0.6:
            at = bench.rng.randint(1, operations)
            app = start(folder, Trouble(kill_at=at))
        else:
            app = start(folder)
            app.until(lambda: False, seconds=bench.rng.random() * seconds)
            app.kill()
        app.ended()
        if app.status == 0:
            break
        outcomes.append(bench.outcome(f"kill −9 of {name}", app.killed, app))
    if app is None or app.status:
        app = start(folder)
        bench.checked(outcomes, [app])
    found = _content(folder)
    for outcome in outcomes:
        outcome.files = found == content
        if not outcome.files:
            names = sorted({*found} ^ {*content}) or "other contents"
            outcome.wrong.append(f"{folder}: other files: {names}")
    if not any(outcome.wrong for outcome in outcomes):
        remove(folder.parent)
    return outcomes


def _content(folder: Path) -> dict[str, bytes]:
    """The files, and the contents of those in which no clock or chance is."""
    found = {}
    for name, data in contents(folder).items():
        random = name.startswith("checkpoints/") or name.endswith((".html", ".png"))
        if name.startswith("checkpoints/"):
            name = "/".join(Path(name).parts[:2])
        if name not in (".lock", "before"):
            found[name] = b"" if random or name in WITHOUT else data
    return found
