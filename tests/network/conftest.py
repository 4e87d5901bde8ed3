from functools import partial

import pytest
from jax.experimental import pallas

from alexnet_jax import device


@pytest.fixture(params=["cpu", "cuda", "tpu"])
def target(request, monkeypatch):
    """Computes on this CPU in the forms for each target, their kernels interpreted."""

    def form(*arrays, default, **forms):
        return forms.get(request.param, default)(*arrays)

    interpreted = partial(pallas.pallas_call, interpret=True)
    monkeypatch.setattr(pallas, "pallas_call", interpreted)
    monkeypatch.setattr(device, "by_target", form)
    return request.param
