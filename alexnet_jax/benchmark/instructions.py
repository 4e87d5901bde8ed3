"""The instructions of a compiled program, read from its text (XLA's HLO).

XLA writes a line for each instruction, computation by computation, and in its metadata
the operation of JAX that it comes from ('op_name').
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

LINE = re.compile(
    r"\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = "
    r"(?P<type>\(.*?\)|\S+) (?P<kind>[a-z][\w\-]*)\((?P<operands>[^)]*)\)"
)
ARRAY = re.compile(
    r"\b(?P<dtype>[a-z]+(?P<bits>\d*)\w*)\[(?P<shape>[\d,]*)\]"
    r"(?:\{(?P<order>[\d,]*)(?::T\((?P<tile>[\d,]+)\))?[^}]*?(?:S\((?P<space>\d+)\))?\})?"
)
FREE = {  # they only name, group or order what others compute
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "call", "conditional", "partition-id", "replica-id", "opt-barrier"),
    *("async-start", "domain"),
}
CALLS = {  # attributes that name the computations that an instruction runs
    "while": ("body",),
    "call": ("to_apply",),
    "async-start": ("calls",),
    "conditional": ("branch_computations", "true_computation", "false_computation"),
}
ENOUGH = 6  # steps to a neighbour with a name


class Array(NamedTuple):
    """An array in a program."""

    dtype: str  # 'bf16'
    shape: tuple[int, ...]
    bytes: int  # of its numbers
    stored: int  # bytes with what fills its tiles, on a TPU
    in_memory: bool  # and not in a smaller one on the chip

    @property
    def numbers(self) -> int:
        """Their count."""
        return math.prod(self.shape)


class Instruction(NamedTuple):
    """A line of a program."""

    name: str
    kind: str  # XLA's opcode, such as 'fusion' or 'all-gather-start'
    arrays: tuple[Array, ...]  # of its type
    operands: tuple[str, ...]
    line: str
    is_root: bool  # of its computation

    @property
    def op_name(self) -> str:
        """The operation of JAX that it comes from; '' where XLA dropped it."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.line)
        return found[1] if found else ""

    @property
    def results(self) -> tuple[Array, ...]:
        """The arrays that it makes: an instruction's start also lists its operands."""
        if self.kind == "copy-start":
            return self.arrays[:1]
        count = len(self.operands)
        if self.kind.endswith("-start") and len(self.arrays) >= 2 * count:
            return self.arrays[count : 2 * count]
        return self.arrays

    def called(self, *attributes: str) -> list[str]:
        """The computations under some of its attributes, such as 'body'."""
        names = "|".join(attributes)
        found = re.findall(rf"\b(?:{names})=(?:\{{([^}}]*)\}}|%?([\w.\-]+))", self.line)
        return [n for pair in found for n in re.findall(r"[\w.\-]+", "".join(pair))]


class Instructions:
    """The computations of a program.

    Attributes:
        computations: {name: {instruction's name: instruction}}, in their order.
        entry: the name of the first to run.
        callers: {computation: where and by what it is run}, as far as `run` has come.
    """

    def __init__(self, text: str):
        """Read a program's text; without a heading all of it is one computation."""
        self.computations: dict[str, dict[str, Instruction]] = {"": {}}
        self.entry = name = ""
        self.callers: dict[str, tuple[str, Instruction]] = {}  # filled by `run`
        for line in text.splitlines():
            if opened := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
                name = opened[2]
                self.computations[name] = {}
                self.entry = name if opened[1] else self.entry
            elif found := LINE.match(line):
                own = Instruction(
                    found["name"],
                    found["kind"],
                    tuple(arrays(found["type"])),
                    tuple(re.findall(r"%([\w.\-]+)", found["operands"])),
                    line,
                    bool(found["root"]),
                )
                self.computations[name][own.name] = own

    def run(
        self, computation: str | None = None, times: int = 1
    ) -> Iterator[tuple[str, Instruction, int]]:
        """(computation, instruction, times in a step); not the insides of fusions."""
        name = self.entry if computation is None else computation
        for own in self.computations[name].values():
            yield name, own, times
            rounds = self._rounds(own) if own.kind == "while" else 1
            for callee in own.called(*CALLS[own.kind]) if own.kind in CALLS else ():
                self.callers[callee] = name, own
                yield from self.run(callee, times * rounds)

    def _rounds(self, loop: Instruction) -> int:
        """How often a loop's body runs; 1 where that is unknown.

        XLA for TPUs does not write it: the condition compares with it.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.line):
            return int(known[1])
        (condition,) = loop.called("condition")
        lines = (i.line for i in self.computations[condition].values())
        bounds = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(lines))
        return int(bounds[0]) if len(bounds) == 1 else 1

    def inside(self, fusion: Instruction) -> dict[str, Instruction]:
        """The instructions of a fusion's computation."""
        (callee,) = fusion.called("calls")
        return self.computations[callee]

    def producers(self, computation: str, own: Instruction) -> Iterator[Instruction]:
        """What an instruction reads, then what that reads, the nearest first."""
        scope, level, seen = self.computations[computation], [own], {own.name}
        for _ in range(ENOUGH):
            names = [n for i in level for n in i.operands if n in scope]
            level = [scope[n] for n in dict.fromkeys(names) if n not in seen]
            seen.update(names)
            yield from level

    def users(self, computation: str, own: Instruction) -> Iterator[Instruction]:
        """What reads an instruction, then what reads that, the nearest first."""
        scope, names = self.computations[computation], {own.name}
        for _ in range(ENOUGH):
            level = [i for i in scope.values() if names & {*i.operands}]
            yield from level
            names = {i.name for i in level}


def arrays(text: str) -> Iterator[Array]:
    """The arrays of a type, 'f32[128,4096]{1,0:T(8,128)}' or a tuple of such."""
    for found in ARRAY.finditer(text):
        sides = integers(found["shape"])
        order, tile = integers(found["order"]), integers(found["tile"])
        stored = [sides[axis] for axis in order][::-1]
        for axis, side in zip(
            range(-1, -1 - len(stored), -1), tile[::-1], strict=False
        ):
            stored[axis] = -(-stored[axis] // side) * side  # the minor axes fill tiles
        item = int(found["bits"] or 8)  # pred has a byte
        yield Array(
            found["dtype"],
            tuple(sides),
            math.prod(sides) * item // 8,
            math.prod(stored or sides) * item // 8,
            found["space"] in (None, "0"),
        )


def integers(text: str | None) -> list[int]:
    """The whole numbers in a text, but not those at the end of a name."""
    return [int(digits) for digits in re.findall(r"(?<!\w)\d+", text or "")]
