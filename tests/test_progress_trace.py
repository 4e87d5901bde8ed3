import gzip
import json

import pytest
from apps import refusal
from runs import assert_same_weights, finished_run, logged, tiny_config, tiny_flags

from alexnet_jax.errors import InputError
from alexnet_jax.progress import Trace
from alexnet_jax.train import train


def test_a_trace_of_six_steps_opens_and_changes_nothing(tmp_path, capsys):
    assert train(tiny_config(), tmp_path, profile=True) is None
    (written,) = tmp_path.glob("profile/plugins/profile/*/*.trace.json.gz")
    lines = capsys.readouterr().out.splitlines()
    (said,) = [line for line in lines if line.startswith("trace ")]
    assert said == f"trace of steps 10 to 15: {written}"
    assert f"for ui.perfetto.dev, or: tensorboard --logdir {tmp_path}/profile" in lines
    with gzip.open(written) as file:
        events = json.load(file)["traceEvents"]
    steps = [event for event in events if event.get("name") == "step"]
    assert [int(event["args"]["step_num"]) for event in steps] == [*range(10, 16)]
    assert any("dot" in event.get("name", "") for event in events), "the devices' work"
    assert list(written.parent.glob("*.xplane.pb")), "which TensorBoard reads"
    assert logged(tmp_path) == logged(finished_run())
    assert_same_weights(tmp_path, finished_run())


def test_the_trace_of_a_resumed_run_is_of_its_own_steps(tmp_path, capsys):
    train(tiny_config({"steps": 2}), tmp_path)
    train(tiny_config({"steps": 17}), tmp_path, profile=True)  # ends with the last one
    assert "trace of steps 12 to 17: " in capsys.readouterr().out


def test_nobody_waits_where_no_trace_is_asked_for():
    class Loss:
        def block_until_ready(self) -> None:
            raise AssertionError

    trace = Trace(None, done=3, total=100)
    for step in range(4, 100):
        trace.before(step, Loss())


def test_a_run_too_short_for_it_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"--profile: records steps 10 to 15 .* 14 of 14 steps"
    ):
        train(tiny_config({"steps": 14}), tmp_path, profile=True)
    assert not (tmp_path / "profile").exists()


@pytest.mark.parametrize("value", ["maybe", "10", ""])
def test_profile_is_yes_or_no(value, tmp_path):
    line = refusal("main", *tiny_flags(tmp_path / "run"), f"--profile={value}")
    assert f"--profile={value}: must be true or false" in line
