"""Forms of the operations for TPUs, as kernels of Mosaic's.

XLA lays maps out there with rows and columns outside: a tile holds maps and images, in
the order that fills it. The kernels take maps in that layout, so none is copied.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

LANES = 128  # of a tile; images of a program


def response_normalisation(
    *arrays: jax.Array, depth: int, k: float, alpha: float, beta: float, towers: int
) -> jax.Array:
    """Response normalisation of bfloat16 maps; a kernel normalises a row of them.

    Args:
        arrays: x; or x and an upstream gradient, for the gradient with respect to x.
        depth: as for `maps.response_normalisation`, as are the others.
        k: see there.
        alpha: see there.
        beta: see there.
        towers: see there.
    """
    from jax.experimental import pallas as pl

    channels = arrays[0].shape[-1]
    maps_last = channels % LANES == 0
    laid_out = [_to_tiles(a, maps_last) for a in arrays]
    batch, height, width, _ = arrays[0].shape
    images = min(batch, LANES)
    block = (1, width, images, channels) if maps_last else (1, width, channels, images)
    place = (lambda y, n: (y, 0, n, 0)) if maps_last else (lambda y, n: (y, 0, 0, n))
    spec = pl.BlockSpec(block, place)
    how = {"depth": depth, "k": k, "alpha": alpha, "beta": beta}
    result = pl.pallas_call(
        partial(_normalise, maps=channels // towers, maps_last=maps_last, **how),
        out_shape=jax.eval_shape(lambda a: a, laid_out[0]),
        grid=(height, pl.cdiv(batch, images)),
        in_specs=[spec] * len(arrays),
        out_specs=spec,
        name="response_normalisation",
    )(*laid_out)
    return _from_tiles(result, maps_last)


def _to_tiles(x: jax.Array, maps_last: bool) -> jax.Array:
    """(B, H, W, C) → (H, W, B, C) or (H, W, C, B)."""
    return x.transpose(1, 2, 0, 3) if maps_last else x.transpose(1, 2, 3, 0)


def _from_tiles(x: jax.Array, maps_last: bool) -> jax.Array:
    return x.transpose(2, 0, 1, 3) if maps_last else x.transpose(3, 0, 1, 2)


def _normalise(*refs, maps, maps_last, depth, k, alpha, beta):
    """A row of some images; their gradient where an upstream one is given."""
    *inputs, output = refs
    channels = output.shape[-1 if maps_last else -2]
    one, other = (
        lax.broadcasted_iota(jnp.int32, (channels, channels), axis) for axis in (0, 1)
    )
    own_tower = lax.div(one, maps) == lax.div(other, maps)
    near = (abs(one - other) <= depth // 2) & own_tower
    band = near.astype(jnp.bfloat16)

    def adjacent_maps(x):
        # A float32 is the sum of two bfloat16s but for its last 8 bits.
        high = x.astype(jnp.bfloat16)
        low = (x - high.astype(jnp.float32)).astype(jnp.bfloat16)
        pairs = [(part, band) if maps_last else (band, part) for part in (high, low)]
        first, second = (
            jnp.dot(*pair, preferred_element_type=jnp.float32) for pair in pairs
        )
        return first + second

    def at(column, _):
        x, *upstream = (ref[0, column].astype(jnp.float32) for ref in inputs)
        denominator = k + alpha * adjacent_maps(x * x)
        if beta == 0.75:
            root = lax.rsqrt(denominator)
            power = root * jnp.sqrt(root)
        else:
            power = denominator**-beta
        result = x * power
        if upstream:
            scaled = upstream[0] * power
            neighbours = adjacent_maps(scaled * x / denominator)
            result = scaled - 2 * alpha * beta * x * neighbours
        output[0, column] = result.astype(output.dtype)

    lax.fori_loop(0, output.shape[1], at, None)


def pooling_gradient(x: jax.Array, maxima: jax.Array, gradient: jax.Array) -> jax.Array:
    """`ops.pooling_gradient` of windows of 3 at stride 2; a kernel makes two rows.

    Two windows look at an even row or column, one at an odd one.
    """
    from jax.experimental import pallas as pl

    batch, height, width, channels = x.shape
    maps_last = channels % LANES == 0
    laid_out = [
        _to_tiles(a, maps_last) for a in (x, maxima, maxima, gradient, gradient)
    ]
    windows = maxima.shape[1]
    images = min(batch, LANES)
    maps = next((n for n in (LANES, 32, 16) if channels % n == 0), channels)
    tile = (images, maps) if maps_last else (maps, images)

    def spec(rows, columns, row):
        def place(y, n, c):
            return (row(y), 0, n, c) if maps_last else (row(y), 0, c, n)

        return pl.BlockSpec((rows, columns, *tile), place)

    pair = spec(2, width, lambda y: y)
    above = spec(1, maxima.shape[2], lambda y: jnp.maximum(y - 1, 0))
    here = spec(1, maxima.shape[2], lambda y: jnp.minimum(y, windows - 1))
    result = pl.pallas_call(
        partial(_spread, windows=windows),
        out_shape=jax.eval_shape(lambda a: a, laid_out[0]),
        grid=(pl.cdiv(height, 2), pl.cdiv(batch, images), pl.cdiv(channels, maps)),
        in_specs=[pair, above, here, above, here],
        out_specs=pair,
        name="pooling_gradient",
    )(*laid_out)
    return _from_tiles(result, maps_last)


def _spread(x, top_above, top_here, share_above, share_here, output, *, windows):
    """Two rows of pixels, from the windows above the first and at both."""
    from jax.experimental import pallas as pl

    row = pl.program_id(0)
    exist = {"above": row > 0, "here": row < windows}
    tops = {"above": top_above, "here": top_here}
    shares = {"above": share_above, "here": share_here}
    columns = top_here.shape[1]
    width = x.shape[1]

    def window(place, column):
        """The maximum and the gradient of one; infinity where there is none."""
        exists = exist[place] & (column >= 0) & (column < columns)
        column = jnp.clip(column, 0, columns - 1)
        top = tops[place][0, column].astype(jnp.float32)
        share = shares[place][0, column].astype(jnp.float32)
        return jnp.where(exists, top, jnp.inf), share

    def pixel(y, column, over):
        value = x[y, column].astype(jnp.float32)
        parts = [jnp.where(value == top, share, 0) for top, share in over]
        output[y, column] = sum(parts[1:], parts[0]).astype(output.dtype)

    def pixels(column, odd):
        left, right = (
            [window(place, at) for place in ("above", "here")]
            for at in (column - 1, column)
        )
        pixel(0, 2 * column, [left[0], right[0], left[1], right[1]])
        pixel(1, 2 * column, [left[1], right[1]])
        if odd:
            pixel(0, 2 * column + 1, right)
            pixel(1, 2 * column + 1, [right[1]])

    lax.fori_loop(0, width // 2, lambda column, _: pixels(column, odd=True), None)
    if width % 2:
        pixels(width // 2, odd=False)
