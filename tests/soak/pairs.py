"""Two processes that train one network: kills, stops and signals."""

import signal
import sys
import time

from soak.app import App, Trouble
from soak.bench import Bench, Outcome, remove, steps

ROWS = (
    *("SIGSTOP of one of two processes for seconds", "SIGSTOP of one of two for good"),
    "SIGTERM storm, two processes",
)
KILLS = 3  # of one work directory
HEARTBEAT = 10  # seconds, of the short soak; the long one keeps that of the package
# Seconds beyond the heartbeat in which the other process must have ended.
GRACE = 30.0


def kills(bench: Bench) -> list[Outcome]:
    """One of them is killed, or both, and the other one ends by itself."""
    workdir, outcomes, rng = bench.new(), list[Outcome](), bench.rng
    assert bench.reference_of_two
    assert bench.reference
    for _ in range(KILLS):
        first, both = rng.randrange(2), rng.random() < 0.3
        troubles: list[Trouble | None] = [None, None]
        if rng.random() < 0.5:
            troubles[first] = Trouble(kill_at=rng.randint(1, bench.operations // 3))
        pair = bench.pair(workdir, *troubles)
        if troubles[first] is None:
            moment = rng.choice(("starting", "training", "validating", "saving"))
            _until(pair, workdir, moment)
            time.sleep(rng.random() * 0.3)
            pair[first].send(signal.SIGKILL)
        pair[first].ended()
        if both:
            pair[1 - first].send(signal.SIGKILL)
        pair[1 - first].ended()
        if all(app.status == 0 for app in pair):
            break
        row = f"kill −9 of {'both' if both else 'one'} of two processes"
        outcomes.append(_outcome(bench, row, pair, first))
    return _finished(bench, workdir, outcomes)


def stops(bench: Bench) -> list[Outcome]:
    """SIGSTOP of one of them, and SIGCONT before its heartbeat is missed."""
    from alexnet_jax import processes

    seconds = processes.HEARTBEAT // 2 if bench.long else 5
    workdir, stopped = bench.new(), bench.rng.randrange(2)
    pair = bench.pair(workdir)
    _until(pair, workdir, "training")
    time.sleep(bench.rng.random() * 0.5)
    pair[stopped].send(signal.SIGSTOP)
    time.sleep(seconds)
    pair[stopped].send(signal.SIGCONT)
    for app in pair:
        app.ended()
        outcome = _outcome(bench, ROWS[0], pair, stopped)
    if any(app.status for app in pair):
        outcome.wrong.append(f"{workdir}: statuses {[app.status for app in pair]}")
    return _finished(bench, workdir, [outcome])


def stops_for_good(bench: Bench) -> list[Outcome]:
    """SIGSTOP of one of them for ever: the other ends within a bounded time."""
    from alexnet_jax import processes

    heartbeat = processes.HEARTBEAT if bench.long else HEARTBEAT
    workdir, stopped = bench.new(), bench.rng.randrange(2)
    pair = bench.pair(workdir, *[Trouble(heartbeat=heartbeat)] * 2)
    _until(pair, workdir, bench.rng.choice(("training", "saving", "validating")))
    pair[stopped].send(signal.SIGSTOP)
    began = time.monotonic()
    pair[1 - stopped].ended(heartbeat + GRACE)
    seconds = time.monotonic() - began
    told = f"process {stopped} stopped: the other one ended after {seconds:.1f} s"
    print(told, file=sys.stderr)
    pair[stopped].kill()
    outcome = _outcome(bench, ROWS[1], pair, stopped)
    return _finished(bench, workdir, [outcome])


def signals(bench: Bench) -> list[Outcome]:
    """Tens of SIGTERM within a second, to one of them or both."""
    workdir, rng = bench.new(), bench.rng
    pair = bench.pair(workdir)
    after = rng.choice((0, 3, 6))
    pair[0].until(lambda: pair[0].phase == "training" and steps(workdir) >= after)
    whom = rng.choice((pair[:1], pair[1:], pair))
    for _ in range(30):
        for app in whom:
            app.send(signal.SIGTERM)
        time.sleep(rng.random() / 15)
    for app in pair:
        app.ended()
    outcome = _outcome(bench, ROWS[2], pair, 0)
    return _finished(bench, workdir, [outcome])


def _until(pair: list[App], workdir, moment: str) -> None:
    if moment == "starting":
        time.sleep(1)
    elif moment == "saving":
        pair[0].until(lambda: any(workdir.glob("checkpoints/*tmp*")))
    else:
        pair[0].until(lambda: pair[0].phase == moment)


def _outcome(bench: Bench, row: str, pair: list[App], first: int) -> Outcome:
    one, other = pair[first], pair[1 - first]
    what = one.killed if one.killed == other.killed else f"{one.killed}, {other.killed}"
    return bench.outcome(row, what, *pair)


def _finished(bench: Bench, workdir, outcomes: list[Outcome]) -> list[Outcome]:
    bench.finish_two(workdir, outcomes)
    if not any(outcome.wrong for outcome in outcomes):
        remove(workdir.parent)
    return outcomes
