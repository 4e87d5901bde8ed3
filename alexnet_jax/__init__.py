"""AlexNet as it was in 2012, in JAX."""

import signal
import sys
from pathlib import Path

# While an app starts and imports JAX, Ctrl-C ends it without a traceback.
if (
    Path(*sys.argv[:1]).name.startswith(("-m", "alexnet-"))
    and signal.getsignal(signal.SIGINT) == signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli.run`
