"""Runs come to harm in every way that machines know, and nothing may be lost.

    python tests/soak --minutes=60 --seed=1
    python tests/soak flat --minutes=60

The first prints a table with a row for each kind of trouble, the second what a long run
takes of the machine in its first and its last tenth. Both exit with status 1 if
something fails; what has failed is kept in the folder that is named.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(TESTS.parent), str(TESTS)]
os.environ["PYTHONPATH"] = str(TESTS.parent)
# Of the semaphores of processes that were killed.
os.environ["PYTHONWARNINGS"] = "ignore:resource_tracker"

import conftest  # noqa: E402, F401  # of tests/: before anything imports jax


def main() -> int:
    """Soak as the flags say."""
    parser = argparse.ArgumentParser(prog="tests/soak", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("trouble", "flat"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="scenarios, such as machine.clock")
    parser.add_argument("--long", action="store_true", help="stops of a minute")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    if given.what == "flat":
        from soak import flat

        ok = flat.run(folder, given.minutes)
    else:
        ok = trouble(folder, given)
    if ok:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"kept: {folder}")
    return int(not ok)


def trouble(folder: Path, given: argparse.Namespace) -> bool:
    """Rounds of all scenarios until the minutes are over."""
    from absl import logging
    from soak import bench, scenarios

    logging.set_verbosity(logging.FATAL)
    every = scenarios.EVERY
    if given.only:
        every = {n: s for n, s in every.items() if n in given.only.split(",")}
    started, outcomes, rounds = time.monotonic(), list[bench.Outcome](), 0
    runs = bench.Bench(folder, given.long)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for name, scenario in every.items():
                minutes = (time.monotonic() - started) / 60
                if minutes >= given.minutes:
                    raise KeyboardInterrupt
                runs.begin(f"{given.seed}.{rounds}.{name}")
                try:
                    found = scenario(runs)
                except Exception as error:  # of the soak itself
                    reason = f"{runs.seed}: {error!r}"
                    found = [bench.Outcome(name, "no result", wrong=[reason])]
                outcomes += found
                wrong = sum(bool(outcome.wrong) for outcome in found)
                told = f"{wrong} of {len(found)} failed" if wrong else f"{len(found)}"
                print(f"{minutes:6.1f} min  {name}: {told}", file=sys.stderr)
            rounds += 1
    minutes = (time.monotonic() - started) / 60
    print(bench.table(outcomes, scenarios.ROWS))
    kills = sum(o.trouble.startswith("kill −9") for o in outcomes)
    print(f"\nseed {given.seed}, {minutes:.0f} minutes, {kills} kills")
    failures = {f"{o.trouble}: {w}": None for o in outcomes for w in o.wrong}
    for failure in failures:
        print(f"FAILED {failure}")
    return not failures


if __name__ == "__main__":
    sys.exit(main())
