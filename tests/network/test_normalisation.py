"""Response normalisation against §3.3's formula, in the form of every target."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from against_torch import (
    as_torch,
    channels_first,
    channels_last,
    check_against,
    normal,
    value_and_gradients,
)
from compare import relative_difference
from torch.nn import functional

from alexnet_jax import device
from alexnet_jax.errors import InputError
from alexnet_jax.network import maps


def plain_response_normalisation(x, depth, k, alpha, beta, towers):
    """§3.3's formula, map by map."""
    maps = x.shape[-1] // towers
    outputs = []
    for i in range(x.shape[-1]):
        start = i // maps * maps
        first = max(start, i - depth // 2)
        last = min(start + maps - 1, i + depth // 2)
        total = sum(x[..., j] ** 2 for j in range(first, last + 1))
        outputs.append(x[..., i] / (k + alpha * total) ** beta)
    return torch.stack(outputs, dim=-1)


def library_response_normalisation(x, depth, k, alpha, beta, towers):
    """torch's, which divides α by n."""
    return torch.cat(
        [
            channels_last(
                functional.local_response_norm(
                    channels_first(maps), depth, alpha * depth, beta, k
                )
            )
            for maps in x.chunk(towers, dim=-1)
        ],
        dim=-1,
    )


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize(
    "oracle", [plain_response_normalisation, library_response_normalisation]
)
@pytest.mark.parametrize(
    ("depth", "k", "alpha", "beta", "towers"),
    [
        (5, 2.0, 1e-4, 0.75, 2),  # the paper
        (5, 2.0, 2e-5, 0.75, 2),  # the 2012 code
        (5, 2.0, 1e-4, 0.75, 1),  # windows over the whole layer
        (3, 1.0, 5e-5, 0.5, 4),
        (9, 1.0, 1e-4, 0.75, 2),  # wider than a tower
    ],
)
def test_response_normalisation_is_the_formula(oracle, depth, k, alpha, beta, towers):
    # At this scale α Σ a² is several times k.
    x = normal(3, 5, 5, 12, scale=150)
    constants = {"depth": depth, "k": k, "alpha": alpha, "beta": beta, "towers": towers}
    check_against(
        lambda x: maps.response_normalisation(x, **constants),
        lambda x: oracle(x, **constants),
        x,
    )


def test_response_windows_are_cut_between_the_towers():
    a = 100.0
    x = np.full((1, 1, 1, 96), a, np.float32)
    own = maps.response_normalisation(x, alpha=1e-4 / 5, towers=2)[0, 0, 0]

    def with_neighbours(count):
        return a * (2 + count * 2e-5 * a**2) ** -0.75

    expected = np.full(96, with_neighbours(5))
    expected[[1, 46, 49, 94]] = with_neighbours(4)
    expected[[0, 47, 48, 95]] = with_neighbours(3)
    np.testing.assert_allclose(own, expected, rtol=1e-6)

    one_tower = maps.response_normalisation(x, alpha=1e-4 / 5, towers=1)[0, 0, 0]
    np.testing.assert_allclose(one_tower[46:50], with_neighbours(5), rtol=1e-6)


def plain_spatial_normalisation(x, size, k, alpha, beta):
    """Response normalisation within a map, pixel by pixel."""
    reach = size // 2
    rows = []
    for y in range(x.shape[1]):
        row = []
        for c in range(x.shape[2]):
            window = x[
                :,
                max(0, y - reach) : y + reach + 1,
                max(0, c - reach) : c + reach + 1,
            ]
            total = (window**2).sum(dim=(1, 2))
            row.append(x[:, y, c] / (k + alpha * total) ** beta)
        rows.append(torch.stack(row, dim=1))
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize(
    ("size", "k", "alpha", "beta"), [(5, 1.0, 4e-5, 0.75), (3, 2.0, 1e-4, 0.6)]
)
def test_spatial_normalisation_is_the_formula(size, k, alpha, beta):
    constants = {"size": size, "k": k, "alpha": alpha, "beta": beta}
    check_against(
        lambda x: maps.spatial_normalisation(x, **constants),
        lambda x: plain_spatial_normalisation(x, **constants),
        normal(2, 9, 7, 3, scale=100),
    )


@pytest.mark.parametrize("size", [2, 4])
def test_even_windows_have_another_transpose_and_are_refused(size):
    with pytest.raises(InputError, match=f"={size}: must be odd"):
        maps.spatial_normalisation(jnp.zeros((1, 5, 5, 2)), size=size)
    with pytest.raises(InputError, match=f"response_depth={size}: must be odd"):
        maps.response_normalisation(jnp.zeros((1, 5, 5, 2)), depth=size, towers=1)


def test_normalisations_in_bfloat16_round_only_at_the_end():
    x = jnp.asarray(normal(2, 7, 7, 8, scale=100), jnp.bfloat16)
    for operation in (
        lambda x: maps.response_normalisation(x, towers=2),
        maps.spatial_normalisation,
    ):
        exact = operation(x.astype(jnp.float32))
        assert operation(x).dtype == jnp.bfloat16
        np.testing.assert_array_equal(operation(x), exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("shape", "depth", "k", "alpha", "beta", "towers"),
    [
        ((3, 5, 7, 96), 5, 2.0, 1e-4, 0.75, 2),  # conv1's maps; 105 positions
        ((2, 4, 4, 256), 5, 2.0, 1e-4, 0.75, 2),  # conv2's
        ((2, 3, 3, 48), 5, 2.0, 1e-4, 0.75, 1),  # one tower of two devices
        ((1, 3, 5, 24), 3, 1.0, 5e-5, 0.5, 4),
        ((1, 3, 5, 24), 9, 1.0, 1e-4, 0.75, 4),  # wider than a tower
    ],
)
def test_in_bfloat16_each_target_rounds_about_once(
    target, shape, depth, k, alpha, beta, towers
):
    how = {"depth": depth, "k": k, "alpha": alpha, "beta": beta, "towers": towers}
    x = np.array(jnp.asarray(normal(*shape, scale=150), jnp.bfloat16))
    upstream = np.array(jnp.asarray(normal(*shape, seed=9), jnp.bfloat16))

    value, (gradient,) = value_and_gradients(
        lambda x: maps.response_normalisation(x, **how), upstream, x
    )

    assert value.dtype == gradient.dtype == jnp.bfloat16
    wide = as_torch(x.astype(np.float32))
    expected = plain_response_normalisation(wide, **how)
    expected.backward(torch.tensor(upstream.astype(np.float64)))
    for own, exact in ((value, expected.detach()), (gradient, wide.grad)):
        own, exact = np.asarray(own, np.float64), exact.numpy()
        difference = relative_difference(own, exact)
        # A bfloat16 has 8 bits: rounding once, by half a unit in the last place.
        print(f"\n{target}: {difference:.1e}")
        assert difference <= 2**-8
    units = np.abs(np.asarray(value, np.float64) - expected.detach().numpy())
    assert (units <= 2**-7 * np.abs(expected.detach().numpy())).all()


@pytest.mark.parametrize("backward", [False, True])
def test_on_a_cpu_pooling_and_normalisation_are_not_computed_in_one_another(backward):
    # Fused, each maximum would compute nine normalised maps, square roots and all.
    def pooled(x):
        return maps.overlapping_pooling(maps.response_normalisation(x, towers=2))

    def gradient(x):
        return jax.grad(lambda x: jnp.square(pooled(x)).sum())(x)

    x = jax.ShapeDtypeStruct((2, 13, 13, 8), jnp.float32)
    compiled = device.jit(gradient if backward else pooled).lower(x).compile()
    fused = re.findall(r"^%\S*fused\S* .*?^}", compiled.as_text(), re.M | re.S)
    roots = [text for text in fused if " sqrt(" in text]
    assert roots
    for text in roots:
        assert " maximum(" not in text
        assert len(re.findall(r" pad\(", text)) <= 1  # pooling's gradient has 18
