import numpy as np
import pytest

from alexnet_jax.report.kernels import (
    FirstLayer,
    coloured,
    figure_3,
    full_range,
    mosaic,
)


def kernels(*colours: tuple[float, float, float]) -> np.ndarray:
    """A 5×5 kernel for each colour, with one pattern."""
    pattern = np.random.default_rng(1).normal(size=(5, 5, 1, 1))
    return (pattern * np.array(colours).T).astype(np.float32)


def test_grey_has_no_colour_and_one_colour_has_two_thirds():
    shares = coloured(
        kernels((1, 1, 1), (-2, -2, -2), (0, 3, 0), (1, -1, 0), (1, 1, 0), (0, 0, 0))
    )
    # (1, 1, 0): the mean is 2/3, and 1 − 3 · (2/3)² / 2 = 1/3.
    np.testing.assert_allclose(shares, [0, 0, 2 / 3, 1, 1 / 3, 0], atol=1e-6)


def test_random_kernels_have_two_thirds_on_average():
    random = np.random.default_rng(0).normal(size=(11, 11, 3, 2000))
    assert coloured(random).mean() == pytest.approx(2 / 3, abs=2e-3)


def test_each_kernel_has_the_full_range():
    kernel = np.array([[[-1.0, 0.0, 3.0]]])
    np.testing.assert_allclose(full_range(kernel), [[[0, 0.25, 1]]])
    np.testing.assert_allclose(full_range(np.full((2, 2, 3), 7.0)), 0.5)


def test_the_mosaic_holds_every_kernel_in_its_place():
    random = np.random.default_rng(0).normal(size=(5, 5, 3, 11))
    image = mosaic(random, columns=4)
    cell, scale = image.shape[1] // 4, 9  # 48 // 5
    assert image.shape == (3 * cell, 4 * cell, 4)
    assert cell == 5 * scale + scale
    for i in range(11):
        y, x = i // 4 * cell, i % 4 * cell
        own = image[y : y + 5 * scale : scale, x : x + 5 * scale : scale]
        np.testing.assert_allclose(own[..., :3], full_range(random[..., i]), rtol=1e-6)
        assert (own[..., 3] == 1).all()
    assert (image[2 * cell :, 3 * cell :, 3] == 0).all()  # no twelfth kernel
    assert (image[5 * scale : cell, :, 3] == 0).all()  # a gap


def test_figure_3_has_a_panel_and_a_number_for_each_tower():
    grey, red = kernels((1, 1, 1), (2, 2, 2)), kernels((1, 0, 0), (1, 1, 1))
    figure = figure_3([FirstLayer("run", 7, [grey, red])])
    assert [panel.words for panel in figure.panels] == [
        "The kernels of the first layer; tower 1: 0% coloured",
        "The kernels of the first layer; tower 2: 33% coloured",
    ]
    assert "<b>tower 1: 0% coloured; tower 2: 33% coloured.</b>" in figure.caption
    assert "kernels of 5×5×3 after step 7" in figure.caption
    alone = figure_3([FirstLayer("a&b", 7, [red]), FirstLayer("c", 7, [grey])])
    assert "<b>a&amp;b, 33% coloured; c, 0% coloured.</b>" in alone.caption
