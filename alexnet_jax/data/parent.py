"""Workers do not outlive the process that started them."""

import os
import threading
from multiprocessing import parent_process


def follow_parent() -> None:
    """End this process with the one that started it, even when that is killed."""
    parent = parent_process()
    assert parent is not None  # called in workers

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
