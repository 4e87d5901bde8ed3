"""Values of configs and flags: what they must be, and how a mistake is described."""

import difflib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.errors import InputError

SMALLEST, LARGEST = 1e-30, 1e30  # of numbers whose products float32 can hold
Bound = Callable[[Any], str]  # value → what it must be; '' where it is


def whole(least: int, below: int = 2**31) -> Bound:
    """A whole number."""

    def complaint(value: Any) -> str:
        if type(value) is int and least <= value < below:
            return ""
        too_large = type(value) is int and value >= below
        upper = f" and below {below}" if too_large or below != 2**31 else ""
        return f"must be a whole number, {least} or more{upper}"

    return complaint


def number(least: float, below: float = LARGEST, infinite: bool = False) -> Bound:
    """A number that float32 can hold, finite unless `infinite`."""

    def complaint(value: Any) -> str:
        if type(value) not in (int, float):
            return f"must be a number, {least:g} or more"
        held = not 0 < abs(value) < SMALLEST
        if held and (least <= value < below or (infinite and value == math.inf)):
            return ""
        upper = f" and below {below:g}" if below < LARGEST or value >= below else ""
        small = "" if held else f"; none between 0 and {SMALLEST:g}"
        return f"must be a number, {least:g} or more{upper}{small}"

    return complaint


def choice(*allowed: Any) -> Bound:
    """One of a few values."""

    def complaint(value: Any) -> str:
        if any(value == a and type(value) is type(a) for a in allowed):
            return ""
        return f"allowed are {', '.join(map(str, allowed))}{nearest(value, allowed)}"

    return complaint


def each(bound: Bound) -> Bound:
    """A list whose entries are all within a bound."""

    def complaint(value: Any) -> str:
        if not isinstance(value, list | tuple):
            return "must be a list"
        return next(filter(None, map(bound, value)), "")

    return complaint


def text(value: Any) -> str:
    """A string."""
    return "" if isinstance(value, str) else "must be text"


def padding(value: Any) -> str:
    """Zeros on both sides, or a pair."""
    pair = value if isinstance(value, list | tuple) else (value, value)
    if len(pair) == 2 and not any(map(whole(0), pair)):
        return ""
    return "must be whole numbers, 0 or more, or pairs (before, behind) of them"


def rows(value: Any) -> str:
    """Checked where they are made into a schedule (`experiment.make_schedule`)."""
    return "" if isinstance(value, list | tuple) else "must be a list of rows"


def one_of(value: Any, allowed: Sequence[Any], key: str) -> Any:
    """The value, if it is allowed."""
    if value not in allowed:
        raise InputError(f"{key}={value!r}: {choice(*allowed)(value)}")
    return value


def hashable(value: Any) -> Any:
    """A value in which lists are tuples."""
    if isinstance(value, list | tuple):
        return tuple(map(hashable, value))
    return value


def nearest(word: object, allowed: Iterable[object]) -> str:
    """'; did you mean X?', where one of the allowed words is close."""
    near = difflib.get_close_matches(str(word), list(map(str, allowed)), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def flat(config: ConfigDict) -> dict[str, Any]:
    """{'network.dropout': 0.5, …}, values as JSON gives them back."""

    def walk(prefix: str, tree: dict[str, Any]):
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from walk(f"{prefix}{name}.", value)
            else:
                yield prefix + name, value

    return dict(walk("", json.loads(json.dumps(config.to_dict()))))
