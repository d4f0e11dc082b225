"""Checks of options: an error names whose option it is, the value, and what was expected."""

import math
import numbers
from typing import Any


def whole(owner: str, name: str, value: Any) -> int:
    """`value` as an int, if it is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{owner}: {name} must be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, got {value!r}")
    return int(value)


def number(owner: str, name: str, value: Any, below: float = math.inf) -> float:
    """`value` as a float, if it is a number in ``[0, below)``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    if not 0 <= float(value) < below:
        expected = "finite and >= 0" if below == math.inf else f"in [0, {below:g})"
        raise ValueError(f"{owner}: {name} must be {expected}, got {value!r}")
    return float(value)


def instance(owner: str, name: str, value: Any, kind: type) -> None:
    """That `value` is of this kind: not its class, nor something else."""
    if not isinstance(value, kind):
        raise TypeError(f"{owner}: {name} must be of type {kind.__name__}, got {value!r}")
