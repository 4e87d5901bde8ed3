"""Workers do not outlive the process that started them."""

import os
import signal
import threading
from multiprocessing import parent_process


def begin_worker() -> None:
    """Leave Ctrl-C to the process that started this one, and end with it.

    Even when that is killed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None  # called in workers

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
