import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grain
import numpy as np
import pytest

from alexnet_jax.data.background import in_background

READER = """
import multiprocessing, time
import grain
from alexnet_jax.data.background import in_background

if __name__ == "__main__":
    elements = in_background(grain.MapDataset.range(10**6), workers=1, threads=1)
    next(elements)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")")[1].split()[0] != "Z"


@pytest.mark.parametrize("workers", [0, 3])
def test_elements_come_in_order_and_closing_ends_the_workers(workers):
    elements = in_background(grain.MapDataset.range(50), workers, threads=2)
    np.testing.assert_array_equal([next(elements) for _ in range(20)], range(20))
    elements.close()
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "reader.py"
    script.write_text(READER)
    command = [sys.executable, script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        worker = int(reader.stdout.readline())
        assert alive(worker)
        os.kill(reader.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)
