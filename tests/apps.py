"""The real commands, without the seconds that each would take to import jax."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import cli

ROOT = Path(__file__).parents[1]

# A server imports what the apps import, once; each command is a fork of it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["alexnet_jax.train", "safetensors.numpy"])


class Answer(NamedTuple):
    status: int | None
    out: str
    err: str


def start_app(
    folder: Path,
    name: str,
    *arguments: object,
    environment: dict[str, str] | None = None,
    parse_only: bool = False,
):
    """`python -m alexnet_jax.NAME ARGUMENTS`, run in the repository.

    What it prints goes to the files 'out' and 'err' of a folder.
    """
    argv = [name, *map(str, arguments)]
    files = [folder / "out", folder / "err"]
    process = _context.Process(
        target=_main,
        args=(f"alexnet_jax.{name}", argv, files, environment or {}, parse_only),
    )
    process.start()
    return process


def run_app(name: str, *arguments: object, parse_only: bool = False) -> Answer:
    """Run it to its end: its exit status and output."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_app(Path(folder), name, *arguments, parse_only=parse_only)
        process.join()
        out, err = (Path(folder, file).read_text() for file in ("out", "err"))
    return Answer(process.exitcode, out, err)


def parse_app(name: str, *arguments: object) -> Answer:
    """Parse its flags, and no more."""
    return run_app(name, *arguments, parse_only=True)


def refusal(name: str, *arguments: object) -> str:
    """The one line with which an app refuses its arguments."""
    answer = run_app(name, *arguments)
    lines = answer.err.splitlines()
    assert answer.status == 2, answer
    assert len(lines) == 1, answer
    assert lines[0].startswith("error: "), answer
    return lines[0]


def _main(
    module: str,
    argv: list[str],
    files: list[Path],
    environment: dict[str, str],
    parse_only: bool,
) -> None:
    os.environ.update(environment)
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.argv = argv
    if parse_only:
        cli.run = lambda main: cli._parse(sys.argv)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
