"""The norm of gradients of which each rank has a part, with the bits of the undivided one."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from zdlfast import _gradients
from zdlfast import _validation as validation
from zdlfast._gradients import CHUNK, Reading
from zdlfast.mpi._ranks import Interrupts, Ranks

if TYPE_CHECKING:
    from zdlfast._engine import square_sums
else:
    try:
        from zdlfast._engine import square_sums
    # As in zdlfast/__init__.py. Without the compiled extension plain NumPy works all the same.
    except (ImportError, ValueError, AttributeError):
        square_sums = None


class Norms:
    """Reads parts of gradients, each cut at multiples of the chunks that squares are added up in.

    Parameters
    ----------
    ranks : Ranks
    keys : sequence
        Of the gradients.
    bounds : sequence
        Who has what of each gradient.
    """

    def __init__(self, ranks: Ranks, keys: Sequence[Any], bounds: Sequence[Sequence[int]]) -> None:
        self.ranks, self.keys = ranks, keys
        self._chunks = [
            [-(-(of_item[rank + 1] - of_item[rank]) // CHUNK) for rank in range(ranks.size)]
            for of_item in bounds
        ]
        # Each rank sends the sums of its chunks, and the first gradient that is not finite.
        self._sizes = [sum(column) + 1 for column in zip(*self._chunks, strict=True)]
        self._sizes = self._sizes or [1] * ranks.size
        at = [int(place) for place in np.cumsum([0, *self._sizes[:-1]])]
        self._starts = tuple(at)
        order: list[int] = []  # as the undivided gradients are read
        for chunks in self._chunks:
            for rank, count in enumerate(chunks):
                order += range(at[rank], at[rank] + count)
                at[rank] += count
        self._order = np.array(order, np.intp)
        self._last = at
        self._found = np.zeros(sum(self._sizes))

    def take(self, parts: Sequence[np.ndarray]) -> None:
        """Read what this rank has."""
        rank = self.ranks.rank
        own = self._found[self._starts[rank] : self._starts[rank] + self._sizes[rank]]
        own[-1] = math.inf
        at = 0
        for item, part in enumerate(parts):
            count = self._chunks[item][rank]
            sums = own[at : at + count]
            _add_squares(part, sums)
            at += count
            # Squares of finite numbers may be too large.
            unknown = own[-1] == math.inf and not np.isfinite(sums).all()
            if unknown and not validation.is_finite(part):
                own[-1] = item

    def gather(self, interrupts: Interrupts) -> None:
        """Let all ranks have what each has read."""
        found = [self._found, (self._sizes, self._starts), MPI.DOUBLE]
        self.ranks.wait(self.ranks.comm.Iallgatherv(MPI.IN_PLACE, found), self._found, interrupts)

    def reading(self) -> Reading:
        """What `zdlfast._gradients.read` finds in the whole of them, norm included."""
        found = self._found
        first = min(found[last] for last in self._last)
        with np.errstate(all="ignore"):
            # One after the other, as everywhere.
            sums = np.add.accumulate(found[self._order])
        norm = math.sqrt(sums[-1]) if len(sums) else 0.0
        return Reading(norm, [] if first == math.inf else [self.keys[int(first)]])


def _add_squares(part: np.ndarray, sums: np.ndarray) -> None:
    if square_sums is not None and part.dtype.char in "fd":
        square_sums(part, sums)
    else:
        sums[:] = list(_gradients.square_sums(part))
