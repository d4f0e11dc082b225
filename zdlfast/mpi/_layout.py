"""Which rank owns what, and in which portions it is sent: numbers alone, without MPI."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from zdlfast._gradients import CHUNK

# Of an array, in elements. Squares are added up in chunks of so many, for a norm with the same
# bits; and it is a multiple of what state in fewer bits is grouped by.
CUT = CHUNK
BUCKET = 4 << 20  # bytes: what is sent at once
ALIGNED = 16  # bytes: of the widest number


@dataclass(frozen=True, slots=True)
class Item:
    """One array, as its elements are sent: one after the other, in the order of C."""

    size: int
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of an item, and where it lies in a bucket."""

    item: int
    start: int
    stop: int
    at: int  # in bytes
    dtype: np.dtype[Any]

    def of(self, buffer: np.ndarray) -> np.ndarray:
        """Its place in the memory of a bucket."""
        size = (self.stop - self.start) * self.dtype.itemsize
        part: np.ndarray = buffer[self.at : self.at + size].view(self.dtype)
        return part


@dataclass(frozen=True, slots=True)
class Bucket:
    """What is sent at once: some of what each rank owns."""

    segments: tuple[tuple[Segment, ...], ...]  # by rank
    starts: tuple[int, ...]  # in bytes, by rank
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def runs(self, rank: int) -> list[tuple[int, int, np.dtype[Any]]]:
        """Where in the part of a rank elements of one dtype lie: begin, end, dtype.

        What lies between its segments are zeros, of whatever dtype.
        """
        found: list[tuple[int, int, np.dtype[Any]]] = []
        for segment in self.segments[rank]:
            begin = segment.at - self.starts[rank]
            end = begin + _aligned((segment.stop - segment.start) * segment.dtype.itemsize)
            if found and found[-1][2] == segment.dtype:
                begin = found.pop()[0]
            found.append((begin, end, segment.dtype))
        return found


def cut(items: Sequence[Item], ranks: int) -> list[tuple[int, ...]]:
    """Share items out among ranks by bytes, each at multiples of `CUT` elements.

    Returns
    -------
    list of tuple
        For each item, where each rank's part begins, and last its size.
    """
    ends = list(accumulate(item.size * item.dtype.itemsize for item in items))
    total = ends[-1] if ends else 0
    bounds = [[0] for _ in items]
    for rank in range(1, ranks):
        target = total * rank // ranks
        middle = bisect_right(ends, target)  # the item in which this rank begins
        for i, item in enumerate(items):
            begin = 0 if i > middle else item.size
            if i == middle:
                before = ends[i] - item.size * item.dtype.itemsize
                element = (target - before) // item.dtype.itemsize
                begin = min(item.size, (element + CUT // 2) // CUT * CUT)
            bounds[i].append(begin)
    return [(*begins, item.size) for begins, item in zip(bounds, items, strict=True)]


def make_buckets(items: Sequence[Item], bounds: Sequence[Sequence[int]]) -> list[Bucket]:
    """Divide items into buckets, in each of which ranks own about as much as another.

    Parameters
    ----------
    items : sequence of Item
    bounds : sequence
        As `cut` returns them.
    """
    ranks = len(bounds[0]) - 1 if bounds else 0
    portions = [
        _portions(
            [(i, bounds[i][rank], bounds[i][rank + 1], item) for i, item in enumerate(items)],
            max(BUCKET // max(ranks, 1), 1024),
        )
        for rank in range(ranks)
    ]
    buckets = []
    for number in range(max(map(len, portions), default=0)):
        at = 0
        segments, starts = [], []
        for rank in range(ranks):
            starts.append(at)
            placed = []
            of_rank = portions[rank][number] if number < len(portions[rank]) else []
            for i, start, stop, item in of_rank:
                placed.append(Segment(i, start, stop, at, item.dtype))
                at += _aligned((stop - start) * item.dtype.itemsize)
            segments.append(tuple(placed))
        ends = (*starts[1:], at)
        sizes = tuple(end - start for start, end in zip(starts, ends, strict=True))
        buckets.append(Bucket(tuple(segments), tuple(starts), sizes))
    return buckets


_Part = tuple[int, int, int, Item]


def _portions(parts: Sequence[_Part], most: int) -> list[list[_Part]]:
    """Parts of items in portions of `most` bytes."""
    portions: list[list[_Part]] = []
    free = 0
    for i, start, stop, item in parts:
        while start < stop:
            if free < item.dtype.itemsize:
                portions.append([])
                free = most
            n = min(stop - start, free // item.dtype.itemsize)
            portions[-1].append((i, start, start + n, item))
            free -= _aligned(n * item.dtype.itemsize)
            start += n
    return portions


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED
