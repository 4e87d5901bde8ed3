"""Every operation against its plain formula, written with torch or NumPy loops."""

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
from small import quick_jit
from torch.nn import functional

from alexnet_jax import device
from alexnet_jax.network import maps, ops
from alexnet_jax.network.convolutions import local_connection
from alexnet_jax.network.layers import Convolution, FullyConnected, convolution

# --- convolution ---------------------------------------------------------------------

# name: batch, side, channels, kernels, size, stride, padding, overhang, towers
GRIDS = {
    "conv1": (4, 224, 3, 6, 11, 4, 0, 3, 1),
    "conv1, odd batch": (3, 224, 3, 4, 11, 4, 0, 3, 1),
    "conv1 of 64 pixels": (7, 64, 3, 8, 11, 4, 0, 3, 1),
    "conv1 of 64 pixels, two towers": (1, 64, 4, 8, 11, 4, 0, 3, 2),
    "conv2": (3, 27, 8, 12, 5, 1, 2, 0, 2),
    "conv2 in one tower": (7, 27, 4, 6, 5, 1, 2, 0, 1),
    "conv3": (7, 13, 6, 10, 3, 1, 1, 0, 1),
    "conv4": (1, 13, 6, 10, 3, 1, 1, 0, 2),
    "stride 2 with one pixel over": (3, 56, 3, 8, 5, 2, 0, 1, 1),
    "stride 2 and padding, two towers": (7, 20, 4, 6, 5, 2, 1, 1, 2),
}


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("name", GRIDS)
def test_convolution_and_its_gradients_are_torchs(name):
    batch, side, channels, kernels, size, stride, padding, overhang, towers = GRIDS[
        name
    ]
    margin = (padding, padding + overhang)

    def oracle(x, kernel):
        padded = functional.pad(channels_first(x), (*margin, *margin))
        kernel = kernel.permute(3, 2, 0, 1)
        return channels_last(
            functional.conv2d(padded, kernel, stride=stride, groups=towers)
        )

    def operation(x, kernel):
        return convolution(x, kernel, stride=stride, padding=padding, towers=towers)

    x = normal(batch, side, side, channels, scale=70)
    kernel = normal(size, size, channels // towers, kernels, scale=0.1, seed=1)
    check_against(operation, oracle, x, kernel)


@pytest.mark.usefixtures("target")
def test_a_convolution_of_maps_that_are_no_squares_is_torchs():
    # 10 and 7 pixels, kernels of 4×3 at stride 2: one row overhangs, no column does.
    def oracle(x, kernel):
        padded = functional.pad(channels_first(x), (1, 1, 1, 1))
        kernel = kernel.permute(3, 2, 0, 1)
        return channels_last(functional.conv2d(padded, kernel, stride=2, groups=2))

    def operation(x, kernel):
        return convolution(x, kernel, stride=2, padding=1, towers=2)

    x, kernel = normal(3, 10, 7, 4), normal(4, 3, 2, 6, seed=1)
    value = check_against(operation, oracle, x, kernel)
    assert value.shape == (3, 5, 4, 6)


@pytest.mark.usefixtures("target")
def test_torchvisions_conv1_has_zeros_before_and_behind():
    # 224 pixels, padding 2 on both sides, and a grid of 55 that leaves the last one.
    def oracle(x, kernel):
        kernel = kernel.permute(3, 2, 0, 1)
        maps = functional.conv2d(channels_first(x), kernel, stride=4, padding=2)
        return channels_last(maps)

    def operation(x, kernel):
        return convolution(x, kernel, stride=4, padding=(2, 1), towers=1)

    x, kernel = normal(2, 224, 224, 3, scale=70), normal(11, 11, 3, 4, seed=1)
    assert check_against(operation, oracle, x, kernel).shape == (2, 55, 55, 4)


@pytest.mark.parametrize(
    ("side", "stride", "padding", "towers"),
    [(6, 1, 1, 1), (6, 1, 1, 2), (8, 2, 0, 1), (7, 2, (1, 0), 2)],
)
def test_a_local_connection_is_a_convolution_of_its_own_at_each_position(
    side, stride, padding, towers
):
    size, channels, kernels = 3, 4, 6
    before, behind = (padding, padding) if isinstance(padding, int) else padding
    behind += -(side + before + behind - size) % stride
    positions = 1 + (side + before + behind - size) // stride

    def oracle(x, kernel):
        x = functional.pad(channels_first(x), (before, behind, before, behind))
        kernel = kernel.reshape(positions, positions, size, size, -1, kernels)
        rows = []
        for i in range(positions):
            row = []
            for j in range(positions):
                top, left = i * stride, j * stride
                window = x[:, :, top : top + size, left : left + size]
                own = kernel[i, j].permute(3, 2, 0, 1)
                row.append(functional.conv2d(window, own, groups=towers)[:, :, 0, 0])
            rows.append(torch.stack(row, dim=1))
        return torch.stack(rows, dim=1)

    def operation(x, kernel):
        how = {"stride": stride, "padding": padding, "towers": towers}
        return local_connection(x, kernel, size=size, **how)

    x = normal(3, side, side, channels)
    inputs = size**2 * channels // towers
    kernel = normal(positions, positions, inputs, kernels, seed=1)
    value = check_against(operation, oracle, x, kernel)
    assert value.shape == (3, positions, positions, kernels)


@pytest.mark.usefixtures("target")
def test_last_pixel_reaches_the_last_position_of_conv1_and_no_other():
    # Position 54 starts at pixel 4·54 = 216, so pixel 223 meets row and column 7.
    x = np.zeros((1, 224, 224, 3), np.float32)
    x[0, 223, 223, 1] = 1
    kernel = normal(11, 11, 3, 4)
    maps = np.array(convolution(x, kernel, stride=4, towers=1))
    assert maps.shape == (1, 55, 55, 4)
    np.testing.assert_array_equal(maps[0, 54, 54], kernel[7, 7, 1])
    maps[0, 54, 54] = 0
    assert not maps.any()


@pytest.mark.usefixtures("target")
def test_a_tower_reads_no_maps_of_the_other():
    x, kernel = normal(1, 13, 13, 8), normal(3, 3, 4, 6)
    both = convolution(x, kernel, padding=1, towers=2)
    x[..., 4:] = 0
    first_alone = convolution(x, kernel, padding=1, towers=2)
    np.testing.assert_array_equal(first_alone[..., :3], both[..., :3])
    assert not np.array(first_alone[..., 3:]).any()


def test_convolutions_in_a_loop_have_the_axes_that_xla_is_fast_at():
    # All others are done by plain loops there, a hundred times slower.
    def gradients(x, kernel):
        def loss(x, kernel):
            return convolution(x, kernel, stride=2, padding=1, towers=2).sum()

        return jax.lax.map(lambda one: jax.grad(loss, (0, 1))(one, kernel), x)

    x, kernel = normal(3, 2, 9, 9, 4), normal(3, 3, 2, 6)
    text = device.jit(gradients).lower(x, kernel).compile().as_text()
    axes = re.findall(r" convolution\(.*dim_labels=(\S+?),", text)
    assert len(axes) == 4  # both gradients of both towers
    assert set(axes) == {"b01f_01io->b01f"}


# --- overlapping pooling -------------------------------------------------------------

# side of the maps: windows a side
POOLED = {55: 27, 27: 13, 13: 6, 6: 3, 32: 16}


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("side", POOLED)
def test_pooling_and_its_gradient_are_torchs_where_nothing_ties(side):
    # A random order of distinct numbers; all negative, so that a zero would win.
    x = np.random.default_rng(side).permutation(2 * side * side * 3)
    x = (x.reshape(2, side, side, 3) - x.size).astype(np.float32)

    def oracle(x):
        return channels_last(
            functional.max_pool2d(channels_first(x), 3, 2, ceil_mode=True)
        )

    value = check_against(maps.overlapping_pooling, oracle, x, within=1e-6)
    assert value.shape == (2, POOLED[side], POOLED[side], 3)
    np.testing.assert_array_equal(value, oracle(as_torch(x)).detach().numpy())


@pytest.mark.parametrize("sides", [(32, 32), (16, 16), (13, 13), (8, 7)])
def test_average_pooling_divides_by_the_pixels_that_are_there(sides):
    def oracle(x):
        pooled = functional.avg_pool2d(channels_first(x), 3, 2, ceil_mode=True)
        return channels_last(pooled)

    check_against(ops.average_pooling, oracle, normal(2, *sides, 3))
    ones = ops.average_pooling(np.ones((1, *sides, 1), np.float32))
    np.testing.assert_allclose(ones, 1.0, rtol=1e-6)


@pytest.mark.usefixtures("target")
def test_pooling_of_maps_that_are_no_squares_is_torchs():
    x = np.random.default_rng(4).permutation(2 * 12 * 7 * 3).reshape(2, 12, 7, 3)

    def oracle(x):
        return channels_last(
            functional.max_pool2d(channels_first(x), 3, 2, ceil_mode=True)
        )

    value = check_against(maps.overlapping_pooling, oracle, x.astype(np.float32))
    assert value.shape == (2, 6, 3, 3)


@pytest.mark.usefixtures("target")
@pytest.mark.parametrize("side", [13, 6])
@pytest.mark.parametrize(("images", "channels"), [(2, 2), (130, 2), (3, 128)])
def test_every_maximum_takes_the_full_gradient(side, images, channels):
    shape = (images, side, side, channels)
    x = np.random.default_rng(1).integers(0, 3, shape).astype(np.float32)
    windows = (images, POOLED[side], POOLED[side], channels)
    upstream = np.random.default_rng(2).integers(1, 9, windows).astype(np.float32)
    _, (gradient,) = value_and_gradients(maps.overlapping_pooling, upstream, x)

    expected = np.zeros_like(x)
    for window in np.ndindex(windows):
        image, y, c, channel = window
        here = (image, slice(2 * y, 2 * y + 3), slice(2 * c, 2 * c + 3), channel)
        expected[here] += (x[here] == x[here].max()) * upstream[window]
    np.testing.assert_array_equal(gradient, expected)
    assert expected.sum() > 2 * upstream.sum(), "the pictures hardly tie"


# --- dropout -------------------------------------------------------------------------

KEY = jax.random.key(11)


def dropped(x, rows, towers=(0, 1), *, rate=0.5, key=KEY) -> np.ndarray:
    drop = quick_jit(ops.dropout, static_argnames="rate")
    return np.array(drop(x, key, jnp.array(rows), rate=rate, towers=jnp.array(towers)))


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_dropout_drops_at_its_rate_and_rescales_nothing(rate):
    x = np.random.default_rng(3).uniform(1, 2, (64, 1024)).astype(np.float32)
    out = dropped(x, range(64), rate=rate)
    kept = out != 0
    np.testing.assert_array_equal(out[kept], x[kept])

    def near(mean, trials):
        deviation = (rate * (1 - rate) / trials) ** 0.5
        return np.abs(mean - (1 - rate)).max() < 5 * deviation

    assert near(kept.mean(), kept.size)
    assert near(kept.mean(axis=0), 64), "of each unit over the examples"
    assert near(kept.mean(axis=1), 1024), "of each example over the units"
    # Its average is the factor at test (docs/sources.md, 'Dropout').
    assert abs(out.mean() / ((1 - rate) * x.mean()) - 1) < 0.02


def test_dropout_mask_does_not_depend_on_who_computes_it():
    x = np.ones((8, 64), np.float32)
    whole = dropped(x, range(8))
    np.testing.assert_array_equal(dropped(x[4:], range(4, 8)), whole[4:])
    np.testing.assert_array_equal(dropped(x[:1], [6]), whole[6:7])
    for tower in (0, 1):
        units = slice(32 * tower, 32 * tower + 32)
        alone = dropped(x[2:5, units], range(2, 5), [tower])
        np.testing.assert_array_equal(alone, whole[2:5, units])


def test_dropout_of_maps_does_not_depend_on_who_computes_it():
    x = np.ones((5, 3, 2, 8), np.float32)  # torchvision's dropout before fc6
    whole = dropped(x, range(5))
    assert 0.4 < whole.mean() < 0.6
    for position in np.ndindex(3, 2):  # each position and map has its own
        assert whole[:, *position].std() > 0
    np.testing.assert_array_equal(dropped(x[3:], [3, 4]), whole[3:])
    for tower in (0, 1):
        maps = slice(4 * tower, 4 * tower + 4)
        alone = dropped(x[..., maps], range(5), [tower])
        np.testing.assert_array_equal(alone, whole[..., maps])
    # The masks of units, in the order of height, width and channel of a tower.
    units = dropped(np.ones((5, 48), np.float32), range(5)).reshape(5, 2, 3, 2, 4)
    np.testing.assert_array_equal(np.concatenate([*units.swapaxes(0, 1)], -1), whole)


def test_dropout_masks_of_rows_towers_and_keys_are_unrelated():
    x = np.ones((2, 8192), np.float32)
    first = dropped(x, [0, 1])
    other_key = dropped(x, [0, 1], key=jax.random.key(12))
    pairs = {
        "rows": (first[0], first[1]),
        "towers": (first[:, :4096], first[:, 4096:]),
        "keys": (first, other_key),
        "row 1 of tower 0, row 0 of tower 1": (first[1, :4096], first[0, 4096:]),
    }
    for name, (one, other) in pairs.items():
        assert 0.45 < (one == other).mean() < 0.55, name


def test_dropout_passes_the_gradient_where_it_passed_the_value():
    x = normal(4, 64)
    upstream = normal(4, 64, seed=1)

    def operation(x):
        return ops.dropout(x, KEY, jnp.arange(4), rate=0.5, towers=jnp.arange(2))

    value, (gradient,) = value_and_gradients(operation, upstream, x)
    np.testing.assert_array_equal(gradient, upstream * (np.array(value) != 0))


# --- precision -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["convolution", "local", "full"])
def test_gradients_of_weights_are_sums_in_float32(target, kind):
    # Neither of them depends on the weights. Everything else is a bfloat16.
    same = {"stddev": 0.1, "bias": 0.1, "groups": 2, "dtype": jnp.bfloat16}
    if kind == "full":
        layer = FullyConnected(units=6, result=jnp.bfloat16, **same)
    else:
        how = {"kernels": 6, "size": 3, "stride": 2, "padding": 1, **same}
        layer = Convolution(local=kind == "local", **how)
    x = np.array(jnp.asarray(normal(16, 9, 9, 4), jnp.bfloat16))
    params = quick_jit(layer.init)(jax.random.key(0), x)["params"]
    shape = jax.eval_shape(layer.apply, {"params": params}, x).shape
    upstream = np.array(jnp.asarray(normal(*shape, seed=1), jnp.bfloat16))
    wide = {"dtype": jnp.float32} | ({"result": jnp.float32} if kind == "full" else {})
    exact = layer.clone(**wide)

    def gradients(layer, dtype):
        def forward(params):
            return layer.apply({"params": params}, jnp.asarray(x, dtype))

        (found,) = jax.vjp(forward, params)[1](jnp.asarray(upstream, dtype))
        return found

    own = quick_jit(lambda: gradients(layer, jnp.bfloat16))()
    expected = quick_jit(lambda: gradients(exact, jnp.float32))()
    assert {leaf.dtype for leaf in jax.tree.leaves(own)} == {jnp.dtype("float32")}
    # cuDNN writes the sums of a convolution's kernel in the dtype of the maps.
    rounded = target == "cuda" and kind == "convolution"
    within = 2**-8 if rounded else 1e-5
    assert relative_difference(own, expected) <= within
    if not rounded:
        kernel = own["kernel"][own["kernel"] != 0]  # zeros: that see the padding alone
        assert (kernel != kernel.astype(jnp.bfloat16)).mean() > 0.9
