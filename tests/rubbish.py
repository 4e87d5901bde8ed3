"""Damaged files by the thousand, through the code that reads them: a table.

python tests/rubbish.py --kinds=images,pth --number=10000 --seed=0

Each file is a whole one that is cut, overwritten, spliced, lengthened and so on, a
function of seed, kind and number; the first numbers are bombs. A reader must decode it,
refuse it in one line that names it (InputError), or leave records out and count them.
Anything else is a failure, and the exit status 1: another exception, more than a second
of processor time, memory over a bound, text printed by a library, a file written
elsewhere, a program started, a pickle read. `--only=N` repeats one number.
"""

import argparse
import contextlib
import ctypes
import functools
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from absl import logging as absl_logging

SECONDS = 1.0  # of processor time that a file may take, in two attempts
HANGS = 20  # seconds of processor time after which the system ends a worker
WAITS = 120  # seconds without an answer, of a worker that waits for something
BOMBS = 20  # numbers that are for bombs, where a kind has so many
MEMORY = 6 << 30  # bytes of address space that a worker may take
ANSWERS = ("_ResultItem", "_ExceptionWithTraceback", "_rebuild_exc", "Error")
EXAMPLES = 3  # failures of a kind that are printed

Task = tuple[str, int]  # a kind and a number
OUTCOMES = ("decoded", "refused", "left out")


class Result(NamedTuple):
    outcome: str  # of OUTCOMES, or a failure in words
    left_out: int
    seconds: float
    memory: int  # bytes


def case(kind, files: dict[str, bytes], name: str, seed: int, number: int, bombs):
    """The name and content of a damaged file."""
    if number < BOMBS and number < len(bombs()):
        return list(bombs().items())[number]
    import rubbish_mutations as damage

    rng = random.Random(f"{seed} {name} {number}")
    chosen = rng.choice([f for f in files if f.endswith(kind.damaged)])
    mutate = rng.choice((kind.deeper, damage.plain))
    try:
        return chosen, mutate(rng, files[chosen], list(files.values()))
    except Exception:  # the file is not of the format that the mutation knows
        return chosen, damage.plain(rng, files[chosen], list(files.values()))


class Worker:
    """In a process of its own: reads files, watched."""

    def __init__(self, name: str, folder: Path):
        from rubbish_kinds import KINDS

        self.name, self.kind, self.folder = name, KINDS[name], folder
        self.kind.make(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {str(p.relative_to(folder)): p.read_bytes() for p in paths}
        self.bombs = functools.cache(self.kind.bombs)
        self.watching, self.seen = False, list[str]()
        sys.addaudithook(self._audit)
        for file in [f for f in self.files if f.endswith(self.kind.damaged)]:
            with contextlib.suppress(Exception):
                self.kind.read(folder / file)  # imports and compiles what it needs
        self._restore()
        most = _address_space() + MEMORY, resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_AS, most)

    def _restore(self) -> None:
        for path in list(self.folder.rglob("*")):
            own = str(path.relative_to(self.folder))
            if path.is_file() and own not in self.files:
                path.unlink()
        for name, data in self.files.items():
            path = self.folder / name
            if not path.exists() or path.read_bytes() != data:
                path.write_bytes(data)

    def _audit(self, event: str, arguments: tuple) -> None:
        if not self.watching:
            return
        if event == "open":
            path, mode, flags = arguments
            writes = (mode and set(str(mode)) & set("wax+")) or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
            )
            inside = isinstance(path, int) or os.path.realpath(
                os.fsdecode(path)
            ).startswith((str(self.folder), "/dev/null"))
            if writes and not inside:
                self.seen.append(f"wrote {path}")
        elif event in ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec",
                       "socket.connect", "os.symlink", "os.link"):  # fmt: skip
            if event == "pickle.find_class" and arguments[1].endswith(ANSWERS):
                return  # of a process that this one started
            self.seen.append(f"{event} {str(arguments)[:80]}")

    def run(self, seed: int, number: int) -> Result:
        from alexnet_jax.errors import ImageError, InputError

        name, data = case(self.kind, self.files, self.name, seed, number, self.bombs)
        path = self.folder / name
        path.write_bytes(data)
        del data
        self.seen.clear()
        _read_output()
        warnings._filters_mutated()  # what was warned of before is warned of again
        before = _peak(reset=True)
        left_out, outcome = 0, ""
        signal.setitimer(signal.ITIMER_PROF, HANGS)
        started = time.process_time()
        self.watching = True
        try:
            left_out = self.kind.read(path)
            outcome = "left out" if left_out else "decoded"
        except InputError as error:
            text = str(error)
            outcome = "left out" if isinstance(error, ImageError) else "refused"
            left_out = outcome == "left out"
            if "\n" in text:
                outcome = f"{len(text.splitlines())} lines: {text!r}"
            elif not any(n in text for n in (str(self.folder), path.name, "train[")):
                outcome = f"does not name the file: {text}"
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            own = [f for f in traceback.extract_tb(error.__traceback__)
                   if "alexnet_jax/" in f.filename]  # fmt: skip
            here = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
            outcome = (f"{type(error).__name__}: {str(error)[:150]!r} at {here}, "
                       f"{Path(where.filename).name}:{where.lineno}")  # fmt: skip
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            self.watching = False
            seconds = time.process_time() - started
            signal.setitimer(signal.ITIMER_PROF, 0)
        memory = _peak() - before
        if self.seen:
            outcome = f"{outcome}; {self.seen[0]}"
        if printed := _read_output():
            outcome = f"{outcome}; printed {printed[:150]!r}"
        if memory > self.kind.memory:
            outcome = f"{outcome}; {memory >> 20:,} MB"
        path.unlink(missing_ok=True)
        self._restore()
        return Result(outcome, int(left_out), seconds, memory)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak(reset: bool = False) -> int:
    """The most memory that this process has had since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0


def _read_output() -> str:
    """What was printed to the descriptors 1 and 2 since the last call."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)
    end = os.lseek(1, 0, os.SEEK_END)
    text = os.pread(1, end, 0)
    os.ftruncate(1, 0)
    os.lseek(1, 0, os.SEEK_SET)
    return text.decode(errors="replace")


