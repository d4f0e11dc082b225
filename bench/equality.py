"""Whether two trainings are equal, bit for bit."""

from typing import Any

import numpy as np

from bench import internals


def differences(numpy: Any, fast: Any, numpy_params: Any, fast_params: Any) -> list[str]:
    """What differs between two optimizers' weights and state: nothing, if all is well.

    Parameters
    ----------
    numpy, fast : Optimizer
        Of the same rule, after the same steps.
    numpy_params, fast_params : dict of ndarray
        What they updated.
    """
    pairs = {f"weights {key}": (value, fast_params[key]) for key, value in numpy_params.items()}
    for slot in internals.slots(type(numpy).__name__):
        for key, value in getattr(numpy, slot).items():
            pairs[f"state {slot}[{key!r}]"] = (value, getattr(fast, slot)[key])
    return different(pairs, "NumPy", "the final ")


def different(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], who: str, what: str = ""
) -> list[str]:
    """Which pairs of arrays differ, in words; the first of each is by somebody else."""
    found = []
    for name, (a, b) in pairs.items():
        if a.dtype != b.dtype:
            found.append(f"{what}{name} are {b.dtype}, by {who} {a.dtype}")
        elif count := different_bits(a, b):
            found.append(f"{what}{name} differ in {count} of {a.size} elements")
    return found


def different_bits(a: np.ndarray, b: np.ndarray) -> int:
    """How many elements differ, where -0.0 is not 0.0, and NaN is NaN whatever its payload."""
    if a.dtype.kind != "f":
        return int(np.count_nonzero(a != b))
    same = ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
    return int(a.size - np.count_nonzero(same))
