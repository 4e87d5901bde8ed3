"""Runs take turns, and those of a peer run in another process."""

import os

import numpy as np
import pytest

from alexnet_jax.benchmark import clock


@pytest.fixture
def seconds(monkeypatch) -> list[float]:
    """A clock that only moves when a test adds to its one number."""
    now = [0.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: now[0])
    return now


def test_runs_take_turns_and_short_ones_are_repeated(seconds):
    calls = []

    def run(name: str, took: float):
        def again(times: int) -> None:
            calls.append((name, times))
            # Slower from round to round.
            seconds[0] += times * took * (1 + 0.1 * len(calls))

        return again

    found = clock.in_turn({"long": run("long", 2.0), "short": run("short", 0.01)}, 3)

    assert calls[:2] == [("long", 1), ("short", 1)]
    repeats = calls[5][1]
    assert 5 <= repeats <= 10, "a tenth of a second of it"
    # The first run of a turn finds cold caches, and is not counted.
    turns = [("long", 1), ("long", 1), ("short", 1), ("short", repeats)]
    assert calls[2:] == turns * 3
    np.testing.assert_allclose(found["long"].seconds, [2.8, 3.6, 4.4])
    np.testing.assert_allclose(found["short"].seconds, [0.016, 0.02, 0.024])
    assert found["long"].median == pytest.approx(3.6)
    assert found["long"].least == pytest.approx(2.8)
    assert found["long"].spread == pytest.approx(1.6 / 3.6)


def runs_of_a_peer(folder):
    def write(times: int) -> None:
        (folder / str(times)).write_text(str(os.getpid()))

    return {"write": write}


def test_runs_of_a_peer_end_in_its_own_process(tmp_path):
    with clock.peer_process(runs_of_a_peer, tmp_path) as runs:
        assert list(runs) == ["write"]
        runs["write"](3)
        assert int((tmp_path / "3").read_text()) != os.getpid()
        runs["write"](5)
    assert (tmp_path / "5").read_text() == (tmp_path / "3").read_text()
