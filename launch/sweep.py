"""Trains configs × seeds and collects one table; the same command continues.

    python launch/sweep.py --workdir=runs/ablation --seeds=0,1 \
        configs/variants.py:whole "configs/variants.py:tanh optimizer.rate=0.003" \
        -- --config.dataset.train=ILSVRC2012/train --config.epochs=5

Keys behind a config are its own; all runs get what stands behind '--'. Each has a work
directory W/NAME_seed=S with its output in log.txt. --devices=0,1 trains one run at a
time on each of these GPUs. W/runs.csv has a row for each finished run, which is not run
again; W/table.md one for each config, beside the errors in the file's PUBLISHED.
"""

import argparse
import csv
import json
import os
import queue
import runpy
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

ERRORS = ("train/top1_error", "validation/top1_error", "validation/top5_error")
HEAD = ("run", "seeds", "epochs", "training error", "top-1 error", "top-5 error",
        "paper", "log of 2012")  # fmt: skip
running: list[subprocess.Popen] = []
stopped: list[int] = []  # signals


def train(folder: Path, arguments: list[str], devices: queue.Queue) -> int:
    """Train one run on the next free device; its exit status."""
    device = devices.get()
    if stopped:
        devices.put(device)
        return stopped[0]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "alexnet_jax.main", f"--workdir={folder}"]
    chosen = {"CUDA_VISIBLE_DEVICES": device} if device else {}
    with (folder / "log.txt").open("a") as log:
        run = subprocess.Popen(
            command + arguments, stdout=log, stderr=log, env=os.environ | chosen
        )
        running.append(run)
        status = run.wait()
    devices.put(device)
    print(f"{folder}: exit status {status}", flush=True)
    return status


def result(folder: Path, name: str, seed: str) -> dict:
    """The row of a finished run: its last validation."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    last = [line for line in lines if "validation/loss" in line][-1]
    row = {"run": name, "seed": seed, "epoch": round(last["epoch"], 2)}
    return row | {key: last[key] for key in ERRORS}


def write(folder: Path, rows: list[dict], published: dict[str, tuple]) -> None:
    """Write runs.csv and table.md."""
    with (folder / "runs.new").open("w", newline="") as file:
        table = csv.DictWriter(file, ["run", "seed", "epoch", *ERRORS, "arguments"])
        table.writeheader()
        table.writerows(rows)
    (folder / "runs.new").replace(folder / "runs.csv")
    lines = [HEAD, ("---",) * len(HEAD)]
    for name in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == name]
        cells = [name, len(own), own[0]["epoch"]]
        for values in ([100 * float(row[key]) for row in own] for key in ERRORS):
            spread = f" ± {stdev(values):.2f}" if len(own) > 1 else ""
            cells.append(f"{mean(values):.2f}{spread} %")
        lines.append((*cells, *published.get(name, ("", ""))))
    text = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
    (folder / "table.md").write_text(text)


def main() -> int:
    """Train the runs that have no row yet; 1 if one of them failed."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--seeds", default="0", help="such as 0,1,2")
    parser.add_argument("--devices", default="", help="GPUs, such as 0,1")
    parser.add_argument("configs", nargs="+", help="FILE or 'FILE key=value …'")
    flags, common = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    sys.path.append(str(Path(__file__).parents[1]))  # configs/ import each other

    published, jobs = {}, {}
    for given in flags.configs:
        config, *keys = shlex.split(given)
        file, _, variant = config.partition(":")
        if not Path(file).is_file():
            parser.error(f"{file}: no such file; give one of configs/")
        figures = runpy.run_path(file).get("PUBLISHED", {})
        name = " ".join([variant or Path(file).stem, *keys])
        published[name] = figures.get(variant or Path(file).stem, ("", ""))
        own = [f"--config={config}", *common, *(f"--config.{key}" for key in keys)]
        for seed in flags.seeds.split(","):
            arguments = [*own, f"--config.seed={seed}"]
            if jobs.setdefault((name, seed), arguments) != arguments:
                parser.error(f"{given}: a second {name!r}; give each its own --workdir")

    done = flags.workdir / "runs.csv"
    text = done.read_text() if done.exists() else ""
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        ended = jobs.pop((row["run"], row["seed"]), None)
        if ended and (before := row.get("arguments")) not in (None, shlex.join(ended)):
            parser.error(f"{done}: {row['run']} had {before}; give another --workdir")
    if rows:
        write(flags.workdir, rows, published)
    devices: queue.Queue[str] = queue.Queue()
    for device in flags.devices.split(","):
        devices.put(device)

    def stop(signum, _) -> None:  # each run saves a checkpoint
        stopped.append(signum)
        for run in running:
            run.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    failed = 0
    with ThreadPoolExecutor(devices.qsize()) as pool:
        folders = [flags.workdir / f"{n}_seed={s}".replace(" ", "_") for n, s in jobs]
        ends = pool.map(train, folders, jobs.values(), [devices] * len(jobs))
        for (name, seed), folder, status in zip(jobs, folders, ends, strict=True):
            failed += bool(status)
            if not status:
                row = result(folder, name, seed)
                rows.append(row | {"arguments": shlex.join(jobs[name, seed])})
                write(flags.workdir, rows, published)
    print(flags.workdir / "table.md")
    return 128 + stopped[0] if stopped else int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
