"""The order in which the loop dispatches steps and reads their numbers."""

import jax
import pytest
from runs import logged, tiny_config

from alexnet_jax import experiment, metrics
from alexnet_jax import train as loop
from alexnet_jax.experiment import make_program

CONFIG = {
    "steps": 12, "log_every_steps": 4, "checkpoint_every_steps": 100,
    "validate_every_epochs": 0,
}  # fmt: skip


class Loss:
    """The loss of a step, which records when it is waited for."""

    def __init__(self, step: int, value: jax.Array, events: list):
        self.step, self.value, self.events = step, value, events

    def __float__(self) -> float:
        self.events.append(("read", self.step))
        return float(self.value)

    def block_until_ready(self) -> None:  # only where there is no batch yet
        self.value.block_until_ready()


@pytest.fixture
def events(monkeypatch) -> list[tuple[str, int]]:
    """A run as ('dispatch', step), ('read', step) and ('line', step)."""
    events: list[tuple[str, int]] = []
    write = metrics.MetricsFile.write

    def watched_program(*arguments):
        program, steps = make_program(*arguments), iter(range(1, 100))

        def train_step(state, *arguments):
            step = next(steps)
            events.append(("dispatch", step))
            # All that it needs is on the devices, once it is compiled.
            with jax.transfer_guard("disallow" if step > 1 else "allow"):
                state, loss = program.train_step(state, *arguments)
            return state, Loss(step, loss, events)

        def norms(*arguments):
            with jax.transfer_guard("disallow"):
                return program.norms(*arguments)

        return program._replace(train_step=train_step, norms=norms)

    def watched_write(self, line):
        events.append(("line", line["step"]))
        write(self, line)

    monkeypatch.setattr(experiment, "make_program", watched_program)
    monkeypatch.setattr(metrics.MetricsFile, "write", watched_write)
    return events


@pytest.mark.parametrize("norms", [0, 4])
def test_a_step_is_dispatched_before_the_last_ones_numbers_are_read(
    norms, events, tmp_path
):
    config = tiny_config({**CONFIG, "log_norms_every_steps": norms})
    assert loop.train(config, tmp_path) is None
    steady = []
    for step in range(1, 12):
        steady.append(("dispatch", step + 1))
        steady.append(("read", step))
        if step % 4 == 0:
            steady.append(("line", step))
    assert events[0] == ("dispatch", 1)
    assert events[1 : len(steady) + 1] == steady
    # Then comes the end: validation, checkpoint and the last line.
    rest = set(events[len(steady) + 1 :])
    assert rest == {("read", 12), ("line", 12)}
    assert [line["step"] for line in logged(tmp_path)] == [4, 8, 12]
