"""App: what the program does with a machine, beside limits measured in the same run.

python -m alexnet_jax.benchmark step --config=configs/paper.py
python -m alexnet_jax.benchmark input --config=configs/paper.py \
    --config.dataset.source=records --config.dataset.train=prepared
python -m alexnet_jax.benchmark collectives --config=configs/paper.py \
    --config.mesh.data=128 --config.mesh.tower=2 --config.batch_size=32768

print for people, and as the last line one JSON object.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from alexnet_jax import cli, device
from alexnet_jax.benchmark import collectives, input_path, step
from alexnet_jax.errors import InputError

PAPER = Path(__file__).parents[1] / "configs" / "paper.py"


if __name__ == "__main__":
    CONFIG = cli.define_config(str(PAPER))
    SECONDS = flags.DEFINE_float(
        "seconds",
        5.0,
        "How long input times each side, in each round.",
        lower_bound=0.01,
    )
    MEASUREMENTS = {
        "step": step.measure,
        "input": lambda config: input_path.measure(config, SECONDS.value),
        "collectives": collectives.measure,
    }

    def main(argv: Sequence[str]) -> None:
        """Measures one thing."""
        if len(argv) < 2:
            raise InputError(f"say what to measure: {', '.join(MEASUREMENTS)}")
        cli.no_more_arguments(argv[1:])
        device.always()
        measure = MEASUREMENTS[cli.one_of(argv[1], list(MEASUREMENTS), "benchmark")]
        print(json.dumps(measure(CONFIG.value)))

    cli.run(main)
