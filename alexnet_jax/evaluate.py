"""App: loss and error rates of a network, or an ensemble, over a whole split.

python -m alexnet_jax.evaluate --config=configs/paper.py --checkpoint=W --views=10
"""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from absl import flags
from tqdm import tqdm

from alexnet_jax import cli, experiment, inference, parallel
from alexnet_jax.data.loader import evaluation_batches
from alexnet_jax.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Prints the rates, for people and then as one JSON object."""
    cli.no_more_arguments(argv)
    workdirs = [Path(name) for name in CHECKPOINT.value]
    configs = [cli.load_config(w / "config.json") for w in workdirs]
    config = CONFIG.value or configs[0]
    experiment.check(config)
    if CONFIG.value is None:
        config.mesh.data, config.mesh.tower = -1, 1  # what there is here, not there
    elif len(workdirs) == 1:
        experiment.require_same_network(config, configs[0], workdirs[0])

    mesh = parallel.make_mesh(
        config.mesh.data, config.mesh.tower, config.network.towers, config.batch_size
    )
    models, classes = experiment.trained_ensemble(
        workdirs, configs, mesh, int(VIEWS.value)
    )
    source = experiment.open_data(config, SPLIT.value, tuple(classes))
    size = configs[0].dataset.image_size
    with closing(
        evaluation_batches(
            source,
            image_size=size,
            batch_size=config.batch_size,
            workers=config.dataset.workers,
            threads=config.dataset.threads,
            allow_unreadable=ALLOW_UNREADABLE.value,
        )
    ) as batches:
        total = -(-len(source) // config.batch_size)
        bar = tqdm(batches, total=total, unit=" batches", desc=SPLIT.value)
        rates, unreadable = inference.error_rates(models, bar, mesh)
    for i in unreadable:
        print(f"left out: {source[i][0]} cannot be decoded", file=sys.stderr)
    if not rates["images"]:
        raise InputError(f"dataset.{SPLIT.value}: none of its pictures can be decoded")
    print(
        f"{rates['images']:,} pictures, {VIEWS.value} view(s), {len(models)} model(s): "
        f"loss {rates['loss']:.4f}, top-1 error {rates['top1_error']:.2%}, "
        f"top-5 error {rates['top5_error']:.2%}"
    )
    counts = {"views": int(VIEWS.value), "models": len(models)}
    print(json.dumps({"images": rates.pop("images"), **counts, **rates}))


if __name__ == "__main__":
    CONFIG = cli.define_config()
    CHECKPOINT = flags.DEFINE_list(
        "checkpoint",
        None,
        "Work directories; several are averaged as an ensemble.",
        required=True,
    )
    VIEWS = flags.DEFINE_enum("views", "1", ["1", "10"], "Views of a picture (§4.1).")
    SPLIT = flags.DEFINE_enum(
        "split", "validation", ["validation", "train"], "Pictures to look at."
    )
    ALLOW_UNREADABLE = flags.DEFINE_bool(
        "allow_unreadable", False, "Leave out pictures that cannot be decoded."
    )
    cli.run(main)
