"""The collectives of a compiled program, read from its instructions.

XLA compiles one program for all devices of a mesh. Each collective is an instruction
that names the groups of devices and, in its metadata, its line of the network.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from alexnet_jax.benchmark.instructions import Instruction, Instructions, integers


class Collective(NamedTuple):
    """One collective of a training step."""

    kind: str  # XLA's name, such as 'all-gather'
    axes: str  # of the mesh along which it goes, such as 'tower' or 'data+fc'
    direction: str  # 'forward' or 'backward'
    carries: str  # the layer it precedes, 'gradients', or 'counts' (loss and errors)
    times: int  # in a step: more than 1 with micro-batches
    bytes: int  # that a device receives in a step, by the cheapest algorithm (ring)
    dtype: str  # of the numbers, such as 'bf16'
    overlaps: int  # kernels that run between its start and its end


KIND = re.compile(
    r"(all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    r"|collective-broadcast|ragged-all-to-all)(-start)?"
)


def read_program(
    program: Instructions, mesh_shape: Mapping[str, int]
) -> Iterator[Collective]:
    """The collectives of a compiled step, in its order; not of groups of one device.

    Args:
        program: the step's.
        mesh_shape: {axis: devices along it}, `Mesh.shape`.
    """
    for scope, own, times in program.run():
        if not (exchange := exchange_of(program, own)):
            continue
        found = KIND.fullmatch(exchange.kind)
        assert found
        kind = found[1]
        groups = groups_of(exchange.line, math.prod(mesh_shape.values()))
        devices = groups.shape[1]
        if devices == 1:
            continue
        arrays = exchange.results
        if own is not exchange and kind == "all-reduce" and own.results != arrays:
            kind, arrays = "reduce-scatter", own.results  # a TPU's, as one fusion
        direction, carries = origin(program, scope, own, exchange)
        yield Collective(
            kind=kind,
            axes=_axes(groups, mesh_shape),
            direction=direction,
            carries=carries,
            times=times,
            bytes=times * _received(kind, sum(a.bytes for a in arrays), devices),
            dtype="+".join(sorted({a.dtype for a in arrays})),
            overlaps=_overlaps(program, scope, own),
        )


def exchange_of(program: Instructions, own: Instruction) -> Instruction | None:
    """The collective that an instruction is, or that a fusion has inside.

    XLA:TPU writes one that runs beside others as a start, fusions and an end, and each
    of them has it inside.
    """
    if KIND.fullmatch(own.kind):
        return own
    if own.kind != "fusion":
        return None
    inside = program.inside(own).values()
    of_others = "async_collective_fusion" in own.called("calls")[0]
    if of_others or any("AsyncCollectiveDone" in i.line for i in inside):
        return None
    return next((i for i in inside if KIND.fullmatch(i.kind)), None)


def origin(
    program: Instructions, scope: str, own: Instruction, exchange: Instruction
) -> tuple[str, str]:
    """(direction, what it carries), from the names of JAX's operations.

    XLA drops the name where it makes a collective of another, or one of several. Those
    around it have names: maps come from a layer and go to a layer.
    """
    before = [exchange.op_name, *(i.op_name for i in program.producers(scope, own))]
    behind = [i.op_name for i in program.users(scope, own)]
    first, following = (next(filter(None, names), "") for names in (before, behind))
    direction = "backward" if "transpose(" in first else "forward"
    if named := re.search(r"exchange_(\w+)", exchange.op_name):
        return direction, named[1]
    if not exchange.op_name and "shard_map" in following:
        names = "\n".join(before if direction == "backward" else behind)
        if layer := re.search(r"\.layer/(\w+)", names):
            return direction, layer[1]
    numbers = sum(a.numbers for a in exchange.results)
    return direction, "gradients" if numbers > 8 else "counts"


def _overlaps(program: Instructions, scope: str, start: Instruction) -> int:
    """Kernels between the start and the end of an exchange; 0: they wait for it."""
    order = [*program.computations[scope].values()]
    kernels = 0
    for own in order[order.index(start) + 1 :]:
        ends = own.kind.endswith("-done") and start.name in own.operands
        if own.kind == "fusion" and "async-collective-start" in start.name:
            ends = own.name == start.name.replace("-start", "-done")
        if ends:
            return kernels
        kernels += own.kind in ("fusion", "custom-call", "convolution", "dot")
    return 0


def _received(kind: str, size: int, devices: int) -> int:
    """Bytes that each of the devices receives for a result of `size` bytes."""
    others = devices - 1
    if kind == "reduce-scatter":
        return size * others  # the result is one device's part of the sum
    if kind == "all-reduce":
        return 2 * size * others // devices  # reduce-scatter, then all-gather
    if kind in ("all-gather", "all-to-all", "ragged-all-to-all"):
        return size * others // devices
    return size


def groups_of(line: str, devices: int) -> np.ndarray:
    """(groups, devices in each) of an instruction."""
    if "source_target_pairs" in line:
        return np.arange(devices)[None]
    forms = r"mesh\[.*?\].*? \{.*?\}|\{\{.*?\}\}|\{\}|\[\S+\](?:T\(\S*?\))?"
    text = re.search(rf"replica_groups=({forms})(?:,|$)", line)
    if not text:
        raise ValueError(f"a collective between unknown devices: {line.strip()}")
    return device_groups(text[1], devices)


def device_groups(text: str, devices: int) -> np.ndarray:
    """(groups, devices in each), from any of XLA's three forms.

    '{{0,1},{2,3}}' ('{}': all in one), '[2,2]<=[2,2]T(1,0)', or axes of a mesh that the
    compiler made: "mesh['axis_0'=2,'axis_1'=2] {'axis_0'}".
    """
    if text == "{}":
        return np.arange(devices)[None]
    if text.startswith("{{"):
        return np.array(integers(text)).reshape(text.count("{") - 1, -1)
    if not text.startswith("mesh"):
        shape, _, ids = text.partition("<=")
        return _device_ids(ids).reshape(integers(shape))
    found = re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*)\))? \{(.*)\}", text)
    assert found, text
    axes, ids, along = found.groups()
    names, own_names = (re.findall(r"'(\w+)'", part) for part in (axes, along))
    own, sizes = [names.index(name) for name in own_names], integers(axes)
    others = [axis for axis in range(len(names)) if axis not in own]
    placed = (_device_ids(ids) if ids else np.arange(devices)).reshape(sizes)
    members = math.prod(sizes[axis] for axis in own)
    return placed.transpose(others + own).reshape(-1, members)


def _device_ids(text: str) -> np.ndarray:
    """The devices of '[2,2]T(1,0)', '[4]' or '0,1,3,2' in order."""
    shape, _, order = text.partition("T")
    sizes = integers(shape)
    if not text.startswith("["):
        return np.array(sizes)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(integers(order) or None).ravel()


def _axes(groups: np.ndarray, mesh_shape: Mapping[str, int]) -> str:
    """The axes of the mesh along which the groups lie, such as 'data+fc'."""
    names = [name for name, size in mesh_shape.items() if size > 1]
    ids = np.arange(groups.size).reshape([mesh_shape[name] for name in names])
    wanted = {frozenset(group) for group in groups.tolist()}
    for count in range(1, len(names) + 1):
        for along in itertools.combinations(range(len(names)), count):
            if math.prod(ids.shape[axis] for axis in along) != groups.shape[1]:
                continue
            others = [axis for axis in range(len(names)) if axis not in along]
            lines = ids.transpose(*others, *along).reshape(-1, groups.shape[1])
            if {frozenset(line) for line in lines.tolist()} == wanted:
                return "+".join(names[axis] for axis in along)
    raise ValueError(f"groups {groups.tolist()} along no axes of {mesh_shape}")
