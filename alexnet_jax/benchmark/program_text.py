"""The collectives of a compiled program, read from its text.

XLA compiles one program for all devices of a mesh. Each collective is an instruction
that names the groups of devices and, in its metadata, its line of the network.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh


class Collective(NamedTuple):
    """One collective of a training step."""

    kind: str  # XLA's name, such as 'all-gather'
    axes: str  # of the mesh along which it goes, such as 'tower' or 'data+fc'
    direction: str  # 'forward' or 'backward'
    carries: str  # the layer it precedes, 'gradients', or 'counts' (loss and errors)
    times: int  # in a step: more than 1 with micro-batches
    bytes: int  # that a device receives in a step, by the cheapest algorithm (ring)


KIND = re.compile(
    r"= (?P<type>\(.*?\)|\S+) (?P<kind>all-gather|all-reduce|all-to-all|reduce-scatter"
    r"|collective-permute|collective-broadcast|ragged-all-to-all)(?P<start>-start)?\("
)


def read_collectives(compiled: Any, mesh: Mesh) -> list[Collective]:
    """The collectives of a compiled step (`jax.stages.Compiled`), in its order."""
    return list(read_program(compiled.as_text(), dict(mesh.shape)))


def read_program(text: str, mesh_shape: dict[str, int]) -> Iterator[Collective]:
    """The same from the program's text; a group of one device communicates nothing."""
    times = _times_of_computations(text)
    for computation, line in _lines(text):
        found = KIND.search(line)
        if not found:
            continue
        groups = _groups(line, math.prod(mesh_shape.values()))
        devices = groups.shape[1]
        if devices == 1:
            continue
        size, numbers = _bytes(found["type"])
        if found["start"] and found["kind"] == "all-gather":  # (operand, result)
            size -= size // (devices + 1)
        name = re.search(r'op_name="([^"]*)"', line)
        origin, repeated = name[1] if name else "", times[computation]
        exchange = re.search(r"exchange_(\w+)", origin)
        sums = "gradients" if numbers > 8 else "counts"
        yield Collective(
            kind=found["kind"],
            axes=_axes(groups, mesh_shape),
            direction="backward" if "transpose(" in origin else "forward",
            carries=exchange[1] if exchange else sums,
            times=repeated,
            bytes=repeated * _received(found["kind"], size, devices),
        )


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


def _bytes(type_text: str) -> tuple[int, int]:
    """Bytes and count of the numbers of 'f32[128,4096]' or a tuple of such."""
    size = numbers = 0
    for bits, shape in re.findall(r"\b[a-z]+(\d*)\w*\[([\d,]*)\]", type_text):
        count = math.prod(int(n) for n in shape.split(",") if n)
        size += count * int(bits or 8) // 8  # pred has a byte
        numbers += count
    return size, numbers


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """(computation, instruction) for every line."""
    computation = ""
    for line in text.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?(\S+) .*\{$", line):
            computation = opened[1]
        else:
            yield computation, line


def _times_of_computations(text: str) -> dict[str, int]:
    """{computation: how often it runs in a step}: more than once in a loop."""
    callers: dict[str, tuple[str, int]] = {}
    for computation, line in _lines(text):
        loop = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
        for called in re.findall(r"(?:body|to_apply|calls)=%?([\w.\-]+)", line):
            callers[called] = computation, int(loop[1]) if loop else 1

    def times(computation: str) -> int:
        caller, rounds = callers.get(computation, ("", 1))
        return rounds * times(caller) if caller else 1

    return {computation: times(computation) for computation, _ in _lines(text)}


def _groups(line: str, devices: int) -> np.ndarray:
    """(groups, devices in each) of an instruction."""
    if "source_target_pairs" in line:
        return np.arange(devices)[None]
    forms = r"mesh\[.*?\].*? \{.*?\}|\{\{.*?\}\}|\{\}|\[\S+\]\S*?"
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
        return np.array(_integers(text)).reshape(text.count("{") - 1, -1)
    if not text.startswith("mesh"):
        shape, _, ids = text.partition("<=")
        return _device_ids(ids).reshape(_integers(shape))
    found = re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*)\))? \{(.*)\}", text)
    assert found, text
    axes, ids, along = found.groups()
    names, own_names = (re.findall(r"'(\w+)'", part) for part in (axes, along))
    own, sizes = [names.index(name) for name in own_names], _integers(axes)
    others = [axis for axis in range(len(names)) if axis not in own]
    placed = (_device_ids(ids) if ids else np.arange(devices)).reshape(sizes)
    members = math.prod(sizes[axis] for axis in own)
    return placed.transpose(others + own).reshape(-1, members)


def _device_ids(text: str) -> np.ndarray:
    """The devices of '[2,2]T(1,0)', '[4]' or '0,1,3,2' in order."""
    shape, _, order = text.partition("T")
    sizes = _integers(shape)
    if not text.startswith("["):
        return np.array(sizes)
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose(_integers(order) or None).ravel()


def _integers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"(?<![\w])\d+", text)]


def _axes(groups: np.ndarray, mesh_shape: dict[str, int]) -> str:
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
