"""Whether what was given is a number of the kind that is meant: NaN compares as nothing, and a fraction counts nothing."""

from math import isfinite
from numbers import Integral, Real


def is_count(value: object) -> bool:
    """Whether it is a whole number, 1 at least."""
    return isinstance(value, Integral) and int(value) >= 1


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and isfinite(value)
