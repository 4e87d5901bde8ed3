"""Kernels are read as XLA's compilers write them: bytes, copies, their own time."""

import pytest

from alexnet_jax.benchmark.instructions import Instructions, arrays
from alexnet_jax.benchmark.kernels import part_of, read_kernels, table, totals
from alexnet_jax.benchmark.targets import CHIPS

FORWARD = "jit(train_step)/jvp()/shard_map/AlexNet"
BACKWARD = "jit(train_step)/transpose(jvp())/shard_map/AlexNet"


def test_the_minor_axes_of_an_array_fill_tiles_and_memories_differ():
    (map_, scalar, other) = arrays(
        "(bf16[128,55,55,48]{3,0,2,1:T(8,128)(2,1)S(1)}, /*index=5*/u32[]{:S(2)}, "
        "f32[3,100]{0,1:T(4,128)})"
    )
    assert map_ == (
        "bf16",
        (128, 55, 55, 48),
        *_sizes(2, 128 * 55 * 55, 48, 128),
        False,
    )
    assert (scalar.dtype, scalar.shape, scalar.bytes) == ("u32", (), 4)
    # The first axis is the minor one here: 3 fill 128, 100 fill 4.
    assert other == ("f32", (3, 100), 4 * 3 * 100, 4 * 128 * 100, True)
    (plain,) = arrays("pred[16]{0}")
    assert plain == ("pred", (16,), 16, 16, True)


def _sizes(item: int, rows: int, columns: int, stored: int) -> tuple[int, int]:
    return item * rows * columns, item * rows * stored


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        (f"{FORWARD}/AlexNet.layer/conv1/conv_general_dilated", ("conv1", "forward")),
        (f"{BACKWARD}/AlexNet.layer/fc6/dot_general", ("fc6", "backward")),
        (f"{FORWARD}/AlexNet.normalise/mul", ("normalisation", "forward")),
        (f"{BACKWARD}/AlexNet/pooling/add", ("pooling", "backward")),
        (
            f"{BACKWARD}/AlexNet/spatial_normalisation/add",
            ("spatial normalisation", "backward"),
        ),
        (f"{BACKWARD}/AlexNet/select_n", ("units", "backward")),
        (f"{FORWARD}/AlexNet.drop/jit(_where)/select_n", ("dropout", "forward")),
        (
            f"{FORWARD}/AlexNet.layer/fc8/AlexNet.add_towers/exchange_fc8/psum",
            ("exchange fc8", "forward"),
        ),
        (r"state.params[\'conv3\'][\'kernel\']", ("conv3", "forward")),
        (f"{FORWARD}/convert_element_type", ("pixels, loss", "forward")),
        ("jit(train_step)/jvp(jit(log_softmax))/sub", ("pixels, loss", "forward")),
        ("jit(train_step)/jit(_where)/select_n", ("update", "")),
    ],
)
def test_a_name_of_jaxs_belongs_to_a_part_of_the_step(op_name, part):
    assert part_of(op_name) == part


