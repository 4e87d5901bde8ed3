"""App: the speed and communication of a machine, with limits measured in the same run.

python -m alexnet_jax.benchmark step --config=configs/paper.py
python -m alexnet_jax.benchmark input --config=configs/paper.py \
    --config.dataset.source=records --config.dataset.train=prepared
python -m alexnet_jax.benchmark predict --config=configs/paper.py \
    --config.dataset.train=DIR
python -m alexnet_jax.benchmark collectives --config=configs/paper.py \
    --config.mesh.data=128 --config.mesh.tower=2 --config.batch_size=32768
python -m alexnet_jax.benchmark collectives --config=configs/paper.py \
    --target=tpu-v5e-256 --config.precision=bfloat16

Each prints tables, and one JSON object as the last line.
"""

import json
from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli, device
from alexnet_jax.benchmark import collectives, input, predict, step
from alexnet_jax.config_file import PAPER
from alexnet_jax.errors import InputError
from alexnet_jax.values import one_of

if __name__ == "__main__":
    CONFIG = cli.define_config(PAPER)
    SECONDS = flags.DEFINE_float(
        "seconds",
        5.0,
        "Of each side of input or predict, in a round.",
        lower_bound=0.01,
        upper_bound=86_400,
    )
    TARGET = flags.DEFINE_string(
        "target",
        "",
        "Accelerators that collectives compiles for, here or not: tpu-v5e-256, h200-8.",
    )
    MEASUREMENTS = {
        "step": step.measure,
        "input": lambda config: input.measure(config, SECONDS.value),
        "predict": lambda config: predict.measure(config, SECONDS.value),
        "collectives": lambda config: collectives.measure(config, TARGET.value),
    }

    def main(argv: Sequence[str]) -> None:
        """Measure one thing."""
        if len(argv) < 2:
            raise InputError(f"name a measurement: {', '.join(MEASUREMENTS)}")
        cli.no_more_arguments(argv[1:])
        if TARGET.value and argv[1] != "collectives":
            raise InputError(f"--target={TARGET.value}: only collectives takes it")
        measure = MEASUREMENTS[one_of(argv[1], list(MEASUREMENTS), "benchmark")]
        device.compile_always()
        with device.float64(CONFIG.value.precision == "float64"):
            print(json.dumps(measure(CONFIG.value)))

    cli.run(main)
