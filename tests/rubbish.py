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
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

SECONDS = 1.0  # of processor time that a file may take, in two attempts
HANGS = 20  # seconds of processor time after which the system ends a worker
WAITS = 120  # seconds without an answer, of a worker that waits for something
MEMORY = 6 << 30  # bytes of address space that a worker may take
EXAMPLES = 3  # failures of a kind that are printed

OUTCOMES = ("decoded", "refused", "left out")


class Result(NamedTuple):
    number: int
    outcome: str  # of OUTCOMES, or a failure in words
    left_out: int
    seconds: float
    memory: int  # bytes


def case(kind, files: dict[str, bytes], name: str, seed: int, number: int, bombs):
    """The name and content of a damaged file."""
    if number < len(bombs):
        return list(bombs.items())[number]
    import rubbish_mutations as damage

    rng = random.Random(f"{seed} {name} {number}")
    chosen = rng.choice([f for f in files if f.endswith(kind.damaged)])
    mutate = rng.choice((kind.deeper, damage.plain))
    try:
        return chosen, mutate(rng, files[chosen], list(files.values()))
    except (ValueError, IndexError, KeyError, EOFError):  # the format was not theirs
        return chosen, damage.plain(rng, files[chosen], list(files.values()))


class Worker:
    """In a process of its own: reads files, watched."""

    def __init__(self, name: str, folder: Path):
        from rubbish_kinds import KINDS

        self.name, self.kind, self.folder = name, KINDS[name], folder
        self.kind.make(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {str(p.relative_to(folder)): p.read_bytes() for p in paths}
        self.bombs = self.kind.bombs()
        self.watching, self.seen = False, list[str]()
        sys.addaudithook(self._audit)
        for file in [f for f in self.files if f.endswith(self.kind.damaged)]:
            with contextlib.suppress(Exception):
                self.kind.read(folder / file)  # imports and compiles what it needs
        self._restore()
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)

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
            self.seen.append(f"{event} {str(arguments)[:80]}")

    def run(self, seed: int, number: int) -> Result:
        from alexnet_jax.errors import ImageError, InputError

        name, data = case(
            self.kind, self.files, self.name, seed, number, self.bombs
        )
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
            elif str(self.folder) not in text and path.name not in text:
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
        return Result(number, outcome, int(left_out), seconds, memory)


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


def work(name: str, folder: Path, answers: Connection, seed: int, numbers) -> None:
    """A worker: an answer for every number."""
    output = os.open(folder / "output", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    inside = folder / "files"
    inside.mkdir()
    os.chdir(inside)
    os.environ |= {"HOME": str(folder), "TMPDIR": str(folder / "tmp")}
    os.environ |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    (folder / "tmp").mkdir()
    tempfile.tempdir = None
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # as cli.run does
    import logging as python_logging

    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL)
    worker = Worker(name, inside)
    answers.send(None)
    for number in numbers:
        answers.send(number)
        answers.send(worker.run(seed, number))
    answers.send("end")


def read_kind(name: str, numbers: list[int], seed: int, folder: Path) -> list[Result]:
    """Results of all numbers, in workers that are replaced when they die."""
    context = multiprocessing.get_context("spawn")
    results: list[Result] = []
    left = list(numbers)
    again = False  # repeats a suspect alone
    while left:
        place = Path(tempfile.mkdtemp(dir=folder))
        ours, theirs = context.Pipe(False)
        some = left[:1] if again else left
        process = context.Process(target=work, args=(name, place, theirs, seed, some))
        process.start()
        theirs.close()
        at, why = None, ""
        try:
            while (answer := _next(ours)) != "end":
                if isinstance(answer, int):
                    at = answer
                elif isinstance(answer, Result):
                    at = None
                    slow = answer.seconds > SECONDS
                    if slow and not again:
                        left, again = left[left.index(answer.number) :], True
                        break
                    if slow:
                        words = f"{answer.outcome}; {answer.seconds:.1f} s"
                        answer = answer._replace(outcome=words)
                    results.append(answer)
            else:
                left, again = ([] if not again else left[1:]), False
                process.join()
                continue
        except EOFError:
            process.join()
            why = f"the process ended with {process.exitcode}"
            with contextlib.suppress(ValueError):
                why = f"the process ended by {signal.Signals(-process.exitcode).name}"
        except TimeoutError:
            why = f"no answer in {WAITS} s"
        process.kill()
        process.join()
        if why and at is None:
            text = (place / "output").read_text(errors="replace")
            raise RuntimeError(f"{name}: {why} before the first file: {text[-2000:]}")
        if why:
            if again:
                results.append(Result(at, why, 0, 0.0, 0))
                left, again = left[1:], False
            else:
                left, again = left[left.index(at) :], True
        shutil.rmtree(place, ignore_errors=True)
    return results


def _next(answers: Connection):
    if not answers.poll(WAITS):
        raise TimeoutError
    return answers.recv()


def table(found: dict[str, list[Result]]) -> str:
    """Markdown, a row a kind."""
    rows = ["| kind | files | decoded | refused | left out | failed | longest | memory |",
            "|---|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name, results in found.items():
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
    found: dict[str, list[Result]] = {}
    for name in given.kinds.split(","):
        numbers = list(range(given.number)) if given.only is None else [given.only]
        with tempfile.TemporaryDirectory(prefix="rubbish_") as folder:
            found[name] = read_kind(name, numbers, given.seed, Path(folder))
        failed = [r for r in found[name] if r.outcome not in OUTCOMES]
        similar = Counter(r.outcome.partition(":")[0] for r in failed)
        print(f"{name}: {len(failed)} of {len(found[name])} failed", dict(similar),
              file=sys.stderr, flush=True)  # fmt: skip
        shown: Counter[str] = Counter()
        for result in failed:
            words = result.outcome.partition(":")[0]
            shown[words] += 1
            if shown[words] <= EXAMPLES:
                print(f"  --kinds={name!r} --seed={given.seed} --only={result.number}: "
                      f"{result.outcome}", file=sys.stderr, flush=True)  # fmt: skip
    print(table(found))
    return int(any(r.outcome not in OUTCOMES for rs in found.values() for r in rs))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
