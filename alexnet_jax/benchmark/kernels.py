"""The kernels of a compiled step: bytes, copies, and the compiler's own time.

A kernel is an instruction that computes or moves something: a fusion, a library's
convolution, a copy. Between two of them everything passes through memory.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from alexnet_jax.benchmark.instructions import (
    FREE,
    Array,
    Instruction,
    Instructions,
)
from alexnet_jax.benchmark.program_text import exchange_of, origin
from alexnet_jax.benchmark.targets import Chip

# Where the compiler has no figure of its own: the shares of a chip's peak that products
# in its libraries, and passes over memory, are assumed to reach.
SHARE_OF_FLOPS, SHARE_OF_BYTES = 0.55, 0.85

SLICES = ("slice", "dynamic-slice", "gather", "slice-start")
MOVES = {  # a fusion of nothing else copies
    *("parameter", "constant", "bitcast", "copy", "transpose", "reshape", "tuple"),
    *("slice", "dynamic-slice", "dynamic-update-slice", "concatenate", "convert"),
    *("reverse", "iota", "get-tuple-element", "pad", "copy-start"),
}
SCALARS = 64  # bytes up to which an instruction does not count
CALLS_OF_NOTHING = ("AllocateBuffer", "ConcatBitcast")  # of a TPU
NOUNS = {"normalise": "normalisation", "drop": "dropout"}


class Kernel(NamedTuple):
    """A kernel, as often as it runs in a step."""

    part: str  # the layer or operation that it belongs to
    direction: str  # 'forward', 'backward', or '' after them
    times: int
    bytes: int  # read from and written to memory
    seconds: float  # by the compiler's own figure; or, of a GPU's products, assumed
    is_assumed: bool
    moves: str  # 'pad' or 'copy' where it only moves numbers, or ''


def part_of(op_name: str) -> tuple[str, str]:
    """(layer or operation, direction) of an operation of `make_train_step`."""
    direction = "backward" if "transpose(jvp" in op_name else "forward"
    if weight := re.search(r"state\.params\[\\?'(\w+)", op_name):
        return weight[1], direction
    if exchange := re.search(r"exchange_(\w+)", op_name):
        return f"exchange {exchange[1]}", direction
    if layer := re.search(r"\.layer/(\w+)", op_name):
        return layer[1], direction
    if operation := re.search(r"\b((?:spatial_)?normalisation|pooling)\b", op_name):
        return operation[1].replace("_", " "), direction
    if method := re.search(r"AlexNet\.(\w+)", op_name):
        return NOUNS.get(method[1], method[1]), direction
    if "AlexNet/" in op_name and "AlexNet/convert_element_type" not in op_name:
        return "units", direction
    if "jvp(" in op_name:
        return "pixels, loss", direction
    return "update", ""


def read_kernels(program: Instructions, chip: Chip) -> list[Kernel]:
    """The kernels of a step that is compiled for a chip, in its order."""
    found = []
    for scope, own, times in program.run():
        target = re.search(r'custom_call_target="([^"]*)"', own.line)
        if own.kind in FREE or own.kind.endswith(("-done", "-update")):
            continue
        arrays = [a for i in (own, *_operands(program, scope, own)) for a in i.results]
        is_small = sum(a.bytes for a in arrays) <= SCALARS
        if is_small or (target and target[1] in CALLS_OF_NOTHING):
            continue
        moved = traffic(program, scope, own)
        seconds, is_assumed = _seconds(program, scope, own, moved, chip)
        found.append(
            Kernel(
                *_part(program, scope, own),
                times,
                times * moved,
                times * seconds,
                is_assumed,
                _moves(program, own),
            )
        )
    return found


def _part(program: Instructions, scope: str, own: Instruction) -> tuple[str, str]:
    """`part_of` by the nearest name, where XLA made an instruction without one."""
    if exchange := exchange_of(program, own):
        direction, carries = origin(program, scope, own, exchange)
        of_maps = carries not in ("gradients", "counts")
        return f"exchange {carries}" if of_maps else carries, direction
    near = [i.op_name for i in (own, *program.producers(scope, own))]
    if scope in program.callers:
        near.append(program.callers[scope][1].op_name)
    return part_of(next((n for n in near if "jit(" in n or "state.params" in n), ""))


def traffic(program: Instructions, scope: str, own: Instruction) -> int:
    """Bytes that an instruction reads and writes; of slices, no more than those."""
    operands = _operands(program, scope, own)
    if own.kind == "fusion":
        inside = program.inside(own)
        order = {
            int(re.search(r"parameter\((\d+)\)", i.line)[1]): i.name  # type: ignore[index]
            for i in inside.values()
            if i.kind == "parameter"
        }
        read = sum(
            min(_bytes(whole.results), _used(inside, order[position]))
            for position, whole in enumerate(operands)
        )
        (root,) = (i for i in inside.values() if i.is_root)
        return read + _written(inside, root, own.results)
    if own.kind in SLICES:
        return 2 * _bytes(own.results) if _bytes(operands[0].results) else 0
    if own.kind == "dynamic-update-slice":
        return 2 * _bytes(operands[1].results)
    different = {i.name: i for i in operands}.values()
    return sum(_bytes(i.results) for i in different) + _bytes(own.results)


def _operands(program: Instructions, scope: str, own: Instruction) -> list[Instruction]:
    names = program.computations[scope]
    return [names[name] for name in own.operands if name in names]


def _bytes(arrays: Iterable[Array]) -> int:
    return sum(a.stored for a in arrays if a.in_memory)


def _used(inside: dict[str, Instruction], parameter: str) -> int:
    """Bytes of a fusion's parameter that it reads."""
    users = [i for i in inside.values() if parameter in i.operands]
    used = 0
    for user in users:
        first = user.operands[0] == parameter
        if user.kind in SLICES and first:
            used += sum(a.stored for a in user.results)
        elif not (user.kind == "dynamic-update-slice" and first):
            return sum(a.stored for a in inside[parameter].results)
    return used


