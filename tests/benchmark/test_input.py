"""`benchmark input` compares the same work on the same images."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from apps import refusal, run_app
from pictures import encoded, write_class_folders
from runs import TINY

from alexnet_jax.benchmark import input, input_peers


def test_the_app_prints_a_table_and_its_figures(tmp_path):
    folder = write_class_folders(tmp_path / "pictures", {"a": 12, "b": 12})
    keys = {**TINY, "dataset.source": "folder", "dataset.train": str(folder)}
    keys |= {"batch_size": 8, "dataset.threads": 3}
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    answer = run_app("benchmark", "input", "--seconds=0.05", *flags)
    assert answer.status == 0, answer.err
    *lines, last = answer.out.splitlines()
    result = json.loads(last)
    assert "24 encoded images" in lines[0]
    assert "3 threads" in lines[0]
    assert result["threads"] == 3
    assert result["images_per_second"] > 0
    per_core = result["images_per_second"] / result["cores"]
    assert result["images_per_second_per_core"] == pytest.approx(per_core)
    share = result["images_per_second"] / result["limit_images_per_second"]
    assert result["limit_share"] == pytest.approx(share)
    assert result["peer"]["images_per_second"] > 0
    assert len(result["memory_bytes"]) == 3
    assert f"{result['images_per_second']:,.0f}" in lines[2]
    sent = result["gigabytes_per_second_to_one_device"]
    assert sent.keys() == {"copied"}  # a CPU has no driver that locks pages
    assert f"to one device, copied: {sent['copied']:.1f} GB/s" in lines


def test_a_batch_is_also_sent_from_where_the_driver_has_locked_it(monkeypatch):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    mapped, sent_mapped = {}, []

    class Client:
        def dma_map(self, address, size):
            mapped[address] = size

        def dma_unmap(self, address):
            del mapped[address]

    def device_put(array, device):
        sent_mapped.append(mapped == {array.ctypes.data: array.nbytes})
        return array

    monkeypatch.setattr(jax, "device_put", device_put)
    rates = input.transfers(images, SimpleNamespace(client=Client()))
    assert rates.keys() == {"copied", "mapped"}
    first = sent_mapped.index(True)  # 'copied' before it, 'mapped' behind
    assert first > 0
    assert not any(sent_mapped[:first])
    assert all(sent_mapped[first:])
    assert not mapped


def test_a_mistake_is_one_line(tmp_path):
    folder = write_class_folders(tmp_path / "pictures", {"a": 2, "b": 2})
    keys = {**TINY, "dataset.source": "folder", "dataset.train": str(folder)}
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    assert "batch_size=16: more than the 4 images" in refusal(
        "benchmark", "input", *flags
    )
    assert "--seconds" in refusal("benchmark", "input", "--seconds=0")


@pytest.mark.parametrize("raw", [False, True])
def test_pytorch_gives_windows_of_the_same_images(tmp_path, raw):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (12, 12, 3), np.uint8) for _ in range(3)]
    sample = pictures if raw else [encoded(picture) for picture in pictures]
    batches = input_peers.torch_batches(
        sample, tmp_path / "sample", side=12, crop=8, batch_size=4, workers=0
    )
    windows = np.stack(
        [
            np.lib.stride_tricks.sliding_window_view(p, (8, 8, 3)).reshape(-1, 8, 8, 3)
            for p in pictures
        ]
    )
    seen, mirrored = set(), 0
    for _ in range(8):
        batch = next(batches)
        assert batch["image"].shape == (4, 8, 8, 3)
        for image in batch["image"].numpy():
            plain = (windows == image).all((2, 3, 4))
            mirror = (windows[:, :, :, ::-1] == image).all((2, 3, 4))
            assert plain.sum() + mirror.sum() == 1
            mirrored += mirror.sum()
            seen.add(int(np.argwhere(plain | mirror)[0, 0]))
    assert seen == {0, 1, 2}
    assert 4 < mirrored < 28


def test_the_limit_is_the_sum_of_all_cores(monkeypatch):
    sample = [np.zeros((4, 4, 3), np.uint8)] * 5
    of_one_core = input_peers._work(sample, 0.0, 0.05)
    assert of_one_core > 5 / 0.05  # more than one pass
    monkeypatch.setattr(input_peers, "_work", lambda *_: 7.0)
    with ThreadPoolExecutor(3) as pool:
        assert input_peers.limit(pool, sample, 3, 0.01) == 21.0
