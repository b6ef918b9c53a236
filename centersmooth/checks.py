"""Numbers that a caller gives: taken as plain ones, or refused in a line that says what came and what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real

from centersmooth.errors import RequestError
from centersmooth.outputs import brief


def is_number(value: object) -> bool:
    """Test for a real number of any type that a float can stand for, but not a bool or NaN."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # an integer beyond all floats
        return False


def is_range(limits: object) -> bool:
    """Test for two numbers in order, infinite ones included."""
    return (
        isinstance(limits, (tuple, list))
        and len(limits) == 2
        and all(map(is_number, limits))
        and bool(limits[0] <= limits[1])
    )


def an_integer(name: str, value: object, least: int) -> int:
    """``value`` as an int, of any integral type but bool.

    Raises
    ------
    RequestError
        Not an integer, or below ``least``.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
        raise RequestError(f"{name} is {brief(value)}: expected an integer of at least {least}")
    return int(value)


def a_number(name: str, value: float, low: float, high: float, expected: str) -> float:
    """``value`` as a float, of any real type but bool, strictly between ``low`` and ``high``.

    Raises
    ------
    RequestError
        Not a number, NaN included, or outside; ``expected`` says what it should be.
    """
    if not is_number(value) or not low < value < high:
        raise RequestError(f"{name} is {brief(value)}: expected {expected}")
    return float(value)
