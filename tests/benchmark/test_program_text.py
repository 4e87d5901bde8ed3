"""Collectives are read from compiled programs as they were written."""

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from small import quick_jit

from alexnet_jax.benchmark.program_text import (
    Collective,
    device_groups,
    read_collectives,
    read_program,
)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("{}", [[0, 1, 2, 3]]),
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{{0},{1}}", [[0], [1]]),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", [[0, 2], [1, 3]]),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_1'}", [[0, 1], [2, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", [[0, 2], [1, 3]]),
        ("mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [[0, 2], [1, 3]]),
        ("[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ],
)
def test_groups_of_devices_are_read(text, groups):
    assert device_groups(text, 4).tolist() == groups


# Of float32 (8, 1024) on each of 2 × 4 devices, that is 32,768 bytes.
COLLECTIVES = {
    "all-gather": (lambda x: lax.all_gather(x, "b", tiled=True), "b", 3 * 32768),
    "reduce-scatter": (
        lambda x: lax.psum_scatter(x, "b", tiled=True),
        "b",
        3 * 32768 // 4,
    ),
    "all-reduce": (lambda x: lax.psum(x, "a"), "a", 32768),
    "all-to-all": (
        lambda x: lax.all_to_all(x, "b", 0, 1, tiled=True),
        "b",
        3 * 32768 // 4,
    ),
    "all-reduce over both": (lambda x: lax.psum(x, ("a", "b")), "a+b", 2 * 28672),
}


def compiled(exchange):
    """A program of eight devices that does nothing else, and its mesh."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    program = jax.shard_map(
        exchange,
        mesh=mesh,
        in_specs=P(("a", "b")),
        out_specs=P(("a", "b")),
        check_vma=False,
    )
    pixels = jax.ShapeDtypeStruct((64, 1024), "float32")
    return quick_jit(program).lower(pixels).compile(), mesh


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_is_found_with_its_axis_and_bytes(name):
    exchange, axes, received = COLLECTIVES[name]
    (found,) = read_collectives(*compiled(exchange))
    assert found == Collective(
        name.split(" over")[0], axes, "forward", "gradients", 1, received
    )


def test_a_collective_in_a_loop_counts_once_an_iteration():
    def three_times(x):
        body = lambda total, _: (lax.psum(total, "a") / 2, None)  # noqa: E731
        return lax.scan(body, x, None, length=3)[0]

    (found,) = read_collectives(*compiled(three_times))
    assert (found.times, found.bytes) == (3, 3 * 32768)


def test_a_collective_is_named_after_its_line_of_the_network():
    def loss(x):
        with jax.named_scope("exchange_conv3"):
            both = lax.all_gather(x, "b", axis=1, tiled=True)
        return (both**2).sum()

    forward, backward = read_collectives(*compiled(jax.grad(loss)))
    assert (forward.kind, forward.direction) == ("all-gather", "forward")
    assert (backward.kind, backward.direction) == ("reduce-scatter", "backward")
    assert forward.carries == backward.carries == "conv3"
    assert forward.bytes == backward.bytes == 3 * 32768


def test_a_group_of_one_device_is_left_out():
    line = "  r = f32[4]{0} all-reduce(x), replica_groups={{0},{1}}, to_apply=sum"
    assert list(read_program(line, {"a": 2})) == []


def test_groups_along_no_axis_are_an_error():
    line = "  r = f32[4]{0} all-reduce(x), replica_groups={{0,3},{1,2}}, to_apply=sum"
    with pytest.raises(ValueError, match="along no axes"):
        list(read_program(line, {"a": 2, "b": 2}))
    with pytest.raises(ValueError, match="unknown devices"):
        list(read_program("  r = f32[4]{0} all-reduce(x), to_apply=sum", {"a": 2}))
