"""Checks of options: an error names whose option it is, the value, and what was expected."""

import math
import numbers
import sys
from typing import Any


def whole(owner: str, name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number from 1 on that can be the size of something."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {name} must be a whole number, got {value!r}")
    result = int(value)
    if not 1 <= result <= sys.maxsize:
        expected = "at least 1" if result < 1 else f"at most {sys.maxsize}"
        raise ValueError(f"{owner}: {name} must be {expected}, got {shown(value)}")
    return result


def number(owner: str, name: str, value: Any, below: float = math.inf) -> float:
    """`value` as a float, if it is a number in ``[0, below)``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not 0 <= result < below:
        expected = "finite and >= 0" if below == math.inf else f"in [0, {below:g})"
        raise ValueError(f"{owner}: {name} must be {expected}, got {shown(value)}")
    return result


def positive(owner: str, name: str, value: Any) -> float:
    """`value` as a float, if it is a finite number greater than 0."""
    result = number(owner, name, value)
    if result == 0:
        raise ValueError(f"{owner}: {name} must be > 0, got {value!r}")
    return result


def instance(owner: str, name: str, value: Any, kind: type) -> None:
    """That `value` is of this kind: not its class, nor something else."""
    if not isinstance(value, kind):
        raise TypeError(f"{owner}: {name} must be of type {kind.__name__}, got {value!r}")


def shown(value: Any) -> str:
    """A number for a message: Python refuses to print integers of some thousand digits."""
    if isinstance(value, int) and abs(value) > 1e20:
        return f"about {'-' if value < 0 else ''}1e+{math.log10(abs(value)):.0f}"
    return repr(value)
