"""`benchmark predict` compares the same answers."""

import json
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from pictures import write_class_folders
from runs import tiny_config
from small import SIDE, mean_image, quick_jit, small_network, small_params

from alexnet_jax import predictor
from alexnet_jax.benchmark import clock, input_peers, predict, torch_peer
from alexnet_jax.inference import make_probabilities
from alexnet_jax.parallel import make_mesh


def test_it_prints_a_table_and_its_figures(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    batches = input_peers.torch_batches
    monkeypatch.setattr(
        input_peers, "torch_batches", lambda *a, workers: batches(*a, workers=0)
    )
    here = contextmanager(lambda make, *arguments: iter([make(*arguments)]))
    monkeypatch.setattr(clock, "peer_process", here)
    monkeypatch.setattr(predict, "BATCH", 4)
    monkeypatch.setattr(predictor, "BATCH", 4)
    modes = {m: torch_peer.MODES[m] for m in ("eager", "channels_last")}
    monkeypatch.setattr(torch_peer, "MODES", modes)  # others: a minute of a compiler
    folder = write_class_folders(tmp_path / "pictures", {"a": 6, "b": 6})
    config = tiny_config({"dataset.source": "folder", "dataset.train": str(folder)})
    result = predict.measure(config, 0.01)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 images to 72×72, 10 views of 64×64, batch of 4; ")
    assert result["views"] == 10
    assert result["images_per_second"] > 0
    best = result["peer"]["images_per_second"]
    assert f"{result['images_per_second'] / best:.2f} times PyTorch, " in lines[-1]
    assert [line.split("  ")[0] for line in lines[2:5]] == [
        *("predict", "PyTorch, eager", "PyTorch, channels_last")
    ]
    json.dumps(result)


def test_pytorch_answers_the_same():
    network = small_network()
    params, grey = small_params(network), np.full_like(mean_image(8), predict.GREY)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (2, SIDE + 8, SIDE + 8, 3)).astype(np.uint8)
    probabilities = make_probabilities(network, make_mesh(1, 1, 2, 2), SIDE, 10, "crop")
    ours = quick_jit(probabilities)(params, images, grey)
    torch = pytest.importorskip("torch")
    x = torch.tensor(images).permute(0, 3, 1, 2).float() - predict.GREY
    tensors = torch_peer.as_tensors(jax.device_get(params))
    theirs = predict.make_answer(network, SIDE)(tensors, x).detach()
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
