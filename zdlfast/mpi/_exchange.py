"""How arrays are averaged and gathered: bucket by bucket, the next one packed meanwhile.

An average is the same on all ranks, and does not depend on how MPI sends: each rank sends to each
other one what that owns, the owner adds in the order of the ranks and divides once, and sends
what came out to all.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from zdlfast.mpi._layout import Bucket, Item, make_buckets
from zdlfast.mpi._ranks import Interrupts, Ranks

#: By item, flat; what an item is not asked for may be anything.
Arrays = Sequence[Any]
_Requests = MPI.Request | list[MPI.Request]
_SLOTS = 2  # buckets that are under way at once


class Exchange:
    """Sends items of a layout.

    Parameters
    ----------
    ranks : Ranks
    items : sequence of Item
        What is sent.
    bounds : sequence
        Who owns what, as `cut` returns it.
    mean : bool
        Whether sums are divided by the number of ranks.
    """

    def __init__(
        self, ranks: Ranks, items: Sequence[Item], bounds: Sequence[Sequence[int]], mean: bool
    ) -> None:
        self.ranks, self.mean = ranks, mean
        self.buckets = make_buckets(items, bounds)
        self._begins = [of_item[ranks.rank] for of_item in bounds]
        size = max((bucket.size for bucket in self.buckets), default=0)
        own = max((bucket.sizes[ranks.rank] for bucket in self.buckets), default=0)
        slots = range(min(_SLOTS, len(self.buckets)))
        # Zeros, because what lies between segments is added up too.
        self._packed = [np.zeros(size, np.uint8) for _ in slots]
        self._received = [np.zeros(own * ranks.size, np.uint8) for _ in slots]
        self.sent = 0  # bytes, to other ranks
        self.error: Exception | None = None  # the first that kept something from being done

    def attempt(self, work: Callable[..., None], *args: Any) -> None:
        """Do a step; if it fails, this rank goes on sending, and the ranks agree afterwards."""
        try:
            work(*args)
        except Exception as error:
            self.error = self.error or error

    def average(self, arrays: Arrays, targets: Arrays, interrupts: Interrupts) -> None:
        """Put the average over the ranks of each array into a target, on all ranks."""
        self._pipeline(
            lambda number: self._scatter(number, arrays),
            self._add_and_gather,
            lambda number: self.attempt(self._unpack, number, range(self.ranks.size), targets),
            interrupts,
        )

    def average_own(self, arrays: Arrays, targets: Arrays, interrupts: Interrupts) -> None:
        """Put the average of what this rank owns into the targets, which hold nothing else."""
        self._pipeline(
            lambda number: self._scatter(number, arrays),
            lambda number: self._add_own(number, targets),
            None,
            interrupts,
        )

    def gather(self, arrays: Arrays, interrupts: Interrupts) -> None:
        """Put what each rank owns of the arrays into those of all others."""
        others = [rank for rank in range(self.ranks.size) if rank != self.ranks.rank]
        self._pipeline(
            lambda number: self._pack_and_gather(number, arrays),
            lambda number: self.attempt(self._unpack, number, others, arrays),
            None,
            interrupts,
        )

    def _pipeline(
        self,
        first: Callable[[int], _Requests],
        second: Callable[[int], _Requests | None],
        third: Callable[[int], None] | None,
        interrupts: Interrupts,
    ) -> None:
        """Do these steps with each bucket, each when what the one before has sent is there."""
        requests: list[_Requests | None] = [None] * len(self.buckets)
        for number in range(len(self.buckets) + 2):
            # The oldest comes first: its slot is needed.
            if third is not None and 0 <= number - 2 < len(self.buckets):
                self._wait(requests[number - 2], interrupts)
                third(number - 2)
            sent = first(number) if number < len(self.buckets) else None
            if 0 <= number - 1 < len(self.buckets):
                self._wait(requests[number - 1], interrupts)
                requests[number - 1] = second(number - 1)
            if number < len(self.buckets):
                requests[number] = sent

    def _wait(self, request: _Requests | None, interrupts: Interrupts) -> None:
        if request is not None:
            self.ranks.wait(request, self, interrupts)

    def _slot(self, number: int) -> tuple[Bucket, np.ndarray, np.ndarray]:
        slot = number % _SLOTS
        return self.buckets[number], self._packed[slot], self._received[slot]

    def _scatter(self, number: int, arrays: Arrays) -> _Requests:
        """Send to each rank what it owns."""
        bucket, packed, received = self._slot(number)
        self.attempt(_pack, bucket, range(self.ranks.size), arrays, packed)
        own = bucket.sizes[self.ranks.rank]
        self.sent += bucket.size - own
        # One after the other takes less time than MPI's Ialltoallv, by half.
        requests = []
        for other, (start, size) in enumerate(zip(bucket.starts, bucket.sizes, strict=True)):
            place = received[other * own : (other + 1) * own]
            part = packed[start : start + size]
            if other == self.ranks.rank:
                place[...] = part
                continue
            if own:
                requests.append(self.ranks.comm.Irecv([place, MPI.BYTE], other))
            if size:
                requests.append(self.ranks.comm.Isend([part, MPI.BYTE], other))
        return requests

    def _add(self, number: int) -> None:
        """Put the average of this rank's part into the bucket."""
        bucket, packed, received = self._slot(number)
        rank = self.ranks.rank
        own, start = bucket.sizes[rank], bucket.starts[rank]
        with np.errstate(all="ignore"):
            for begin, end, dtype in bucket.runs(rank):
                total = packed[start + begin : start + end].view(dtype)
                total[...] = received[begin:end].view(dtype)
                for other in range(1, self.ranks.size):
                    part = received[other * own + begin : other * own + end].view(dtype)
                    np.add(total, part, out=total)
                if self.mean:
                    np.divide(total, self.ranks.size, out=total)

    def _add_and_gather(self, number: int) -> _Requests:
        self.attempt(self._add, number)
        return self._gather(number)

    def _add_own(self, number: int, targets: Arrays) -> None:
        self.attempt(self._add, number)
        self.attempt(self._unpack, number, [self.ranks.rank], targets, self._begins)

    def _pack_and_gather(self, number: int, arrays: Arrays) -> _Requests:
        bucket, packed, _ = self._slot(number)
        self.attempt(_pack, bucket, [self.ranks.rank], arrays, packed)
        return self._gather(number)

    def _gather(self, number: int) -> _Requests:
        """Send this rank's part of a bucket to all others."""
        bucket, packed, _ = self._slot(number)
        self.sent += bucket.sizes[self.ranks.rank] * (self.ranks.size - 1)
        return self.ranks.comm.Iallgatherv(
            MPI.IN_PLACE, [packed, (bucket.sizes, bucket.starts), MPI.BYTE]
        )

    def _unpack(
        self,
        number: int,
        ranks: Iterable[int],
        targets: Arrays,
        begins: Sequence[int] | None = None,
    ) -> None:
        """Put the parts of these ranks where they belong, in targets that begin at `begins`."""
        bucket, packed, _ = self._slot(number)
        for rank in ranks:
            for segment in bucket.segments[rank]:
                begin = begins[segment.item] if begins is not None else 0
                place = slice(segment.start - begin, segment.stop - begin)
                targets[segment.item][place] = segment.of(packed)


def _pack(bucket: Bucket, ranks: Iterable[int], arrays: Arrays, packed: np.ndarray) -> None:
    """Put what these ranks own into a bucket."""
    for rank in ranks:
        for segment in bucket.segments[rank]:
            segment.of(packed)[...] = arrays[segment.item][segment.start : segment.stop]
