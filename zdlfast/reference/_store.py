"""Where plain NumPy has no operator that works in place for arrays and makes new numbers."""

from typing import Any

from zdlfast._validation import is_array


def store(target: Any, value: Any) -> Any:
    """Put a value into an array of state, or in the place of a number."""
    if not is_array(target):
        return value
    target[...] = value
    return target
