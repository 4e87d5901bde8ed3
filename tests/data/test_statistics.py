import io
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from pictures import Numbered, write_class_folders

from alexnet_jax.data.folders import ClassFolders, ClassTar
from alexnet_jax.data.preprocess import Square
from alexnet_jax.data.statistics import Statistics, survey
from alexnet_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("set"), {"a": 40, "b": 30})


def assert_equal(one: Statistics, two: Statistics):
    np.testing.assert_array_equal(one.mean_image, two.mean_image)
    np.testing.assert_array_equal(one.color_stddev, two.color_stddev)
    np.testing.assert_array_equal(one.color_axes, two.color_axes)


def test_agrees_with_numpy(folder):
    source = ClassFolders(folder, "dataset.train")
    statistics, unreadable = survey(source, Square(16), progress=False)
    assert unreadable == []
    everything = np.stack([Square(16).pixels(record) for record in source]).astype(
        float
    )
    np.testing.assert_allclose(statistics.mean_image, everything.mean(0), rtol=1e-6)
    covariance = np.cov(everything.reshape(-1, 3).T, bias=True)
    axes, variances = statistics.color_axes, statistics.color_stddev.astype(float) ** 2
    np.testing.assert_allclose(axes * variances @ axes.T, covariance, rtol=1e-5)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert (np.diff(statistics.color_stddev) < 0).all()
    assert (axes.max(0) == np.abs(axes).max(0)).all()
    dtypes = {statistics.mean_image.dtype, axes.dtype, statistics.color_stddev.dtype}
    assert dtypes == {np.dtype(np.float32)}


def test_threads_do_not_change_a_bit(folder, monkeypatch):
    source = ClassFolders(folder, "dataset.train")
    together, _ = survey(source, Square(16), progress=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    alone, _ = survey(source, Square(16), progress=False)
    assert_equal(alone, together)


def test_unreadable_pictures_are_named_and_left_out():
    statistics, unreadable = survey(Numbered(9, 4), Square(40), progress=False)
    assert unreadable == [(4, "n/4: cannot be decoded: not a known picture format")]
    np.testing.assert_array_equal(statistics.mean_image, 4)  # 0 … 8 without 4
    # One colour a picture: all spread lies along the greys.
    grey = np.sqrt(3 * np.var([0, 1, 2, 3, 5, 6, 7, 8]))
    np.testing.assert_allclose(statistics.color_stddev, [grey, 0, 0], atol=1e-3)
    np.testing.assert_allclose(statistics.color_axes[:, 0], 3**-0.5, rtol=1e-5)


def test_nothing_readable():
    with pytest.raises(InputError, match="none of 1 images can be decoded; n/0"):
        survey(Numbered(1, 0), Square(8), progress=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_goes_to_stderr_if_it_is_a_terminal(capfd, monkeypatch):
    survey(Numbered(5), Square(40), progress=True)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    survey(Numbered(5), Square(40), progress=True)
    assert "5/5" in terminal.getvalue()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    survey(Numbered(5), Square(40), progress=False)
    assert terminal.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_real_pictures(shared_data):
    tar = shared_data / "imagenet-samples" / "imagenet-samples-300.tar"
    statistics, unreadable = survey(
        ClassTar(tar, "dataset.train"), Square(64), progress=False
    )
    assert unreadable == []
    # pipeline-facts.md has 1000 such pictures at 256 pixels: these are 300 of them.
    mean = statistics.mean_image.mean((0, 1))
    np.testing.assert_allclose(mean, [125.2, 117.7, 105.2], atol=6)
    np.testing.assert_allclose(statistics.color_stddev, [113.8, 33.7, 16.8], rtol=0.12)
    np.testing.assert_allclose(statistics.color_axes[:, 0], 3**-0.5, atol=0.05)


def test_saved_and_loaded(tmp_path):
    statistics, _ = survey(Numbered(5), Square(40), progress=False)
    path = tmp_path / "statistics.npz"
    statistics.save(path)
    assert_equal(Statistics.load(path), statistics)
    assert list(tmp_path.iterdir()) == [path]
    with np.load(path) as arrays:
        assert set(arrays) == {"mean_image", "color_stddev", "color_axes"}


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "empty", "key"])
def test_what_is_no_file_of_statistics(tmp_path, damage):
    path = tmp_path / "statistics.npz"
    survey(Numbered(5), Square(40), progress=False)[0].save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("mean_image: 117")
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.savez(path, mean_image=np.zeros(3))
    with pytest.raises(InputError, match=r"statistics\.npz: [^\n]+$"):
        Statistics.load(path)


@pytest.mark.parametrize("name", ["mean_image", "color_stddev", "color_axes"])
def test_statistics_of_another_shape_or_not_finite(tmp_path, name):
    path = tmp_path / "statistics.npz"
    statistics = survey(Numbered(5), Square(40), progress=False)[0]
    own = getattr(statistics, name)
    for wrong in (own[..., :2], own * np.nan, own.astype(str)):
        replace(statistics, **{name: wrong}).save(path)
        with pytest.raises(InputError, match=f"not a file of statistics .*{name}"):
            Statistics.load(path)
