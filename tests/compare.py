"""How far two results are apart, in the one sense that all tests use."""

import jax
import numpy as np


def relative_difference(actual, expected) -> float:
    """The largest |actual − expected| over the largest |expected|.

    Args:
        actual: an array or a tree of arrays; the worst array counts.
        expected: the same.
    """
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(_of_arrays(np.asarray(a), np.asarray(e)) for a, e in pairs)


def _of_arrays(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    largest = np.abs(expected).max()
    assert largest > 0, "nothing to compare with: all expected values are 0"
    # A NaN here makes every comparison with a bound false.
    return float(np.abs(actual - expected).max() / largest)