GPU = f"""
%sums (p0: bf16[64,100]) -> bf16[64,100] {{
  %p0 = bf16[64,100]{{1,0}} parameter(0)
  ROOT %mul = bf16[64,100]{{1,0}} multiply(%p0, %p0)
}}

%product (p1: bf16[64,100], p2: bf16[100,1000]) -> bf16[64,1000] {{
  %p1 = bf16[64,100]{{1,0}} parameter(0)
  %p2 = bf16[100,1000]{{1,0}} parameter(1)
  ROOT %dot = bf16[64,1000]{{1,0}} dot(%p1, %p2), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%exact (p3: f32[4096,48], p4: f32[48,48]) -> f32[4096,48] {{
  %p3 = f32[4096,48]{{1,0}} parameter(0)
  %p4 = f32[48,48]{{1,0}} parameter(1)
  ROOT %dot.1 = f32[4096,48]{{1,0}} dot(%p3, %p4), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}, operand_precision={{highest,highest}}
}}

%part (p5: f32[4096,48]) -> f32[16,48] {{
  %p5 = f32[4096,48]{{1,0}} parameter(0)
  %slice = f32[16,48]{{1,0}} slice(%p5), slice={{[0:16], [0:48]}}
  ROOT %copied = f32[16,48]{{1,0}} copy(%slice)
}}

ENTRY %main (x: bf16[64,100], w: bf16[100,1000]) -> f32[16,48] {{
  %x = bf16[64,100]{{1,0}} parameter(0)
  %w = bf16[100,1000]{{1,0}} parameter(1), metadata={{op_name="state.params[\\'fc6\\'][\\'kernel\\']"}}
  %maps = bf16[512,13,13,256]{{3,2,1,0}} parameter(2)
  %kernel = bf16[384,3,3,256]{{3,2,1,0}} parameter(3)
  %loop = bf16[64,100]{{1,0}} fusion(%x), kind=kLoop, calls=%sums, metadata={{op_name="{FORWARD}/AlexNet/max"}}, backend_config={{"reification_cost":[{{"exec_time_us":3.5,"memory_access_time_us":1,"name":""}},{{"exec_time_us":9,"name":"sol"}}]}}
  %gemm = bf16[64,1000]{{1,0}} fusion(%loop, %w), kind=kCustom, calls=%product, metadata={{op_name="{FORWARD}/AlexNet.layer/fc6/dot_general"}}, backend_config={{"reification_cost":[{{"exec_time_us":1156,"name":""}}]}}
  %conv = (bf16[512,13,13,384]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%maps, %kernel), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={{op_name="{FORWARD}/AlexNet.layer/conv3/conv_general_dilated"}}
  %out = bf16[512,13,13,384]{{3,2,1,0}} get-tuple-element(%conv), index=0
  %filter = (bf16[384,3,3,256]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%maps, %out), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", metadata={{op_name="{BACKWARD}/AlexNet.layer/conv3/conv_general_dilated"}}
  %input = (bf16[512,13,13,256]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%out, %kernel), window={{size=3x3 pad=1_1x1_1}}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput", metadata={{op_name="{BACKWARD}/AlexNet.layer/conv3/conv_general_dilated"}}
  %squares = f32[4096,48]{{1,0}} parameter(4)
  %band = f32[48,48]{{1,0}} constant({{...}})
  %sum = f32[4096,48]{{1,0}} fusion(%squares, %band), kind=kCustom, calls=%exact, metadata={{op_name="{FORWARD}/AlexNet.normalise/dot_general"}}
  ROOT %few = f32[16,48]{{1,0}} fusion(%sum), kind=kLoop, calls=%part
}}
"""  # noqa: E501


def test_a_gpus_kernels():
    h200 = CHIPS["h200"]
    loop, gemm, *convs, exact, few = read_kernels(Instructions(GPU), h200)
    x, w, y = 64 * 100, 100 * 1000, 64 * 1000
    # The compiler's own figure, and not that of light.
    assert (loop.part, loop.bytes, loop.moves) == ("units", 2 * 2 * x, "")
    assert (loop.seconds, loop.is_assumed) == (pytest.approx(3.5e-6), False)
    # Of a product it has none to believe: memory at 85 % here.
    assert (gemm.part, gemm.bytes) == ("fc6", 2 * (x + w + y))
    assert gemm.seconds == pytest.approx(gemm.bytes / 4.8e12 / 0.85)
    assert gemm.is_assumed
    # All three have the FLOP of the convolution, at 55 %.
    flop = 2 * 512 * 13 * 13 * 384 * 3 * 3 * 256
    assert [c.part for c in convs] == ["conv3"] * 3
    assert [c.direction for c in convs] == ["forward", "backward", "backward"]
    for conv in convs:
        assert conv.seconds == pytest.approx(flop / 989e12 / 0.55)
    # In float32 without tensor cores: 132 cores of 128 lanes at 1.98 GHz.
    units = 132 * 128 * 2 * 1.98e9
    assert exact.seconds == pytest.approx(2 * 4096 * 48 * 48 / units / 0.55)
    # Of what is sliced the slice is read; a fusion without a name has its producer's.
    assert (few.bytes, few.moves) == (2 * 4 * 16 * 48, "copy")
    assert few.part == "normalisation"


