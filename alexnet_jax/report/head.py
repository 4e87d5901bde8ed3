"""The head of a report: result, data, network and commands."""

import math
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

import jax

from alexnet_jax.console import duration
from alexnet_jax.errors import printable
from alexnet_jax.experiment import make_network
from alexnet_jax.report.document import named, table
from alexnet_jax.report.run import Run, differences
from alexnet_jax.step import parameter_shapes


def title_of(runs: Sequence[Run]) -> str:
    """The name of a run, or of a comparison."""
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs compared"


def head(runs: Sequence[Run], missing: Sequence[str]) -> str:
    """The HTML above the figures; `missing`: sentences on what is not there."""
    first = runs[0]
    notes = [*missing, *(_unfinished(run) for run in runs if not run.complete)]
    alone = len(runs) == 1
    return "\n".join([
        f"<header><h1>{escape(title_of(runs))}</h1>",
        f'<p class="lead">{_description(first)}</p>',
        _result(first) if alone else _comparison(runs),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        f"{_command(first) if alone else ''}</header>",
    ])  # fmt: skip


def _unfinished(run: Run) -> str:
    of = f" of {run.total:,} ({run.steps / run.total:.0%})" if run.total else ""
    return f"{run.name}: not complete: {run.steps:,}{of} steps are done."


def _description(run: Run) -> str:
    """Data and network, in one sentence each."""
    config, data = run.config, run.config.dataset
    name = {"generated": "generated", "tfds": data.tfds_name}.get(data.source)
    parts = [f"<b>{escape(printable(name or Path(data.train).name))}</b>"]
    if run.images:
        parts.append(f"{run.images:,} training images")
    if run.classes:
        parts.append(f"{len(run.classes):,} classes")
    parts.append(f"{data.image_size}×{data.image_size} pixels")
    network = make_network(config, len(run.classes) or 2)
    convolutions = len(network.convolutions)
    full = len(network.weighted) - convolutions
    about = [f"{convolutions} convolutional and {full} fully-connected layers"]
    about += [f"{network.towers} tower{'s' if network.towers > 1 else ''}"]
    crop = config.augment.crop
    if run.classes:
        leaves = jax.tree.leaves(parameter_shapes(network, crop))
        count = sum(math.prod(leaf.shape) for leaf in leaves)
        about.append(f"<b>{count:,} parameters</b>")
    return (
        f"Data: {', '.join(parts)}. Network: {', '.join(about)}, on crops of "
        f"{crop}×{crop}."
    )


def _result(run: Run) -> str:
    """The numbers of one run."""
    total = f"of {run.total:,}" if run.total and not run.complete else ""
    tiles = []
    for name, key, form in (
        ("top-1 error", "top1_error", ".2%"),
        ("top-5 error", "top5_error", ".2%"),
        ("loss", "loss", ".4f"),
    ):
        if (value := run.last(f"validation/{key}")) is not None:
            tiles.append((name, f"{value:{form}}", "validation"))
    if (epoch := run.last("epoch")) is not None:
        tiles.append(("epochs", f"{epoch:.1f}", ""))
    tiles.append(("steps", f"{run.steps:,}", total))
    if run.seconds and run.images_per_second:
        tiles.append(("time", duration(run.seconds), "without validations"))
        tiles.append(("images/s", f"{run.images_per_second:,.0f}", "median"))
    rows = [f"<dt>{a}</dt><dd>{b}<small>{c}</small></dd>" for a, b, c in tiles]
    return "".join(["<dl>", *(f"<div>{row}</div>" for row in rows), "</dl>"])


def _comparison(runs: Sequence[Run]) -> str:
    """A row for each run."""
    titles = "run", "differs in", "seed", "epochs", "top-1 error", "top-5 error", "loss"
    rows = []
    for i, run in enumerate(runs):
        changes = differences(run, runs[0])
        texts = [f"<code>{k}</code> {escape(v)}" for k, v in changes.items()]
        numbers = [
            (run.last("epoch"), ".1f"),
            (run.last("validation/top1_error"), ".2%"),
            (run.last("validation/top5_error"), ".2%"),
            (run.last("validation/loss"), ".4f"),
        ]
        rows.append([
            named(i, run.name),
            "<br>".join(texts) or ("the first" if i == 0 else "nothing"),
            str(run.config.seed),
            *("–" if value is None else f"{value:{form}}" for value, form in numbers),
        ])  # fmt: skip
    return table(titles, rows, "runs")


def _command(run: Run) -> str:
    """How to evaluate a run, or to continue it."""
    folder = printable(str(run.folder))
    one = f'"{folder}"' if "," in folder else folder  # --checkpoint is a list
    command = f"evaluate --views=10 --checkpoint={shlex.quote(one)}"
    if not run.complete:
        command = f"main --workdir={shlex.quote(folder)} --config=…  # as it was begun"
    return f"<pre>python -m alexnet_jax.{escape(command)}</pre>"
