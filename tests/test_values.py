"""Bounds of values, and how a mistake is described."""

import math

import ml_collections
import pytest

from alexnet_jax.errors import InputError
from alexnet_jax.values import choice, each, flat, nearest, number, one_of, text, whole


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        (whole(1), (1, 2**31 - 1), (0, -1, 1.0, True, "1", None, 2**31)),
        (whole(0, 2**32), (0, 2**32 - 1), (-1, 2**32)),
        (number(0), (0, 0.5, 1e29), (-1e-9, math.inf, math.nan, "1", True, None)),
        (number(0), (1e-30, 2**31), (1e-320, 1e-31, 1e30, 1e300, 2**200)),
        (number(0, 1), (0, 0.999), (1, 1.5)),
        (number(0, infinite=True), (0, math.inf), (-math.inf, math.nan)),
        (choice("a", "b"), ("a", "b"), ("c", "", None, 1)),
        (choice(False, True), (False, True), (0, 1, "True")),
        (each(whole(1)), ((), [1], (1, 2)), (1, "12", [0], [1, 2.0], {1: 2})),
        (text, ("", "a"), (None, 1.5, ("a",))),
    ],
)
def test_a_bound_takes_what_is_inside_and_describes_the_rest(bound, inside, outside):
    for value in inside:
        assert bound(value) == "", value
    for value in outside:
        assert bound(value), value


def test_a_number_too_large_learns_of_the_upper_bound():
    assert whole(1)(0) == "must be a whole number, 1 or more"
    assert whole(1)(2**31) == "must be a whole number, 1 or more and below 2147483648"
    assert number(0, 1)(1.0) == "must be a number, 0 or more and below 1"
    assert number(0)(1e300) == "must be a number, 0 or more and below 1e+30"
    assert number(0)(1e-320).endswith("; none between 0 and 1e-30")


def test_flat_gives_dotted_keys_and_values_as_json_has_them():
    config = ml_collections.ConfigDict({"a": 1, "b": {"c": (1, 2), "d": {}}})
    assert flat(config) == {"a": 1, "b.c": [1, 2]}


def test_the_nearest_word_is_offered():
    assert one_of("a", ("a", "b"), "key") == "a"
    with pytest.raises(InputError, match=r"key='plateu': .*; did you mean 'plateau'\?"):
        one_of("plateu", ("plateau", "epochs"), "key")
    assert nearest("zzz", ("plateau", "epochs")) == ""


def test_a_mistake_is_one_line_whatever_is_in_it():
    assert str(InputError("a\nb: no such file")) == "a b: no such file"
