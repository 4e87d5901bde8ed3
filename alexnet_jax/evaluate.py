"""App: loss and error rates of a network, or an ensemble, over a whole split.

python -m alexnet_jax.evaluate --config=configs/paper.py --checkpoint=W --views=10
"""

import json
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import ml_collections
from absl import flags
from tqdm import tqdm

from alexnet_jax import (
    cli,
    device,
    experiment,
    inference,
    parallel,
    pictures,
    processes,
    runs,
)
from alexnet_jax.data.loader import evaluation_batches
from alexnet_jax.data.preprocess import Square
from alexnet_jax.errors import InputError


def evaluate(
    workdirs: Sequence[Path],
    config: ml_collections.ConfigDict | None = None,
    *,
    views: int = 1,
    split: str = "validation",
    allow_unreadable: bool = False,
) -> dict[str, Any]:
    """Loss and error rates over a whole split, every picture once.

    Args:
        workdirs: of the networks; the answers of several are averaged.
        config: names the pictures and the mesh; None takes those of the first work
            directory, on all devices that divide its batch size.
        views: 1 or 10 (§4.1).
        split: 'validation', 'train' or 'test'.
        allow_unreadable: leaves out pictures that cannot be decoded, and says so.

    Returns:
        The JSON object of commands.md.

    Raises:
        InputError: something is missing or does not fit.
        PictureError: a picture cannot be decoded.
    """
    configs = [runs.kept_config(w) for w in workdirs]
    if config is None:
        config = configs[0]
        # What there is here, not there.
        config.mesh.data = math.gcd(config.batch_size, jax.device_count())
        config.mesh.tower = config.mesh.fc = config.accumulation = 1
    else:
        experiment.check(config)
        if len(workdirs) == 1:
            runs.require_same_network(config, configs[0], workdirs[0])

    processes.agree(experiment.shared_by_processes(config))
    mesh = experiment.make_mesh(config)
    process_index, process_count = parallel.own_part(mesh)
    models, classes = runs.trained_ensemble(workdirs, configs, mesh, views)
    source = pictures.open_pictures(config, split, tuple(classes))
    size = configs[0].dataset.image_size
    batch_size = config.batch_size // config.accumulation
    with closing(
        evaluation_batches(
            source,
            Square(size),
            batch_size=batch_size,
            process_index=process_index,
            process_count=process_count,
            workers=config.dataset.workers,
            threads=config.dataset.threads,
            allow_unreadable=allow_unreadable,
        )
    ) as batches:
        bar = tqdm(
            batches,
            total=-(-len(source) // batch_size),
            unit=" batches",
            desc=split,
            disable=not processes.first(),
        )
        rates, unreadable = inference.error_rates(models, bar, mesh)
    for i in processes.of_all(unreadable, len(source)):
        print(f"left out: {pictures.why_unreadable(source, i)}", file=sys.stderr)
    if not rates["images"]:
        named = "train" if split == "train" else "validation"
        raise InputError(f"dataset.{named}: none of its images can be decoded")
    counts = {"images": rates.pop("images"), "views": views, "models": len(models)}
    return {**counts, **rates}


if __name__ == "__main__":
    CONFIG = cli.define_config()
    CHECKPOINT, VIEWS = cli.define_networks()
    SPLIT = flags.DEFINE_enum(
        "split", "validation", ["validation", "train", "test"], "Images to read."
    )
    ALLOW_UNREADABLE = flags.DEFINE_bool(
        "allow_unreadable", False, "Leave out pictures that cannot be decoded."
    )

    COORDINATOR, PROCESSES, PROCESS = cli.define_processes()

    def main(argv: Sequence[str]) -> None:
        """Prints the rates, for people and then as one JSON object."""
        cli.no_more_arguments(argv)
        device.keep()
        with processes.joined(COORDINATOR.value, PROCESSES.value, PROCESS.value):
            rates = evaluate(
                cli.work_directories(CHECKPOINT.value),
                CONFIG.value,
                views=int(VIEWS.value),
                split=SPLIT.value,
                allow_unreadable=ALLOW_UNREADABLE.value,
            )
        print(
            f"{rates['images']:,} pictures, {rates['views']} view(s), "
            f"{rates['models']} model(s): loss {rates['loss']:.4f}, "
            f"top-1 error {rates['top1_error']:.2%}, "
            f"top-5 error {rates['top5_error']:.2%}"
        )
        print(json.dumps(rates))

    cli.run(main)