def work(folder: Path, answers: Connection, seed: int, tasks) -> None:
    """A worker process: an answer for every (kind, number)."""
    output = os.open(folder / "output", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.chdir(folder)
    (folder / "tmp").mkdir()
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder / "tmp")}
    os.environ |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    tempfile.tempdir = None
    absl_logging.set_verbosity(absl_logging.FATAL)  # as cli.run does
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    worker = None
    for name, number in tasks:
        if worker is None or worker.name != name:
            inside = folder / name
            inside.mkdir()
            worker = Worker(name, inside)
        answers.send((name, number))
        answers.send(worker.run(seed, number))
    answers.send(None)


def read_all(tasks: Sequence[Task], seed: int, folder: Path) -> dict[Task, Result]:
    """Results by (kind, number), from workers that are replaced when they die.

    A suspect, slow or fatal, is repeated alone in a worker of its own.
    """
    results: dict[Task, Result] = {}
    suspect: Task | None = None
    while left := [task for task in tasks if task not in results]:
        now = [suspect] if suspect else left
        at, answer, why = _answers(now, seed, folder, results, bool(suspect))
        if suspect and suspect not in results:
            own = answer or Result("", 0, 0.0, 0)
            results[suspect] = own._replace(outcome=f"{own.outcome}; {why}")
        suspect = None if suspect else at
    return results


def _answers(tasks, seed, folder, results, alone):
    """Collect results; (suspect, its result, why), or Nones at the end."""
    context = multiprocessing.get_context("spawn")
    place = Path(tempfile.mkdtemp(dir=folder))
    ours, theirs = context.Pipe(False)
    process = context.Process(target=work, args=(place, theirs, seed, tasks))
    process.start()
    theirs.close()
    at = None
    try:
        while ours.poll(WAITS):
            if (at := ours.recv()) is None:
                return None, None, ""
            if not ours.poll(WAITS):
                break
            answer = ours.recv()
            if answer.seconds > SECONDS:
                return at, answer, f"{answer.seconds:.1f} s"
            results[at] = answer
        return at, None, f"no answer in {WAITS} s"
    except EOFError:
        process.join()
        if at is None or at in results:
            text = (place / "output").read_text(errors="replace")
            raise RuntimeError(f"a worker ended: {text[-3000:]}") from None
        return at, None, f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
        shutil.rmtree(place, ignore_errors=True)


def table(found: dict[str, dict[int, Result]]) -> str:
    """Markdown, a row a kind."""
    rows = ["| kind | files | decoded | refused | left out | failed | slowest | most |",
            "|---|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name, own in found.items():
        results = list(own.values())
        count = Counter(r.outcome if r.outcome in OUTCOMES else "" for r in results)
        rows.append(
            f"| {name} | {len(results):,} | "
            + " | ".join(f"{count[outcome]:,}" for outcome in (*OUTCOMES, ""))
            + f" | {max(r.seconds for r in results):.2f} s "
            + f"| {max(r.memory for r in results) / 1e6:,.0f} MB |"
        )
    return "\n".join(rows)


def main(arguments: list[str]) -> int:
    """Read damaged files; 1 if one of them fails."""
    from rubbish_kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default=",".join(KINDS), help="default: all")
    parser.add_argument("--number", type=int, default=200, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one number")
    given = parser.parse_args(arguments)
    numbers = range(given.number) if given.only is None else [given.only]
    found = {}
    for name in given.kinds.split(","):
        found[name] = read_kind(name, numbers, given.seed)
        for line in failures(name, found[name], given.seed):
            print(line, file=sys.stderr, flush=True)
    print(table(found))
    return int(
        any(r.outcome not in OUTCOMES for f in found.values() for r in f.values())
    )


def read_kind(name: str, numbers: Iterable[int], seed: int) -> dict[int, Result]:
    """Results by number, of one kind."""
    tasks = [(name, number) for number in numbers]
    with tempfile.TemporaryDirectory(prefix="rubbish_") as folder:
        results = read_all(tasks, seed, Path(folder))
    return {number: results[name, number] for _, number in tasks}


def failures(name: str, results: dict[int, Result], seed: int) -> Iterator[str]:
    """Lines: how many, and some of each sort with what repeats them."""
    failed = {n: r.outcome for n, r in results.items() if r.outcome not in OUTCOMES}
    yield f"{name}: {len(failed)} of {len(results)} failed"
    shown: Counter[str] = Counter()
    for number, outcome in failed.items():
        sort = outcome.partition(":")[0]
        shown[sort] += 1
        if shown[sort] <= EXAMPLES:
            yield f"  --kinds={name!r} --seed={seed} --only={number}: {outcome}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
