"""App: the report of a run, or of several compared, as one HTML page.

python -m alexnet_jax.report --workdir=runs/relu,runs/tanh

The page has the training curves and the paper's Figures 1, 3 and 4, drawn from these
runs. It is written to report/ in the first one's folder, each figure also as a PNG.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_jax import cli, device
from alexnet_jax.report.page import make_report

if __name__ == "__main__":
    WORKDIR = flags.DEFINE_list(
        "workdir", None, "Work directories; several are compared.", required=True
    )
    DESTINATION = flags.DEFINE_string(
        "destination", None, "Folder of the report; default: the first one's report/."
    )
    THRESHOLD = flags.DEFINE_float(
        "threshold", 0.25, "Training error of Figure 1.", lower_bound=0, upper_bound=1
    )
    INDEX = flags.DEFINE_enum(
        "index", "validation", ["validation", "train"], "Images to find neighbours in."
    )

    def main(argv: Sequence[str]) -> None:
        """Write the report and print its path."""
        cli.no_more_arguments(argv)
        destination = None
        if DESTINATION.value is not None:
            destination = cli.path(DESTINATION.value, "--destination")
        device.cache_programs()
        page = make_report(
            cli.folders(WORKDIR.value, "--workdir"),
            destination,
            threshold=THRESHOLD.value,
            index=INDEX.value,
        )
        print(f"report: {page}")

    cli.run(main)
