"""App: trains, validating on the way, and continues where it stopped.

python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper

SIGTERM and Ctrl-C save a checkpoint first and exit with status 143 and 130; the same
command then continues the run. Several processes train one network where each is given
the same --coordinator: see launch/.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli, device, processes
from alexnet_jax.train import train

if __name__ == "__main__":
    CONFIG = cli.define_config()
    WORKDIR = flags.DEFINE_string(
        "workdir", None, "Folder for config, metrics and checkpoints.", required=True
    )
    PROFILE = flags.DEFINE_bool(
        "profile",
        False,
        "Trace steps 10 to 15 of this start in the workdir's profile/.",
    )
    PROCESSES = cli.define_processes()
    flags.mark_flag_as_required("config")

    def main(argv: Sequence[str]) -> int:
        """Train as the flags say."""
        cli.no_more_arguments(argv)
        device.cache_programs()
        with processes.joined(*PROCESSES()):
            folder = cli.path(WORKDIR.value, "--workdir")
            stopped_by = train(CONFIG.value, folder, PROFILE.value)
        return 128 + stopped_by if stopped_by else 0

    cli.run(main)