TPU = f"""
%pads (p0: bf16[8,128]) -> bf16[16,128] {{
  %p0 = bf16[8,128]{{1,0:T(8,128)}} parameter(0)
  %zero = bf16[] constant(0)
  ROOT %padded = bf16[16,128]{{1,0:T(8,128)}} pad(%p0, %zero), padding=0_8x0_0
}}

%changes (p1: f32[1024,128], p2: f32[1,128], p3: s32[]) -> f32[1024,128] {{
  %p1 = f32[1024,128]{{1,0:T(8,128)}} parameter(0)
  %p2 = f32[1,128]{{1,0:T(1,128)}} parameter(1)
  %p3 = s32[] parameter(2)
  ROOT %change = f32[1024,128]{{1,0:T(8,128)}} dynamic-update-slice(%p1, %p2, %p3, %p3)
}}

%condition (c: (s32[], f32[1024,128])) -> pred[] {{
  %bound = s32[]{{:T(128)}} constant(100)
  %c = (s32[]{{:T(128)}}, f32[1024,128]{{1,0}}) parameter(0)
  %i = s32[]{{:T(128)}} get-tuple-element(%c), index=0
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}}

%body (b: (s32[], f32[1024,128])) -> (s32[], f32[1024,128]) {{
  %b = (s32[]{{:T(128)}}, f32[1024,128]{{1,0:T(8,128)}}) parameter(0)
  %j = s32[]{{:T(128)}} get-tuple-element(%b), index=0
  %all = f32[1024,128]{{1,0:T(8,128)}} get-tuple-element(%b), index=1
  %row = f32[1,128]{{1,0:T(1,128)}} constant({{...}})
  %changed = f32[1024,128]{{1,0:T(8,128)}} fusion(%all, %row, %j), kind=kLoop, calls=%changes, backend_config={{"estimated_cycles":"1500"}}
  %one = s32[]{{:T(128)}} constant(1)
  %next = s32[]{{:T(128)}} add(%j, %one)
  ROOT %t = (s32[]{{:T(128)}}, f32[1024,128]{{1,0:T(8,128)}}) tuple(%next, %changed)
}}

ENTRY %main (x: bf16[8,128]) -> bf16[16,128] {{
  %x = bf16[8,128]{{1,0:T(8,128)}} parameter(0)
  %init = (s32[]{{:T(128)}}, f32[1024,128]{{1,0:T(8,128)}}) parameter(1)
  %loop = (s32[]{{:T(128)}}, f32[1024,128]{{1,0:T(8,128)}}) while(%init), condition=%condition, body=%body, metadata={{op_name="jit(train_step)/jvp(vmap())/gather"}}
  %fetch = (bf16[8,128]{{1,0:T(8,128)S(1)}}, bf16[8,128]{{1,0:T(8,128)}}, u32[]{{:S(2)}}) copy-start(%x)
  %fetched = bf16[8,128]{{1,0:T(8,128)S(1)}} copy-done(%fetch)
  %space = f32[512,128]{{1,0}} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %wide = bf16[16,128]{{1,0:T(8,128)}} fusion(%fetched), kind=kLoop, calls=%pads, metadata={{op_name="{BACKWARD}/AlexNet/pad"}}
}}
"""  # noqa: E501


def test_a_tpus_kernels():
    looped, fetch, wide = read_kernels(Instructions(TPU), CHIPS["tpu-v5e"])
    # A loop's rounds are the number that its condition compares with; an array that is
    # changed in place counts with its change; the loop has the name.
    assert (looped.part, looped.times, looped.moves) == ("pixels, loss", 100, "copy")
    assert looped.bytes == 100 * (2 * 4 * 128 + 4)  # and the position
    assert (looped.seconds, looped.is_assumed) == (pytest.approx(100e-6), False)
    # From memory to the chip's own, which is not counted.
    assert (fetch.bytes, fetch.moves) == (2 * 8 * 128, "")
    assert (wide.bytes, wide.moves) == (2 * 16 * 128, "pad")
    assert (wide.part, wide.direction) == ("units", "backward")
    assert wide.is_assumed


def test_sums_and_their_table():
    kernels = read_kernels(Instructions(TPU), CHIPS["tpu-v5e"])
    sums = totals(kernels, CHIPS["tpu-v5e"], flop=197e9)
    assert sums["roofline_milliseconds"] == {
        "flop": pytest.approx(1),
        "bytes": pytest.approx(sums["bytes"] / 820e9 * 1e3),
    }
    assert sums["kernels"] == 102
    assert sums["bytes"] == sum(k.bytes for k in kernels)
    assert sums["milliseconds"] - sums["assumed_milliseconds"] == pytest.approx(0.1)
    assert (sums["pads"]["kernels"], sums["pads"]["bytes"]) == (1, 2 * 16 * 128)
    assert sums["copies"]["kernels"] == 100
    for measure in ("kernels", "bytes", "milliseconds"):
        rows = [row[measure] for row in sums["layers"]]
        assert sum(rows) == pytest.approx(sums[measure])
    head, longest, *_ = table(sums).splitlines()
    assert head.split() == ["kernels", "GB", "ms"]
    assert longest.split()[:4] == ["pixels,", "loss", "forward", "100"]
