"""App: trains, validating on the way, and continues where it stopped.

python -m alexnet_jax.main --config=configs/paper.py --workdir=runs/paper

SIGTERM, Ctrl-C and SIGUSR1 save a checkpoint first and exit with status 143, 130 and
138; the same command then continues the run. A second Ctrl-C ends at once. A training
that diverges exits with status 3. A complete training of one process ends with its
report (alexnet_jax.report). Several processes train one network where each is given the
same --coordinator: see launch/.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from alexnet_jax import cli, device, preemption, processes
from alexnet_jax.console import ending
from alexnet_jax.errors import InputError
from alexnet_jax.train import train

if __name__ == "__main__":
    CONFIG = cli.define_config(run="workdir")
    WORKDIR = flags.DEFINE_string(
        "workdir", None, "Folder for config, metrics and checkpoints.", required=True
    )
    PROFILE = flags.DEFINE_bool(
        "profile",
        False,
        "Trace steps 10 to 15 of this start in the workdir's profile/.",
    )
    PREEMPTION = flags.DEFINE_enum(
        "preemption",
        None,
        sorted(preemption.CLOUDS),
        "Cloud whose notice that it takes this machine back is a SIGTERM.",
    )
    SKIP_DAMAGED = cli.define_skip_damaged()
    PROCESSES = cli.define_processes()
    flags.mark_flag_as_required("config")

    def main(argv: Sequence[str]) -> int:
        """Train as the flags say."""
        cli.no_more_arguments(argv)
        device.cache_programs()
        device.bound_arenas()
        cli.on_ctrl_c(cli.end_at_once)  # a start can be repeated
        watched = preemption.watched(PREEMPTION.value)
        with processes.joined(*PROCESSES()), watched:
            folder = cli.path(WORKDIR.value, "--workdir")
            stopped_by = train(CONFIG.value, folder, PROFILE.value, SKIP_DAMAGED.value)
            if stopped_by is None:
                if jax.process_count() == 1:
                    report(folder)
                if processes.first():
                    cli.say(ending(folder))
        return 128 + stopped_by if stopped_by else 0

    def report(folder: Path) -> None:
        """Write the report of a run; the training stands, whatever happens here."""
        from alexnet_jax.report.page import make_report  # loads Matplotlib

        try:
            cli.say(f"report: {make_report([folder])}")
        except (InputError, OSError) as error:
            cli.say(f"report: not written: {error}")

    cli.run(main)
