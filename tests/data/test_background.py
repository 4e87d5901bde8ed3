import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import grain
import numpy as np
import pytest

from alexnet_jax.data.background import in_background
from alexnet_jax.data.workers import empty
from alexnet_jax.errors import InputError, PictureError

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


class _Squares:
    """Element i of a data set: i² in 50,000 places, and a little beside."""

    def __call__(self, i):
        if i == 9:
            raise PictureError("nine.jpg: cannot be decoded: it is nine")
        square = empty((50, 1000), np.int64)
        square[:] = i**2
        return {"square": square, "name": f"{i}", "odd": np.True_, "own": np.full(3, i)}


def squares(workers: int):
    return in_background(grain.MapDataset.range(12).map(_Squares()), workers, 1)


def test_arrays_stay_as_they_came_while_somebody_looks_at_them():
    with closing(squares(2)) as elements:
        kept = [next(elements) for _ in range(9)]
        for i, element in enumerate(kept):
            assert (element["square"] == i**2).all()
            assert (element["name"], element["odd"]) == (f"{i}", True)
            assert element["own"].tolist() == [i, i, i]
            element["square"] += 1  # nobody else has it
    for i, element in enumerate(kept):  # nor is it gone with the workers
        assert (element["square"] == i**2 + 1).all()


def test_memory_that_nobody_looks_at_goes_round():
    with closing(in_background(_endless(), 1, 1)) as elements:
        places = set()
        for i in range(40):
            pair = next(elements)
            assert [(array == i % 2).all() for array in pair] == [True, True]
            places |= {array.__array_interface__["data"][0] for array in pair}
            del pair
    assert 2 <= len(places) <= 14  # of 80: seven elements are under way at most


def _endless():
    return grain.MapDataset.range(2).repeat().map(_pair)


def _pair(i):
    lent = empty((100_000,), np.int64), empty((5000,), np.float32)
    for array in lent:
        array[:] = i
    return lent


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_in_their_turn_and_after_them_the_end(workers):
    with closing(squares(workers)) as elements:
        for i in range(9):
            assert next(elements)["square"][0, 0] == i**2
        with pytest.raises(PictureError, match="it is nine"):
            next(elements)
    with closing(in_background(grain.MapDataset.range(5), workers, 1)) as elements:
        assert [int(i) for i in elements] == [0, 1, 2, 3, 4]
        with pytest.raises(StopIteration):
            next(elements)


def test_a_worker_that_was_killed_is_told_of():
    with closing(in_background(_endless(), 2, 1)) as elements:
        next(elements)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        with pytest.raises(InputError, match=r"dataset\.workers=2: .*exit status -9"):
            [next(elements) for _ in range(100)]


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc is Linux's, and tells who lives"
)
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
