"""What is asked of all gradients before an update: their norm, and whether they are finite."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zdlfast import _validation as validation
from zdlfast._encoded import decoded

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

# Squares are added up in an order that no layout, width of instruction or thread changes: a chunk
# of elements in so many lanes, then the lanes in halves, then the chunks one after the other.
CHUNK = 4096
LANES = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found.

    Attributes
    ----------
    norm : float or None
        The root of the sum of all squares; None if nobody asked.
    nonfinite : list
        The key of the first gradient that holds NaN or infinity, if there is one.
    """

    norm: float | None
    nonfinite: list[Any]


def read(optimizer: "Optimizer", gradients: Iterable[tuple[Any, Any]]) -> Reading:
    """Read all gradients, if the options ask for it."""
    if optimizer.clip_norm is None and optimizer.nonfinite == "propagate":
        return Reading(None, [])
    total = 0.0
    nonfinite: list[Any] = []
    for key, grad in gradients:
        if optimizer.clip_norm is not None:
            total = add_squares(total, key, grad)
        if not nonfinite and not validation.is_finite(grad):
            nonfinite = [key]
    return Reading(math.sqrt(total) if optimizer.clip_norm is not None else None, nonfinite)


def add_squares(total: float, key: Any, grad: Any) -> float:
    """`total` with the squares of a gradient's elements added, in double precision."""
    if isinstance(grad, np.ma.MaskedArray):
        grad = grad.filled(0)  # what is masked is not there
    try:
        for chunk in square_sums(np.asarray(decoded(grad))):
            total += chunk
    except (TypeError, ValueError) as error:
        raise TypeError(f"grads[{key!r}] has no norm: {error}") from None
    return total


def square_sums(values: Any) -> Iterator[float]:
    """The sum of an array's squares, chunk by chunk."""
    if values.dtype.kind == "c":
        values = np.abs(values)
    values = np.ravel(values)
    for first in range(0, values.size, CHUNK):
        yield _square_sum(values[first : first + CHUNK].astype(float))


def _square_sum(chunk: Any) -> float:
    rows = np.zeros((-(-chunk.size // LANES), LANES))
    rows.flat[: chunk.size] = chunk
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduce(rows * rows, axis=0)
        while sums.size > 1:
            half = sums.size // 2
            sums = sums[:half] + sums[half:]
    return float(sums[0])


def clip_rate(optimizer: "Optimizer", norm: float | None) -> float:
    """What gradients are multiplied by, for their norm not to exceed ``clip_norm``.

    As in book 2, ``common/util.py``: with 1e-6 beside the norm, and only if it is less than 1.
    """
    if optimizer.clip_norm is None or norm is None:
        return 1.0
    rate = optimizer.clip_norm / (norm + 1e-6)
    return rate if rate < 1.0 else 1.0
