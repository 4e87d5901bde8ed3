"""A work directory that an earlier version made.

material/run_590dde5.tar.gz was made by commit 590dde5: 8 of 12 steps of `tiny_config`
with that commit's network of 2012 and with conv1's own learning rate from epoch 0.5 on.
The numbers below are those of the same commit, on two cores of an x86 processor.
"""

import tarfile
from pathlib import Path

import pytest
from runs import contents, logged

from alexnet_jax import workdir
from alexnet_jax.evaluate import evaluate
from alexnet_jax.predict import load_run, predict
from alexnet_jax.train import train

MATERIAL = Path(__file__).parent / "material" / "run_590dde5.tar.gz"

# Of the lines that the earlier commit added when it went on to step 12.
CONTINUED = [
    {"step": 10, "train/loss": 2.4558634757995605, "train/top1_error": 0.9375},
    {
        "step": 12,
        "train/loss": 2.5199241638183594,
        "train/top1_error": 0.96875,
        "validation/loss": 2.3167530059814454,
        "validation/top1_error": 0.9,
        "validation/top5_error": 0.5,
    },
]


@pytest.fixture
def folder(tmp_path) -> Path:
    with tarfile.open(MATERIAL) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def test_its_config_is_read_under_todays_keys(folder):
    config = workdir.read_config(folder)
    assert config.network.layers[:10] == (
        "conv1", "normalise", "pool", "relu",
        "conv2", "relu", "normalise", "normalise_within_maps", "pool", "exchange",
    )  # fmt: skip
    assert config.network.sizes == (11, 5, 3, 3, 3)
    assert config.augment.rescale_noisy is True
    (row,) = config.optimizer.layer_drops
    assert tuple(row) == ("conv1", 0.5, 0.001, 0.001)
    assert (config.steps, config.batch_size) == (8, 16)


def test_it_is_evaluated_with_the_error_rates_of_before(folder):
    before = contents(folder)
    assert evaluate([folder]) == {
        "images": 40,
        "views": 1,
        "models": 1,
        "loss": pytest.approx(2.3353315353393556, rel=1e-5),
        "top1_error": 0.9,
        "top5_error": 0.5,
    }
    assert contents(folder) == before


def test_it_predicts(folder, shared_data):
    images = sorted(map(str, (shared_data / "edge-cases").glob("*.JPEG")))
    answers = [
        a for a in predict(load_run(folder, views=1), images, top=10) if "top" in a
    ]
    assert answers
    for answer in answers:
        total = sum(row["probability"] for row in answer["top"])
        assert total == pytest.approx(1, abs=1e-5)


def test_it_continues_as_the_commit_that_made_it_would_have(folder):
    begun = logged(folder)
    config = workdir.read_config(folder)
    config.steps = 12
    assert train(config, folder) is None
    lines = logged(folder)
    assert lines[: len(begun)] == begun
    for line, expected in zip(lines[len(begun) :], CONTINUED, strict=True):
        found = {name: line[name] for name in expected}
        assert found == pytest.approx(expected, rel=1e-4)
    assert [d.name for d in (folder / "checkpoints").iterdir()] == ["12"]
    # It has today's keys now, and is a work directory of today.
    assert workdir.read_config(folder).steps == 12
    assert "conv1_size" not in (folder / "config.json").read_text()
    assert train(config, folder) is None
    assert logged(folder) == lines
