"""configs/finetune.py: from another run to a classifier of one's own folder."""

import numpy as np
from apps import refusal
from pictures import write_class_folders
from runs import contents, finished_run, logged, tiny_config, weights

from alexnet_jax import experiment, workdir
from alexnet_jax.evaluate import evaluate
from alexnet_jax.fingerprints import known_images
from alexnet_jax.train import train
from alexnet_jax.values import flat
from configs import finetune


def test_network_and_preprocessing_are_those_of_the_other_run():
    config = finetune.get_config(str(finished_run()))
    values, theirs = flat(config), flat(tiny_config())
    for key, value in values.items():
        if key.startswith(("network.", "augment.", "dataset.image_size", "precision")):
            assert value == theirs[key], key
    assert values["start.checkpoint"] == str(finished_run())
    assert (values["start.fresh"], values["start.statistics"]) == (["fc8"], True)
    assert (values["dataset.held_out"], values["dataset.train"]) == (0.1, "")


def test_the_last_layer_learns_ten_times_as_fast():
    config = finetune.get_config(str(finished_run()))
    schedule = experiment.make_schedule(config)
    layers = experiment.make_network(config, 3).weighted
    for epoch, others, last in ((13.9, 1e-3, 1e-2), (14.0, 1e-4, 1e-3)):
        rates = schedule.rates(epoch, layers)
        for layer in layers:
            expected = last if layer == "fc8" else others
            assert np.isclose(rates[layer]["kernel"], expected), (epoch, layer)
            assert np.isclose(rates[layer]["bias"], expected), (epoch, layer)


def test_a_folder_is_all_that_it_needs(tmp_path):
    folder = write_class_folders(
        tmp_path / "pets", {"cat": 21, "dog": 20, "hamster": 9}
    )
    config = finetune.get_config(str(finished_run()))
    config.dataset.train = str(folder)
    config.steps, config.mesh.data = 1, 1
    config.optimizer.rate = 0.0  # all layers but fc8 stay as they start
    run = tmp_path / "run"
    assert train(config, run) is None
    assert workdir.read_classes(run / "classes.txt") == ["cat", "dog", "hamster"]
    statistics = contents(run)["statistics.npz"]
    assert statistics == contents(finished_run())["statistics.npz"]
    ours, before = weights(run), weights(finished_run())
    assert {n for n, own in ours.items() if own.shape != before[n].shape} == {
        "fc8.kernel",
        "fc8.bias",
    }
    for name in ours.keys() - {"fc8.kernel", "fc8.bias"}:
        np.testing.assert_array_equal(ours[name], before[name], err_msg=name)
    images = known_images(run)
    assert [own["images"] for own in images.values()] == [45, 5]
    rates = evaluate([run])
    assert rates["images"] == 5
    assert rates["top1_error"] == logged(run)[-1]["validation/top1_error"]

    config.dataset.train = str(folder.rename(tmp_path / "moved"))
    config.steps = 2
    assert train(config, run) is None
    assert [line["step"] for line in logged(run)] == [1, 2]
    assert known_images(run) == images


def test_another_run_that_is_not_there_is_named(tmp_path):
    config = f"--config=configs/finetune.py:{tmp_path}"
    line = refusal("main", config, f"--workdir={tmp_path}/run")
    assert line == (
        f"error: {config}: {tmp_path}/config.json: no such file; give a work directory "
        "that alexnet_jax.main made"
    )
