"""Where plain NumPy has no operator that works in place for arrays and makes new numbers."""

from typing import Any

import numpy as np

from zdlfast._validation import is_array


def store(target: Any, value: Any) -> Any:
    """Put a value into an array of state, or in the place of a number."""
    if not is_array(target):
        return value
    if type(target) is np.ndarray:
        np.copyto(target, value)  # refuses what an operator in place would refuse
    else:
        target[...] = value
    return target
