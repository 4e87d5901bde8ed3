"""Collectives are read from compiled programs as they were written."""

import jax
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from small import quick_jit

from alexnet_jax.benchmark.instructions import Instructions
from alexnet_jax.benchmark.program_text import (
    Collective,
    device_groups,
    groups_of,
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


@pytest.mark.parametrize(
    "more", [", dimensions={0}", ', metadata={op_name="a[b]"}', ""]
)
@pytest.mark.parametrize("text", ["{{0,2},{1,3}}", "[2,2]<=[2,2]T(1,0)"])
def test_an_instruction_says_which_devices_exchange(text, more):
    line = f"f32[4] all-gather(f32[2] %x), channel_id=1, replica_groups={text}{more}"
    assert groups_of(line, 4).tolist() == [[0, 2], [1, 3]]


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
    """A program of eight devices that does nothing else, and its mesh's shape."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    program = jax.shard_map(
        exchange,
        mesh=mesh,
        in_specs=P(("a", "b")),
        out_specs=P(("a", "b")),
        check_vma=False,
    )
    pixels = jax.ShapeDtypeStruct((64, 1024), "float32")
    text = quick_jit(program).lower(pixels).compile().as_text()
    return Instructions(text), mesh.shape


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_is_found_with_its_axis_and_bytes(name):
    exchange, axes, received = COLLECTIVES[name]
    (found,) = read_program(*compiled(exchange))
    assert found == Collective(
        *(name.split(" over")[0], axes, "forward", "gradients", 1, received),
        *("f32", 0),
    )


def test_a_collective_in_a_loop_counts_once_an_iteration():
    def three_times(x):
        body = lambda total, _: (lax.psum(total, "a") / 2, None)  # noqa: E731
        return lax.scan(body, x, None, length=3)[0]

    (found,) = read_program(*compiled(three_times))
    assert (found.times, found.bytes) == (3, 3 * 32768)


def test_a_collective_is_named_after_its_line_of_the_network():
    def loss(x):
        with jax.named_scope("exchange_conv3"):
            both = lax.all_gather(x, "b", axis=1, tiled=True)
        return (both**2).sum()

    forward, backward = read_program(*compiled(jax.grad(loss)))
    assert (forward.kind, forward.direction) == ("all-gather", "forward")
    assert (backward.kind, backward.direction) == ("reduce-scatter", "backward")
    assert forward.carries == backward.carries == "conv3"
    assert forward.bytes == backward.bytes == 3 * 32768


def read(text: str, **mesh_shape: int) -> list[Collective]:
    return list(read_program(Instructions(text), mesh_shape))


def test_a_group_of_one_device_is_left_out():
    line = "  r = f32[4]{0} all-reduce(x), replica_groups={{0},{1}}, to_apply=sum"
    assert read(line, a=2) == []


def test_groups_along_no_axis_are_an_error():
    line = "  r = f32[4]{0} all-reduce(x), replica_groups={{0,3},{1,2}}, to_apply=sum"
    with pytest.raises(ValueError, match="along no axes"):
        read(line, a=2, b=2)
    with pytest.raises(ValueError, match="unknown devices"):
        read("  r = f32[4]{0} all-reduce(x), to_apply=sum", a=2)


# As XLA's compilers for GPUs and TPUs write them, cut down to what is read.
GROUPS = "channel_id=1, replica_groups={{0,1},{2,3}}, use_global_device_ids=true"
FORWARD = "jit(train_step)/jvp()/shard_map/AlexNet"
BACKWARD = "jit(train_step)/transpose(jvp())/shard_map/AlexNet"
FUSED = """
%f (p0: f32[]) -> f32[] {
  ROOT %p0 = f32[] parameter(0)
}
"""
GPU = f"""{FUSED}
ENTRY %main (p: bf16[512,2048]) -> bf16[512,2048] {{
  %p = bf16[512,2048]{{1,0}} parameter(0)
  %start = (bf16[512,2048]{{0,1}}, bf16[512,4096]{{0,1}}) all-gather-start(%p), {GROUPS}, dimensions={{1}}, metadata={{op_name="{FORWARD}/exchange_fc7/all_gather"}}
  %other = bf16[512,2048]{{1,0}} fusion(%p), kind=kLoop, calls=%f, metadata={{op_name="{FORWARD}/mul"}}
  %done = bf16[512,4096]{{0,1}} all-gather-done(%start)
  %scatter = ((bf16[512,4096]{{0,1}}), bf16[512,2048]{{0,1}}) reduce-scatter-start(%done), {GROUPS}, dimensions={{1}}, to_apply=%sum, metadata={{op_name="{BACKWARD}/exchange_fc7/reduce_scatter"}}
  %scattered = bf16[512,2048]{{0,1}} reduce-scatter-done(%scatter)
  %product = f32[3220140]{{0}} fusion(%scattered), kind=kLoop, calls=%f, metadata={{op_name="{BACKWARD}/AlexNet.layer/conv1/transpose"}}
  %sum.1 = f32[3220140]{{0}} all-reduce-start(%product), replica_groups=mesh['a'=2,'b'=2] {{'a'}}, to_apply=%sum, metadata={{scheduling_name="sum.1"}}
  %sums = f32[3220140]{{0}} all-reduce-done(%sum.1)
  ROOT %update = bf16[512,2048]{{1,0}} fusion(%sums), kind=kLoop, calls=%f, metadata={{op_name="jit(train_step)/add"}}
}}
"""  # noqa: E501


def test_a_gpus_exchanges_are_read_from_their_starts():
    maps = 2 * 512 * 2048
    assert read(GPU, data=2, tower=2) == [
        Collective("all-gather", "tower", "forward", "fc7", 1, maps, "bf16", 1),
        # A start lists its operand too, which is not received.
        Collective("reduce-scatter", "tower", "backward", "fc7", 1, maps, "bf16", 0),
        # XLA combines gradients, and its sum has no name.
        Collective(
            *("all-reduce", "data", "backward", "gradients", 1, 4 * 3220140, "f32", 0)
        ),
    ]


TPU = f"""{FUSED}
%start.1 (p0: bf16[128,6]) -> (bf16[128,6], bf16[256,6]) {{
  %p0 = bf16[128,6]{{1,0}} parameter(0)
  %all-gather.1 = bf16[256,6]{{1,0}} all-gather(%p0), {GROUPS}, dimensions={{0}}, metadata={{op_name="{FORWARD}/exchange_fc6/all_gather"}}
  ROOT %call = (bf16[128,6]{{1,0}}, bf16[256,6]{{1,0}}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion.1 (p1: bf16[128,6]) -> bf16[256,6] {{
  %p1 = bf16[128,6]{{1,0}} parameter(0)
  ROOT %all-gather.2 = bf16[256,6]{{1,0}} all-gather(%p1), {GROUPS}, dimensions={{0}}, metadata={{op_name="{FORWARD}/exchange_fc6/all_gather"}}
}}

%done.1 (p2: bf16[256,6]) -> bf16[256,6] {{
  %p2 = bf16[256,6]{{1,0}} parameter(0)
  %all-gather.3 = bf16[256,6]{{1,0}} all-gather(%p2), {GROUPS}, dimensions={{0}}, metadata={{op_name="{FORWARD}/exchange_fc6/all_gather"}}
  ROOT %call.1 = bf16[256,6]{{1,0}} custom-call(%p2, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}}

%all-reduce-scatter (p3: f32[256,6]) -> f32[128,6] {{
  %p3 = f32[256,6]{{1,0}} parameter(0)
  %whole = f32[256,6]{{1,0}} all-reduce(%p3), {GROUPS}, to_apply=%sum, metadata={{op_name="{BACKWARD}/exchange_fc6/reduce_scatter"}}
  ROOT %own = f32[128,6]{{1,0}} dynamic-slice(%whole, %zero), dynamic_slice_sizes={{128,6}}
}}

ENTRY %main (p: bf16[128,6]) -> f32[] {{
  %p = bf16[128,6]{{1,0:T(8,128)(2,1)}} parameter(0)
  %async-collective-start = (bf16[128,6]{{1,0:T(8,128)(2,1)S(1)}}, bf16[256,6]{{1,0}}, u32[]{{:S(2)}}) fusion(%p), kind=kCustom, calls=%start.1
  %gte = bf16[256,6]{{1,0}} get-tuple-element(%async-collective-start), index=1
  %fusion.1 = bf16[256,6]{{1,0}} fusion(%gte), kind=kOutput, calls=%async_collective_fusion.1
  %async-collective-done = bf16[256,6]{{1,0}} fusion(%fusion.1), kind=kCustom, calls=%done.1
  %dot = f32[256,6]{{1,0}} fusion(%async-collective-done), kind=kOutput, calls=%f, metadata={{op_name="{BACKWARD}/AlexNet.layer/fc6/dot_general"}}
  %fused = f32[128,6]{{1,0}} fusion(%dot), kind=kCustom, calls=%all-reduce-scatter
  %map = bf16[128,6]{{1,0}} fusion(%fused), kind=kOutput, calls=%f, metadata={{op_name="{BACKWARD}/AlexNet.layer/conv3/transpose"}}
  %all-reduce.7 = bf16[128,6]{{1,0:T(8,128)(2,1)S(1)}} all-reduce(%map), {GROUPS}, to_apply=%sum.clone
  %slice = bf16[128,3]{{1,0}} fusion(%all-reduce.7), kind=kLoop, calls=%f
  ROOT %pads = bf16[128,3]{{1,0}} pad(%slice, %zero), padding=0_1_1, metadata={{op_name="{BACKWARD}/pad"}}
}}
"""  # noqa: E501


def test_a_tpus_exchanges_are_read_within_fusions_and_without_names():
    assert read(TPU, data=2, tower=2) == [
        # One exchange in three fusions, which computes in the second.
        Collective("all-gather", "tower", "forward", "fc6", 1, 2 * 128 * 6, "bf16", 1),
        Collective(
            *("reduce-scatter", "tower", "backward", "fc6", 1, 4 * 128 * 6, "f32", 0)
        ),
        # A reduce-scatter that XLA made an all-reduce lost its name.
        Collective(
            *("all-reduce", "tower", "backward", "conv3", 1, 2 * 128 * 6, "bf16", 0)
        ),
    ]
