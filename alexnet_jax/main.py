"""App: trains, validating as it goes, and goes on where it stopped.

python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli
from alexnet_jax.train import train


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say."""
    cli.no_more_arguments(argv)
    train(CONFIG.value, Path(WORKDIR.value))


if __name__ == "__main__":
    CONFIG = cli.define_config()
    WORKDIR = flags.DEFINE_string(
        "workdir",
        None,
        "Folder of this run: config, statistics, metrics, checkpoints.",
        required=True,
    )
    flags.mark_flag_as_required("config")
    cli.run(main)
