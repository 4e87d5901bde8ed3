"""App: loss and error rates of a network, or an ensemble, over a whole split.

python -m alexnet_jax.evaluate --config=configs/paper.py --checkpoint=W --views=10
"""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from tqdm import tqdm

from alexnet_jax import (
    cli,
    device,
    experiment,
    inputs,
    metrics,
    parallel,
    processes,
    workdir,
)
from alexnet_jax.config import shared_by_processes
from alexnet_jax.errors import ImageError, InputError
from alexnet_jax.inference import error_rates


def evaluate(
    folders: Sequence[Path],
    config: ConfigDict | None = None,
    *,
    views: int = 1,
    weights: Sequence[float] = (),
    split: str = "validation",
    allow_unreadable: bool = False,
    best: bool = False,
    skip_damaged: bool = False,
) -> dict[str, Any]:
    """Loss and error rates over a whole split, every image once.

    Args:
        folders: work directories of the networks; the predictions of several are
            averaged.
        config: names the images and the mesh; what it leaves empty, and None, are
            those of the first work directory, whose mesh becomes all devices that
            divide the batch size.
        views: 1, 9 or 10; see `inference.make_probabilities`.
        weights: of the networks in the average; () counts all the same.
        split: 'validation', 'train' or 'test'.
        allow_unreadable: leaves out images that cannot be decoded, and names them.
        best: take the checkpoints of least validation error, not the newest.
        skip_damaged: take the next one where a checkpoint is damaged, and name both.

    Returns:
        {'images', 'views', 'models', 'loss', 'top1_error', 'top5_error'}.
    """
    configs = [workdir.read_config(folder) for folder in folders]
    own = configs[0]
    if config is None:
        config = own.copy_and_resolve_references()
    else:
        experiment.check(config)
        if len(folders) == 1:
            workdir.require_same_network(config, own, folders[0])
        fill_images(config, own)
    if config.mesh.to_dict() == own.mesh.to_dict():
        experiment.use_these_devices(config)
    config.dataset.image_size = own.dataset.image_size
    with device.float64(any(c.precision == "float64" for c in configs)):
        processes.agree(shared_by_processes(config))
        mesh = experiment.make_mesh(config)
        part = parallel.process_part(mesh)
        models, classes = workdir.load_ensemble(
            folders, configs, mesh, views, weights, best, skip_damaged
        )
        source = inputs.open_images(config, split, classes)
        batches = inputs.evaluation_input(config, source, part, allow_unreadable)
        bar = tqdm(
            batches,
            total=-(-len(source) // (config.batch_size // config.accumulation)),
            unit=" batches",
            desc=split,
            disable=None if processes.first() else True,  # None: not in a pipe
        )
        try:
            with closing(batches):
                rates, unreadable = error_rates(models, bar, mesh)
        except ImageError as error:
            raise ImageError(
                f"{error}; repair it, or leave such images out with --allow_unreadable"
            ) from None
    for i in processes.of_all(unreadable, len(source)):
        print(f"left out: {inputs.why_unreadable(source, i)}", file=sys.stderr)
    if not rates["images"]:
        raise InputError(f"--split={split}: none of its images can be decoded")
    counts = {"images": rates.pop("images"), "views": views, "models": len(models)}
    return {**counts, **rates}


def fill_images(config: ConfigDict, own: ConfigDict) -> None:
    """Take the images that a config does not name from a run's own config."""
    given, kept = config.dataset, own.dataset
    if not given.train and not given.validation:
        for name in ("source", "tfds_name", "train", "validation", "held_out"):
            given[name] = kept[name]
    elif given.source == kept.source and not inputs.holds_out(config):
        for name in ("tfds_name", "train", "validation"):
            given[name] = given[name] or kept[name]


if __name__ == "__main__":
    CONFIG = cli.define_config(run="checkpoint")
    NETWORKS = cli.define_networks()
    SPLIT = flags.DEFINE_enum(
        "split", "validation", ["validation", "train", "test"], "Images to read."
    )
    ALLOW_UNREADABLE = flags.DEFINE_bool(
        "allow_unreadable", False, "Leave out images that cannot be decoded."
    )
    PROCESSES = cli.define_processes()

    def main(argv: Sequence[str]) -> None:
        """Print the rates, readably and then as one JSON object."""
        cli.no_more_arguments(argv)
        device.cache_programs()
        with processes.joined(*PROCESSES()):
            folders, chosen = NETWORKS()
            rates = evaluate(
                folders,
                CONFIG.value,
                split=SPLIT.value,
                allow_unreadable=ALLOW_UNREADABLE.value,
                **chosen,
            )
        classes = workdir.read_classes(folders[0] / "classes.txt")
        print(
            f"{rates['images']:,} images, {rates['views']} view(s), "
            f"{rates['models']} model(s): loss {rates['loss']:.4f}, "
            + ", ".join(metrics.errors_in_words(rates, len(classes)))
        )
        print(json.dumps(rates))

    cli.run(main)
