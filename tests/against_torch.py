"""Operations of JAX beside the same of PyTorch, in float64."""

import jax
import numpy as np
import torch
from compare import relative_difference
from small import quick_jit


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def as_torch(x: np.ndarray) -> torch.Tensor:
    """Float64 of the same axes, which will take a gradient."""
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


def channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def value_and_gradients(operation, upstream: np.ndarray, *arrays: np.ndarray):
    """An operation's value, and its gradients where `upstream` is that of the value."""

    @quick_jit
    def both(upstream, *arrays):
        value, pull_back = jax.vjp(operation, *arrays)
        return value, pull_back(upstream)

    return both(upstream, *arrays)


def check_against(operation, oracle, *arrays: np.ndarray, within: float = 1e-5):
    """Compares values, and gradients for a random upstream gradient.

    Args:
        operation: of jax arrays.
        oracle: the same of torch tensors, in the same layout.
        arrays: what both are given.
        within: the relative difference allowed.

    Returns:
        The operation's value.
    """
    tensors = [as_torch(x) for x in arrays]
    expected = oracle(*tensors)
    upstream = normal(*expected.shape, seed=99)
    expected.backward(torch.tensor(upstream, dtype=torch.float64))

    value, gradients = value_and_gradients(operation, upstream, *arrays)

    assert relative_difference(value, expected.detach().numpy()) <= within
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert relative_difference(gradient, tensor.grad.numpy()) <= within
    return value