def _written(
    inside: dict[str, Instruction], root: Instruction, results: tuple[Array, ...]
) -> int:
    """Bytes that a fusion writes: of an array that it changes in place, the change."""
    while root.kind == "bitcast":
        root = inside[root.operands[0]]
    if root.kind == "tuple":
        pairs = zip(root.operands, results, strict=True)
        return sum(_written(inside, inside[name], (own,)) for name, own in pairs)
    if root.kind == "dynamic-update-slice":
        change = sum(a.stored for a in inside[root.operands[1]].results)
        return min(change, _bytes(results))
    return _bytes(results)


def _moves(program: Instructions, own: Instruction) -> str:
    if own.kind == "fusion":
        kinds = {i.kind for i in program.inside(own).values()} - {"broadcast"}
    else:
        kinds = {own.kind}
    if not kinds <= MOVES or kinds <= {"constant", "iota", "copy-start"}:
        return ""
    return "pad" if "pad" in kinds else "copy"


def _seconds(
    program: Instructions, scope: str, own: Instruction, moved: int, chip: Chip
) -> tuple[float, bool]:
    """Seconds of one run, and whether they are assumed."""
    if cycles := re.search(r'"estimated_cycles":"(\d+)"', own.line):
        return int(cycles[1]) / chip.gigahertz / 1e9, False
    at_memory = moved / chip.bytes / SHARE_OF_BYTES
    if chip.cores and (product := _product(program, scope, own)):
        flop, dtype, is_exact = product
        peak = chip.flops if dtype == "bf16" else chip.flops / 2  # TensorFloat-32
        peak = chip.float32 if is_exact and dtype == "f32" else peak
        return max(flop / peak / SHARE_OF_FLOPS, at_memory), True
    models = re.findall(r'"exec_time_us":([\d.e+-]+)[^}]*"name":"([^"]*)"', own.line)
    # XLA's first model is a thousandfold off for Triton's fusions, which have another.
    figures = [float(us) / 1e6 for us, name in models if name != "sol"]
    figures = figures or [float(us) / 1e6 for us, _ in models]  # exchanges
    return (min(figures), False) if figures else (at_memory, True)


def _product(
    program: Instructions, scope: str, own: Instruction
) -> tuple[float, str, bool] | None:
    """(FLOP, dtype, whether in exact float32) of a matrix product or a convolution."""
    names = program.computations[scope]
    if own.kind == "fusion":
        names = program.inside(own)
        dots = [i for i in names.values() if i.kind == "dot"]
        own = dots[0] if dots else own
    if own.kind == "dot":
        left, (result, *_) = names[own.operands[0]].results[0], own.results
        along = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", own.line)
        flop = 2 * result.numbers
        for axis in along[1].split(",") if along else ():
            flop *= left.shape[int(axis)]
        return flop, left.dtype, "highest" in own.line
    labels = re.search(r"dim_labels=\w+_(\w+)->", own.line)
    if own.kind != "custom-call" or not labels:
        return None
    first, second = (names[n].results[0] for n in own.operands[:2])
    maps, kernel = own.results[0], second
    if "convBackwardInput" in own.line:
        maps = first
    elif "convBackwardFilter" in own.line:
        maps, kernel = second, own.results[0]
    kernels = kernel.shape[labels[1].index("o")]
    return 2 * maps.numbers * kernel.numbers / kernels, maps.dtype, False


def totals(kernels: list[Kernel], chip: Chip, flop: float) -> dict[str, Any]:
    """The kernels' part of the JSON object of `benchmark collectives --target`.

    Args:
        kernels: `read_kernels`.
        chip: for which they are compiled.
        flop: of the network in a step, on one device.
    """
    whole = _sums(kernels)
    names = dict.fromkeys((k.part, k.direction) for k in kernels)
    rows = [
        {
            **{"name": part, "direction": direction},
            **_sums(k for k in kernels if (k.part, k.direction) == (part, direction)),
        }
        for part, direction in names
    ]
    return {
        "flop": flop,
        **whole,
        "assumed_milliseconds": _sums(k for k in kernels if k.is_assumed)[
            "milliseconds"
        ],
        "roofline_milliseconds": {
            "flop": 1e3 * flop / chip.flops,
            "bytes": 1e3 * whole["bytes"] / chip.bytes,
        },
        "pads": _sums(k for k in kernels if k.moves == "pad"),
        "copies": _sums(k for k in kernels if k.moves == "copy"),
        "layers": rows,
    }


def _sums(kernels: Iterable[Kernel]) -> dict[str, Any]:
    own = list(kernels)
    return {
        "kernels": sum(k.times for k in own),
        "bytes": sum(k.bytes for k in own),
        "milliseconds": 1e3 * sum(k.seconds for k in own),
    }


def table(sums: dict[str, Any]) -> str:
    """A line for each row of `totals`, the longest first, and their sum."""
    lines = [f"{'':22}{'':10}{'kernels':>8}{'GB':>8}{'ms':>9}"]
    rows = sorted(sums["layers"], key=lambda row: -row["milliseconds"])
    moves = ({"name": f"of it {kind}", **sums[kind]} for kind in ("pads", "copies"))
    for row in (*rows, {"name": "sum", **sums}, *moves):
        lines.append(
            f"{row['name']:22}{row.get('direction', ''):10}{row['kernels']:8,}"
            f"{row['bytes'] / 1e9:8.3f}{row['milliseconds']:9.3f}"
        )
    return "\n".join(lines)
