"""Kills of a training, of one process and of two."""

import time
from pathlib import Path

from soak.app import App, Trouble
from soak.bench import Bench, Outcome, remove, steps

# How a kill finds its moment.
MOMENTS = ("operation", "operation", "surveying", "compiling", "validating")
MOMENTS += ("restoring", "saving", "deleting", "moment")
PHASES = ("starting", "surveying", "restoring", "compiling", "training", "validating")
PHASES += ("saving", "deleting", "clearing up")


def kills(bench: Bench, most: int = 12) -> list[Outcome]:
    """One work directory, killed again and again until a training reaches its end."""
    workdir, outcomes = bench.new(), list[Outcome]()
    assert bench.reference
    while len(outcomes) < most:
        moments = MOMENTS if outcomes else ("surveying", "operation")
        app = killed(bench, workdir, bench.rng.choice(moments))
        if app.status == 0:  # it ended before the moment came
            break
        row = f"kill −9, {phase_of(app)}"
        outcomes.append(bench.outcome(row, app.killed, app))
    bench.finish(workdir, outcomes)
    if not any(outcome.wrong for outcome in outcomes):
        remove(workdir.parent)
    return outcomes


def killed(bench: Bench, workdir: Path, moment: str) -> App:
    """A training that is killed at a moment of this kind, if it comes to that."""
    rng = bench.rng
    if moment == "surveying" and (workdir / "statistics.npz").exists():
        moment = "operation"
    match moment:
        case "operation":
            at = rng.randint(1, bench.operations // 3)
            app = bench.train(workdir, Trouble(kill_at=at))
        case "deleting":
            trouble = Trouble(kill_in=moment, kill_at=rng.randint(1, 40))
            app = bench.train(workdir, trouble)
        case "moment":
            app = bench.train(workdir)
            app.until(lambda: False, seconds=rng.random() * 4)
            app.kill()
        case "saving":
            app = bench.train(workdir)
            after, delay = rng.randint(0, 12), rng.random() * 0.05
            app.until(
                lambda: (
                    steps(workdir) >= after and any(workdir.glob("checkpoints/*tmp*"))
                )
            )
            time.sleep(delay)
            app.kill()
        case _:
            app = bench.train(workdir, Trouble(compile_always=moment == "compiling"))
            delay = rng.random() * (2 if moment == "compiling" else 0.1)
            app.until(lambda: app.phase == moment)
            time.sleep(delay)
            app.kill()
    app.ended()
    return app


def phase_of(app: App) -> str:
    """What a training did when it was killed."""
    if app.phase == "training" and any(app.watched.glob("checkpoints/*tmp*")):
        return "saving"
    return app.phase
