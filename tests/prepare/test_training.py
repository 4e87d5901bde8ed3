import numpy as np
from preparing import SIZE, made, records, refused
from runs import tiny_config

from alexnet_jax import inputs
from alexnet_jax.data.statistics import Statistics


def test_training_takes_the_statistics(source, tmp_path, capsys):
    made(source, tmp_path / "out")
    capsys.readouterr()
    keys = {"dataset.source": "records", "dataset.image_size": SIZE}
    config = tiny_config({**keys, "dataset.train": str(tmp_path / "out")})
    training = inputs.open_images(config, "train")
    kept, statistics = inputs.surveyed(training, config, tmp_path)
    assert kept is training
    own = tmp_path / "out" / "statistics.npz"
    assert (tmp_path / "statistics.npz").read_bytes() == own.read_bytes()
    np.testing.assert_array_equal(
        statistics.mean_image, Statistics.load(own).mean_image
    )
    assert capsys.readouterr().out == ""  # no survey is announced


def test_records_that_do_not_fit_the_config(source, tmp_path):
    made(source, tmp_path / "out")
    refused(
        lambda: records(tmp_path / "out", "train", 256),
        "dataset.image_size=256",
        "prepared with 32 pixels",
        "--image_size=256",
    )
    keys = {"dataset.source": "records", "dataset.image_size": SIZE}
    config = tiny_config({**keys, "dataset.validation": str(tmp_path / "out")})
    refused(
        lambda: inputs.open_images(config, "validation", ("bird", "cat")),
        "dataset.validation: the class 'dog'",
    )
