"""The manifest of a checkpoint: size and checksum of each file, and facts of its run.

Only a checkpoint that agrees with its manifest is chosen to be read.

Orbax and TensorStore check their index alone: most bits that flip in the data of an
array are restored as other weights (`pytest -n0 -s tests/test_manifest.py`).
"""

import hashlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import xxhash
from etils import epath  # of orbax-checkpoint

from alexnet_jax import processes
from alexnet_jax.data.files import replaced, set_aside
from alexnet_jax.errors import InputError

NAME = "manifest.json"
ERROR = "top1_error"  # Orbax's metric of a checkpoint
# Orbax completes these two after the manifest; no number that is restored is in them.
LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


# What readers of damaged JSON raise.
DAMAGE = (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError)


def checksum(path: Path) -> str:
    """XXH3 of a file, in hexadecimal digits: it is faster than any disk."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def checksum_of(text: str) -> str:
    """The same of a text."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogateescape"))


def write_sealed(content: dict[str, Any], path: Path) -> None:
    """Write JSON with a checksum of its own, as a whole or not at all."""
    with replaced(path) as temporary:
        sealed = content | {"checksum": _seal(content)}
        temporary.write_text(json.dumps(sealed, indent=1) + "\n")


def read_sealed(path: Path, old: bool = False) -> dict[str, Any]:
    """The content of `write_sealed`; ValueError if it is damaged.

    Args:
        path: of the file.
        old: accepts a file of an earlier version, which has no checksum.
    """
    try:
        content = json.loads(path.read_bytes())
        seal = content.pop("checksum", None)
    except (RecursionError, AttributeError, TypeError):
        raise ValueError("not an object in JSON") from None
    if seal != _seal(content) and not (old and seal is None):
        raise ValueError("not what was written")
    return content


def _seal(content: dict[str, Any]) -> str:
    return checksum_of(json.dumps(content, sort_keys=True))


def steps_in(checkpoints: Path) -> list[int]:
    """Steps done in each complete checkpoint, the newest first."""
    folders = checkpoints.iterdir() if checkpoints.is_dir() else ()
    steps = (int(f.name) for f in folders if f.name.isdecimal() and f.is_dir())
    return sorted(steps, reverse=True)


def write_manifest(folder: Path, run: dict[str, Any]) -> None:
    """Write the manifest of a checkpoint whose files are written.

    Args:
        folder: of the checkpoint, which Orbax has not given its final name yet.
        run: what to note of the run, for `noted`.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and name not in LATER:
            files[name] = [path.stat().st_size, checksum(path)]
    write_sealed({"files": files, "run": run}, folder / NAME)


def damage(folder: Path, item: str = "") -> str:
    """The first file of a checkpoint that is not what was written; '' if all are.

    Args:
        folder: of the checkpoint; one of an earlier version has no manifest.
        item: the part of it that will be read, such as 'params'; '' is all.
    """
    name = NAME
    try:
        files = read_sealed(folder / NAME)["files"] if (folder / NAME).exists() else {}
        for name, (size, written) in files.items():
            path = folder / name
            if item and not name.startswith(f"{item}/"):
                continue
            if (bytes_here := path.stat().st_size) != size:
                return f"{name} has {bytes_here:,} bytes, {size:,} were written"
            if checksum(path) != written:
                return f"{name} is not what was written"
    except PermissionError:
        raise
    except (OSError, ValueError) as error:  # EIO is damage too
        return f"{name}: {getattr(error, 'strerror', None) or error}"
    return ""


def noted(checkpoints: Path) -> dict[str, Any]:
    """What the newest manifest that is whole notes of the run; {} without one."""
    for step in steps_in(checkpoints):
        try:
            return read_sealed(checkpoints / str(step) / NAME)["run"]
        except (OSError, ValueError):  # `damage` names it where it is restored
            continue
    return {}


def choose(
    checkpoints: Path, *, best: bool, reads_all: bool, skip: bool
) -> tuple[int | None, float]:
    """Choose the checkpoint to read; a damaged one is an error or skipped.

    Args:
        checkpoints: W/checkpoints.
        best: the one of least validation error, not the newest.
        reads_all: a training reads all of it, and Orbax the metrics of all of them;
            otherwise its parameters alone are read.
        skip: takes the next one, and names the damaged; a training renames those.

    Returns:
        Steps done, None where there is none; the least validation error of those that
        are left, infinity without one.
    """
    errors, found = dict[int, float](), dict[int, str]()
    for step in steps_in(checkpoints):
        folder, name = checkpoints / str(step), LATER[0]
        try:
            if reads_all:  # as Orbax will
                path = epath.Path(folder)
                _ = ocp.path.step.Metadata(step, path).commit_timestamp
            name = "metrics/metrics"
            errors[step] = _error(folder) if best or reads_all else math.inf
        except DAMAGE as error:
            found[step] = f"{name}: {error}"
    order = sorted(errors, key=lambda step: (best and errors[step], -step))
    while order and (skip or not found):
        reason = damage(checkpoints / str(order[0]), "" if reads_all else "params")
        if not reason:
            break
        found[order.pop(0)] = reason
    lines = {step: damaged(checkpoints / str(step), why) for step, why in found.items()}
    for line in lines.values():
        if not order:
            raise InputError(
                f"{line}; there is no other: restore it from a copy, or give another "
                "--workdir"
            )
        if not skip:
            raise InputError(
                f"{line}; give main, evaluate, predict or convert --skip_damaged to "
                f"take step {order[0]:,} instead, or move this folder away"
            )
    if skip:
        processes.agree({"the damaged checkpoints": sorted(found)})
        for step, line in lines.items() if processes.first() else ():
            if reads_all:
                line += f"; kept as {set_aside(checkpoints / str(step))}"
            print(f"{line}; step {order[0]:,} is taken", file=sys.stderr)
        processes.meet("damaged checkpoints")
    least = min((errors[step] for step in order), default=math.inf)
    return next(iter(order), None), least


def clear(checkpoints: Path, keep: int) -> None:
    """Delete what a killed process was about to: neither among the newest nor the best.

    Orbax deletes when it saves, and a training killed behind its last checkpoint saves
    no more.
    """
    processes.meet("checkpoints to clear")  # all have read their errors
    if processes.first():
        errors = {
            step: _error(checkpoints / str(step)) for step in steps_in(checkpoints)
        }
        for step in list(errors)[keep:]:
            if errors[step] > min(errors.values()):
                shutil.rmtree(checkpoints / str(step))
    processes.meet("checkpoints cleared")


def damaged(folder: Path, reason: str) -> str:
    """The beginning of a line about a damaged checkpoint."""
    return f"{folder}: a damaged checkpoint ({reason})"


def _error(folder: Path) -> float:
    """The validation error of a checkpoint."""
    file = folder / "metrics" / "metrics"
    return float(json.loads(file.read_bytes())[ERROR]) if file.exists() else math.inf
