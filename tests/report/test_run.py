from pathlib import Path

import pytest
from made_up import made_up

from alexnet_jax.errors import InputError, printable
from alexnet_jax.report.run import (
    differences,
    names_of,
    training_images,
)


def test_a_run_is_complete_at_its_last_step():
    half, whole = [(1.92, 0.5)], [(1.92, 0.5), (3.84, 0.4)]
    assert made_up(half).steps == 12
    assert not made_up(half).complete
    assert made_up(whole).complete
    assert made_up(half, checkpoint=24).complete
    assert not made_up(whole, total=None).complete


def test_a_plateau_ends_a_run_early():
    changes = {
        "optimizer.schedule": "plateau",
        "optimizer.plateau_drops": 1,
        "optimizer.patience": 2,
    }

    def ended(*rows: tuple[float, float]) -> bool:
        run = made_up([(i + 1, 0.9) for i in range(len(rows))], changes=changes)
        for line, (rate, error) in zip(run.log, rows, strict=True):
            line |= {"train/learning_rate": rate, "validation/top1_error": error}
        return made_up(log=run.log, total=1000, changes=changes).complete

    begun = [(0.01, 0.5), (0.01, 0.6), (0.01, 0.6)]  # then the rate is divided
    assert not ended(*begun)
    assert not ended(*begun, (0.001, 0.5))
    assert not ended(*begun, (0.001, 0.5), (0.001, 0.4))
    assert not ended(*begun, (0.001, 0.4), (0.001, 0.4))
    assert ended(*begun, (0.001, 0.5), (0.001, 0.7))
    assert ended(*begun, (0.001, 0.4), (0.001, 0.4), (0.001, 0.5))


def test_time_and_speed_are_those_of_the_log():
    log = [
        {"step": 5},  # the first line has no speed
        {"step": 10, "train/images_per_second": 40.0},
        {"step": 20, "train/images_per_second": 80.0},
        {"step": 30, "train/images_per_second": 60.0, "epoch": 4.8},
    ]
    run = made_up(log=[{"epoch": 0.0, **line} for line in log])
    assert run.images_per_second == 60
    assert run.seconds == pytest.approx(16 * (5 / 60 + 5 / 40 + 10 / 80 + 10 / 60))
    assert training_images(log, 16) == 100
    assert training_images(log[:2], 16) is None
    assert made_up().seconds is None


def test_names_tell_runs_apart():
    one, other = Path("/a/relu/0"), Path("/a/tanh/0")
    assert names_of([one]) == ["0"]
    assert names_of([one, other]) == ["relu/0", "tanh/0"]
    assert names_of([one, one]) == ["0", "0"]
    assert names_of([Path("/"), Path("/a")]) == ["/", "a"]
    assert printable("caf\udce9\n<b>") == "caf\ufffd?<b>"
    assert str(InputError("a\n\x1b[2Jb: no such file")) == "a ?[2Jb: no such file"
    assert str(InputError("caf\udce9")) == "caf\udce9"  # as the file is named


def test_configs_are_compared_key_by_key():
    first = made_up()
    layers = ["tanh" if s == "relu" else s for s in first.config.network.layers]
    layers.remove("dropout")
    other = made_up(
        changes={
            "network.layers": tuple(layers),
            "optimizer.rate": 0.5,
            "seed": 3,  # has a column of its own
            "dataset.threads": 7,  # changes no result
        }
    )
    assert differences(other, first) == {
        "network.layers": "tanh ×7 for relu ×7, dropout",
        "optimizer.rate": "0.5",
    }
    swapped = [*layers[:1], "normalise", "tanh", *layers[3:]]
    assert differences(
        made_up(changes={"network.layers": tuple(swapped)}),
        made_up(changes={"network.layers": tuple(layers)}),
    ) == {"network.layers": f"{swapped}"}
