"""What is sent in an update, flat: made once for arrays of these kinds, and used again."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zdlfast._gradients import Reading
from zdlfast.mpi._exchange import Exchange
from zdlfast.mpi._layout import Item, cut
from zdlfast.mpi._look import Look
from zdlfast.mpi._norm import Norms
from zdlfast.mpi._ranks import Interrupts, Ranks
from zdlfast.mpi._shards import Shared


class Gradients:
    """The gradients of an update, and their averages.

    Parameters
    ----------
    ranks : Ranks
    found : Look
        Arrays like those that will come.
    mean : bool
        Whether sums are divided.
    shared : mapping, optional
        Who owns what of each parameter, if each rank is to have the average of that alone.
    """

    def __init__(
        self, ranks: Ranks, found: Look, mean: bool, shared: Mapping[Any, Shared] | None
    ) -> None:
        self.facts = found.facts
        self.lines = [line for fact in found.facts for line in fact.lines()]
        #: Of those that are sent, among all.
        self.places = [place for place, fact in enumerate(found.facts) if fact.is_sent]
        facts = [found.facts[place] for place in self.places]
        self._shapes = [fact.grad_shape if shared is None else fact.shape for fact in facts]
        items = [
            Item(math.prod(shape), fact.dtype)
            for shape, fact in zip(self._shapes, facts, strict=True)
        ]
        if shared is None:
            bounds = cut(items, ranks.size)
            self.averages = [
                np.empty(shape, item.dtype)
                for shape, item in zip(self._shapes, items, strict=True)
            ]
        else:
            bounds = [shared[fact.key].bounds for fact in facts]
            self.averages = [
                np.empty(of_item[ranks.rank + 1] - of_item[ranks.rank], item.dtype)
                for of_item, item in zip(bounds, items, strict=True)
            ]
        self.exchange = Exchange(ranks, items, bounds, mean)
        self.norms = Norms(ranks, [fact.key for fact in facts], bounds)
        self._items = items
        self._copies: dict[int, np.ndarray] = {}
        self._flat: list[np.ndarray] = []

    def take(self, found: Look) -> None:
        """Take the gradients of this update: flat, and as they are sent."""
        self.exchange.error = None
        self._flat = [
            _flat(found.gradients[place], shape, item.dtype, self._copies, i)
            for i, (place, shape, item) in enumerate(
                zip(self.places, self._shapes, self._items, strict=True)
            )
        ]

    def average(self, interrupts: Interrupts) -> None:
        """Have the averages of all of them."""
        targets = [average.reshape(-1) for average in self.averages]
        self.exchange.average(self._flat, targets, interrupts)

    def average_own(self, interrupts: Interrupts) -> None:
        """Have the averages of what this rank owns."""
        self.exchange.average_own(self._flat, self.averages, interrupts)

    def read(self, interrupts: Interrupts) -> None:
        """Look at the averages, of which each rank has a part: `reading` says what is found."""
        self.exchange.attempt(self.norms.take, self.averages)
        self.norms.gather(interrupts)

    def reading(self) -> Reading:
        """What `read` has found, for the optimizer."""
        return self.norms.reading()


class Parameters:
    """Parameters of which each rank changes a part.

    Parameters
    ----------
    ranks : Ranks
    keys, values : sequence
    shared : mapping
        Who owns what of each.
    """

    def __init__(
        self,
        ranks: Ranks,
        keys: Sequence[Any],
        values: Sequence[np.ndarray],
        shared: Mapping[Any, Shared],
    ) -> None:
        self._keys, self._rank = keys, ranks.rank
        self._shared = [shared[key] for key in keys]
        items = [Item(each.size, each.dtype) for each in self._shared]
        self.exchange = Exchange(ranks, items, [each.bounds for each in self._shared], False)
        self._copies: dict[int, np.ndarray] = {}
        self.take(values)

    def take(self, values: Sequence[np.ndarray]) -> None:
        """Take the arrays as they are now."""
        self.exchange.error = None
        self._values = values
        self._flat = [
            _flat(value, each.shape, each.dtype, self._copies, i)
            for i, (value, each) in enumerate(zip(values, self._shared, strict=True))
        ]

    def own(self) -> dict[Any, np.ndarray]:
        """What this rank owns of each, by key."""
        return {
            key: flat[each.part(self._rank)]
            for key, flat, each in zip(self._keys, self._flat, self._shared, strict=True)
            if each.is_of(self._rank)
        }

    def send(self, interrupts: Interrupts) -> None:
        """Let all ranks have what each has changed."""
        self.exchange.gather(self._flat, interrupts)
        for value, flat in zip(self._values, self._flat, strict=True):
            if not np.may_share_memory(value, flat):
                value[...] = flat.reshape(value.shape)
        if self.exchange.error is not None:
            raise self.exchange.error


def _flat(
    value: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    copies: dict[int, np.ndarray],
    place: int,
) -> np.ndarray:
    """A value as an array of one dimension: its own memory, or a copy in memory that is kept."""
    if (
        isinstance(value, np.ndarray)
        and value.flags.c_contiguous
        and value.dtype == dtype
        and value.shape == shape
    ):
        return np.asarray(value).reshape(-1)
    if place not in copies:
        copies[place] = np.empty(shape, dtype)
    np.copyto(copies[place], value)
    return copies[place].reshape(-1)
