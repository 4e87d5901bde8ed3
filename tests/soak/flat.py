"""A long run takes no more of the machine in its last tenth than in its first."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from apps import ROOT

SAMPLES = 200  # of a run
TENTH = SAMPLES // 10
# The quickstart, without an end, saving and validating more often.
FLAGS = (
    *("--config=configs/quickstart.py", "--config.steps=100_000_000"),
    *("--config.optimizer.drops=()", "--config.log_every_steps=20"),
    *("--config.checkpoint_every_steps=200", "--config.validate_every_epochs=1.3"),
    *("--config.dataset.train=3000", "--config.dataset.validation=300"),
)


class Sample(NamedTuple):
    """What the run takes at one moment."""

    steps: int
    cpu: float  # seconds, of all its threads
    seconds: float  # since the start
    rss: int  # bytes
    handles: int
    threads: int
    disk: int  # bytes of the work directory without metrics.jsonl
    lines: int  # of metrics.jsonl


def run(folder: Path, minutes: float) -> bool:
    """Sample a run, print the table, and return whether nothing grows."""
    workdir = folder / "run"
    command = [sys.executable, "-m", "alexnet_jax.main", f"--workdir={workdir}", *FLAGS]
    with (folder / "output").open("w") as output:
        training = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    process, samples = psutil.Process(training.pid), list[Sample]()
    try:
        # Once as many checkpoints are there as are kept, and all is compiled.
        while len(list(workdir.glob("checkpoints/[0-9]*"))) < 4:
            time.sleep(1)
            if training.poll() is not None:
                print((folder / "output").read_text())
                return False
        start = time.monotonic()
        for number in range(SAMPLES):
            due = start + (number + 1) * 60 * minutes / SAMPLES
            time.sleep(max(0.0, due - time.monotonic()))
            samples.append(sample(process, workdir, start))
            with (folder / "samples.jsonl").open("a") as file:
                print(json.dumps(samples[-1]._asdict()), file=file)
    finally:
        training.send_signal(signal.SIGTERM)
        status = training.wait()
    ok = table(samples)
    print(
        f"\n{minutes:g} minutes, {samples[-1].steps:,} steps; SIGTERM: status {status}"
    )
    return ok and status == 143


def sample(process: psutil.Process, workdir: Path, start: float) -> Sample:
    """Of this moment; files that are deleted meanwhile count 0."""
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines()
    files = [
        Path(folder, name)
        for folder, _, names in os.walk(workdir)
        for name in names
        if name != "metrics.jsonl"
    ]
    with process.oneshot():
        cpu = process.cpu_times()
        return Sample(
            steps=json.loads(lines[-1])["step"],
            cpu=cpu.user + cpu.system,
            seconds=time.monotonic() - start,
            rss=process.memory_info().rss,
            handles=process.num_fds(),
            threads=process.num_threads(),
            disk=sum(map(_size, files)),
            lines=len(lines),
        )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def table(samples: list[Sample]) -> bool:
    """Print both tenths side by side; whether nothing grew beyond its bound."""
    first, last = samples[: TENTH + 1], samples[-TENTH - 1 :]

    def middle(of: str) -> tuple[float, float]:
        one, other = ([getattr(s, of) for s in part] for part in (first, last))
        return statistics.median(one), statistics.median(other)

    def per_step(of: str) -> tuple[float, float]:
        one, other = (
            1e3 * (getattr(part[-1], of) - getattr(part[0], of))
            / max(part[-1].steps - part[0].steps, 1)
            for part in (first, last)
        )  # fmt: skip
        return one, other

    rss, disk = ([x / 1e6 for x in middle(of)] for of in ("rss", "disk"))
    # TensorStore loses 43 kB a checkpoint (docs/reliability.md). Of the checkpoints
    # kept, the best one is among the newest or not.
    rows = (  # name, first, last, bound
        ("resident memory, MB", *rss, rss[0] * 1.05),
        ("file handles", *middle("handles"), middle("handles")[0] + 2),
        ("threads", *middle("threads"), middle("threads")[0] + 2),
        ("work directory without metrics.jsonl, MB", *disk, disk[0] * 1.5),
        ("processor time of a step, ms", *(cpu := per_step("cpu")), cpu[0] * 1.25),
        ("a step, ms (not judged: other programs)", *per_step("seconds"), None),
    )
    print("| | first tenth | last tenth | bound |\n|---|---|---|---|")
    ok = True
    for name, one, other, bound in rows:
        good = bound is None or other <= bound
        ok &= good
        cell = "–" if bound is None else f"{bound:,.1f}{'' if good else ' exceeded'}"
        print(f"| {name} | {one:,.1f} | {other:,.1f} | {cell} |")
    return ok
