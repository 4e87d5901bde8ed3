"""The report of one run or several: one HTML page, and its figures as PNG files."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from alexnet_jax import device, experiment, inputs, workdir
from alexnet_jax.checkpoint import newest_step
from alexnet_jax.data.files import replaced
from alexnet_jax.data.images import Source
from alexnet_jax.errors import InputError, printable
from alexnet_jax.inference import nearest
from alexnet_jax.metrics import read_log
from alexnet_jax.predictor import Predictor
from alexnet_jax.report import answers, curves, kernels, mistakes, neighbours
from alexnet_jax.report.document import Figure, document
from alexnet_jax.report.head import head, title_of
from alexnet_jax.report.images import choose, decoded
from alexnet_jax.report.kernels import FirstLayer
from alexnet_jax.report.mistakes import Outcomes
from alexnet_jax.report.run import Run, names_of, training_images
from alexnet_jax.report.trained import Trained

EXAMPLES, QUERIES = 8, 5  # images of Figure 4, as in the paper
FIGURES = (
    *("curves", "figure1", "kernels", "answers", "classes", "mistakes", "neighbours"),
)


def make_report(
    folders: Sequence[Path],
    destination: Path | None = None,
    *,
    threshold: float = 0.25,
    index: str = "validation",
) -> Path:
    """Write the report of some runs, which are only read.

    Args:
        folders: work directories; the images of Figure 4 are those of the first.
        destination: a folder; None: report/ in the first of `folders`.
        threshold: training error of Figure 1, from 0 to 1; for several runs.
        index: 'validation' or 'train', the split that is searched for neighbours.

    Returns:
        The path of its index.html.
    """
    runs = read_runs(folders)
    with device.float64(any(run.config.precision == "float64" for run in runs)):
        figures, missing = figures_of(runs, threshold, index)
    for line in missing:
        print(f"report: {line}", file=sys.stderr)
    body = [head(runs, missing), *(figure.html() for figure in figures)]
    files = {f"{figure.name}.png": figure.file() for figure in figures}
    files["index.html"] = document(title_of(runs), "\n".join(body)).encode()
    destination = destination or folders[0] / "report"
    write(files, destination)
    return destination / "index.html"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Work directories as runs, with a mesh of this machine's devices."""
    runs = []
    for folder, name in zip(folders, names_of(folders), strict=True):
        config = workdir.read_config(folder)
        experiment.use_these_devices(config)
        classes: list[str] = []
        with suppress(InputError):
            classes = workdir.read_classes(folder / "classes.txt")
        log, damage = read_log(folder / "metrics.jsonl")
        step = newest(folder)
        if not log and step is None:
            raise InputError(
                f"--workdir={folder}: has neither a line in metrics.jsonl nor a "
                "checkpoint; give a run that has trained for a while"
            )
        images, total = training_images(log, config.batch_size), None
        if images or config.steps:
            total = experiment.total_steps(config, images or 1)
        run = Run(name, folder, config, classes, log, images, total, step, damage)
        runs.append(run)
    return runs


def newest(folder: Path) -> int | None:
    """Steps done in the newest complete checkpoint of a work directory."""
    return newest_step(folder / "checkpoints")


def load(run: Run) -> Trained:
    """Read the newest checkpoint, also while the run saves others and deletes it."""
    mesh = experiment.make_mesh(run.config)
    while (step := newest(run.folder)) is not None:
        try:
            model, classes = workdir.load_model(run.folder, run.config, mesh, views=10)
        except InputError:
            if step == newest(run.folder):
                raise
            continue
        if step == newest(run.folder):
            network = experiment.make_network(run.config, len(classes))
            square, crop = inputs.make_square(run.config), run.config.augment.crop
            return Trained(
                step, Predictor([model], network, classes, square, crop, mesh)
            )
    raise InputError("it has no checkpoint yet")


def figures_of(
    runs: Sequence[Run], threshold: float, index: str
) -> tuple[list[Figure], list[str]]:
    """The figures that can be made, and why others cannot."""
    figures, of_images, layers, missing = [], [], [], []
    if any(run.log for run in runs):
        figures.append(curves.training_curves(runs))
        if len(runs) > 1:
            figures.append(curves.figure_1(runs, threshold))
    for run in runs:
        if run.damage:
            missing.append(f"{run.name}: metrics.jsonl: {run.damage}, left out")
        if not run.log:
            missing.append(f"{run.name}: no curves: metrics.jsonl has no line yet")
        try:
            trained = load(run)
        except InputError as error:
            missing.append(f"{run.name}: no kernels, answers and neighbours: {error}")
            continue
        network = trained.predictor.network
        if network.weighted[0].startswith("conv"):  # as in all of the paper
            towers = np.split(trained.first_layer(), network.towers, axis=-1)
            layers.append(FirstLayer(run.name, trained.step, towers))
        try:
            if run is runs[0]:
                for figure in figures_of_images(run, trained, index):
                    of_images.append(figure)
        except InputError as error:
            missing.append(f"{run.name}: Figure 4 is not complete: {error}")
    if layers:
        figures.append(kernels.figure_3(layers))
    return figures + of_images, list(map(printable, missing))


def figures_of_images(run: Run, trained: Trained, index: str) -> Iterator[Figure]:
    """Both halves of Figure 4 and the mistakes, from the run's own images."""
    predictor, classes = trained.predictor, list(map(printable, run.classes))
    validation = inputs.open_images(run.config, "validation", run.classes)
    examples = choose(validation, predictor.square, EXAMPLES, stream=0)
    predictions = predictor.probabilities(np.stack([e.pixels for e in examples]))
    yield answers.figure_4_left(examples, predictions, classes)

    queries = choose(validation, predictor.square, QUERIES, stream=1)
    asked = trained.activations(np.stack([query.pixels for query in queries]))
    seen: list[Outcomes] = []

    def blocks(source: Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block, hidden, p in trained.over(source):
            seen.append(Outcomes.of(block.rows, block.labels, p))
            yield block.rows, hidden

    # One pass over the validation images, for their neighbours and the mistakes.
    own = [query.row for query in queries]
    found = nearest(asked, own, blocks(validation), neighbours.NEIGHBOURS)
    outcomes = Outcomes.joined(seen)
    yield mistakes.by_class(outcomes, classes)
    if rows := outcomes.worst(EXAMPLES):
        wrong = [decoded(validation, predictor.square, row) for row in rows]
        p = trained.centre_view(np.stack([example.pixels for example in wrong]))
        yield mistakes.worst(wrong, p, classes)
    if not trained.layer:
        return
    searched, kind = validation, "validation images"
    if index == "train":
        searched, kind = (
            inputs.open_images(run.config, "train", run.classes),
            "training images",
        )
        found = nearest(asked, [-1] * len(own), blocks(searched), neighbours.NEIGHBOURS)
    yield neighbours.figure_4_right(
        queries,
        [[decoded(searched, predictor.square, i) for i, _ in rows] for rows in found],
        classes,
        layer=f"the {asked.shape[1]:,} activations of {trained.layer}",
        index=f"all {len(searched):,} {kind}",
    )


def write(files: dict[str, bytes], destination: Path) -> None:
    """Write the files of a report, each whole or not at all, and delete older ones."""
    destination.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        if f"{name}.png" not in files:
            (destination / f"{name}.png").unlink(missing_ok=True)
    for name, content in files.items():
        with replaced(destination / name) as temporary:
            temporary.write_bytes(content)
