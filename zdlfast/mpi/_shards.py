"""State of which each rank keeps a part."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from mpi4py import MPI

from zdlfast import _validation as validation
from zdlfast._encoded import EncodedState
from zdlfast.mpi._layout import Item, cut
from zdlfast.mpi._look import Look
from zdlfast.mpi._ranks import Interrupts, Ranks

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer


@dataclass(frozen=True, slots=True)
class Shared:
    """An array of which each rank owns a part."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    bounds: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.bounds[-1]

    def part(self, rank: int) -> slice:
        return slice(self.bounds[rank], self.bounds[rank + 1])

    def is_of(self, rank: int) -> bool:
        """Whether a rank owns something of it: of nothing, the first one does."""
        return self.bounds[rank] < self.bounds[rank + 1] or (self.size == 0 and rank == 0)


class Shards:
    """The state of an optimizer, of which each rank keeps a part.

    Arrays that come together are shared out together; what is shared out stays where it is.
    """

    def __init__(self, optimizer: "Optimizer", ranks: Ranks) -> None:
        self.optimizer, self.ranks = optimizer, ranks
        self.arrays: dict[Any, Shared] = {}
        self.by_key: bool | None = None  # a mapping, or a list

    def coming(self, found: Look) -> dict[Any, Shared]:
        """Arrays that are not shared out yet, as they will be; all are checked."""
        if self.by_key is None:
            validation.looked_up(self.optimizer, {} if found.by_key else [], {})
        elif self.by_key != found.by_key:
            kinds = {True: "mapping", False: "list"}
            raise TypeError(
                f"params is a {kinds[found.by_key]}, but the state is of a {kinds[self.by_key]}: "
                "use one optimizer for each kind of container"
            )
        new = []
        for key, value, grad, fact in zip(
            found.keys, found.values, found.gradients, found.facts, strict=True
        ):
            name = f"params[{key!r}]"
            if type(value) not in (np.ndarray, np.memmap) or value.dtype.kind not in "fc":
                raise TypeError(
                    f"{name} must be an array of floats for shard_state, got {_what(value)}"
                )
            if fact.is_sent:
                validation.param_and_grad(key, value, grad)
                if self.optimizer.clip_norm is not None and fact.grad_shape != fact.shape:
                    raise ValueError(
                        f"grads[{key!r}] has shape {fact.grad_shape}, expected {fact.shape}, that "
                        "of its parameter, for clip_norm with shard_state"
                    )
                if not value.flags.writeable:
                    raise ValueError(
                        f"{name} is read-only, expected an array that can be updated in place"
                    )
            shared = self.arrays.get(key)
            if shared is None:
                new.append((key, value))
                continue
            dtype = value.dtype.newbyteorder("=")
            if (shared.shape, shared.dtype) != (value.shape, dtype):
                raise ValueError(
                    f"{name} is {dtype} of shape {value.shape}, but its state is "
                    f"{shared.dtype} of shape {shared.shape}"
                )
        self._check_formats([key for key, _ in new])
        _check_apart(found)
        items = [Item(value.size, value.dtype) for _, value in new]
        return {
            key: Shared(value.shape, value.dtype.newbyteorder("="), bounds)
            for (key, value), bounds in zip(new, cut(items, self.ranks.size), strict=True)
        }

    def _check_formats(self, keys: list[Any]) -> None:
        """Raise if state is encoded: where it is, depends on the size of the whole."""
        optimizer = self.optimizer
        asked: list[str | None] = [optimizer.state]
        if optimizer.overrides is not None:
            asked += [options.get("state") for options in optimizer.overrides.values()]
        for slot in optimizer._slots if keys else ():
            container = getattr(optimizer, slot)
            if isinstance(container, list):
                container = dict(enumerate(container))
            held = [(container or {}).get(key) for key in keys]
            asked += [each.format for each in held if isinstance(each, EncodedState)]
        for format in asked:
            if format is not None:
                raise NotImplementedError(
                    f"shard_state takes no state in {format!r} yet: let it be None, or keep the "
                    "whole state on each rank"
                )

    def add(self, coming: dict[Any, Shared], by_key: bool) -> Callable[[], None]:
        """Share out what is coming: of state that is there already, a part is kept.

        Returns
        -------
        callable
            Makes all as it was before.
        """
        before = self.by_key, self.arrays
        whole: dict[str, Any] = {}  # by slot

        def undo() -> None:
            self.by_key, self.arrays = before
            for slot, container in whole.items():
                object.__setattr__(self.optimizer, slot, container)

        self.by_key, self.arrays = by_key, self.arrays | coming
        for slot in self.optimizer._slots if coming else ():
            container = getattr(self.optimizer, slot)
            if container is None:
                continue
            whole[slot] = container
            is_list = isinstance(container, list)
            parts = dict(enumerate(container)) if is_list else dict(container)
            for key, shared in coming.items():
                if key in parts:
                    array = np.asarray(parts.pop(key))
                    if shared.is_of(self.ranks.rank):
                        parts[key] = array.reshape(-1)[shared.part(self.ranks.rank)].copy()
            object.__setattr__(self.optimizer, slot, parts)
            self.optimizer._was_loaded()
        return undo

    def check(self) -> None:
        """Raise if there is state that cannot be cut, because it is not one number per element."""
        for slot in self.optimizer._slots:
            held = getattr(self.optimizer, slot)
            pairs = enumerate(held) if isinstance(held, list) else (held or {}).items()
            for key, array in pairs:
                shared = self.arrays.get(key)
                if shared is None:
                    continue
                part = shared.part(self.ranks.rank)
                expected = (part.stop - part.start,)
                if np.shape(array) != expected or array.dtype != shared.dtype:
                    raise NotImplementedError(
                        f"the state {slot}[{key!r}] is {array.dtype} of shape {np.shape(array)}, "
                        f"expected {shared.dtype} of shape {expected}: it cannot be gathered"
                    )

    def gathered(self, interrupts: Interrupts) -> dict[str, Any] | None:
        """The whole state by slot, on rank 0; None on all others."""
        slots = self.optimizer._slots
        names = list(self.arrays)
        held = [getattr(self.optimizer, slot) for slot in slots]
        if not held or held[0] is None:
            return dict.fromkeys(slots) if self.ranks.rank == 0 else None
        there = np.array([key in held[0] for key in names], np.uint8)
        self.ranks.wait(
            self.ranks.comm.Iallreduce(MPI.IN_PLACE, there, MPI.MAX), there, interrupts
        )
        whole = {}
        for slot, container in zip(slots, held, strict=True):
            rest = {key: value for key, value in container.items() if key not in self.arrays}
            full = {
                key: self._whole(key, container.get(key), interrupts)
                for key, is_there in zip(names, there, strict=True)
                if is_there
            }
            whole[slot] = full | rest
        if self.ranks.rank > 0:
            return None
        if self.by_key:
            return whole
        return {slot: self._as_list(container) for slot, container in whole.items()}

    def _whole(self, key: Any, part: np.ndarray | None, interrupts: Interrupts) -> np.ndarray:
        """An array on rank 0, from its parts."""
        shared = self.arrays[key]
        size = shared.dtype.itemsize
        if part is None:
            part = np.empty(0, shared.dtype)
        part = np.ascontiguousarray(part)
        whole = np.zeros(shared.size if self.ranks.rank == 0 else 0, shared.dtype)
        begins = [bound * size for bound in shared.bounds[:-1]]
        sizes = [
            (end - begin) * size
            for begin, end in zip(shared.bounds[:-1], shared.bounds[1:], strict=True)
        ]
        target = [whole.view(np.uint8), (sizes, begins), MPI.BYTE]
        request = self.ranks.comm.Igatherv(
            [part.view(np.uint8), MPI.BYTE], target if self.ranks.rank == 0 else None
        )
        self.ranks.wait(request, (part, whole), interrupts)
        return whole.reshape(shared.shape) if self.ranks.rank == 0 else whole

    def _as_list(self, container: dict[int, Any]) -> list[Any]:
        """State of a list: what was never updated has zeros, to keep the place of the others."""
        last = max(container, default=-1)
        zeros = {
            key: np.zeros(shared.shape, shared.dtype)
            for key, shared in self.arrays.items()
            if key <= last and key not in container
        }
        both = container | zeros
        return [both[key] for key in range(last + 1)]


def _what(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"{type(value).__name__} of dtype {value.dtype}"
    return f"a {type(value).__name__}"


def _check_apart(found: Look) -> None:
    """Raise if two parameters share memory: the order of their updates would be lost."""
    places = []
    for key, value in zip(found.keys, found.values, strict=True):
        if value.size:
            low = high = value.__array_interface__["data"][0]
            for n, stride in zip(value.shape, value.strides, strict=True):
                low, high = low + min(0, (n - 1) * stride), high + max(0, (n - 1) * stride)
            places.append((low, high + value.itemsize, key))
    places.sort(key=lambda place: place[:2])
    for (_, end, key), (begin, _, other) in pairwise(places):
        if begin < end:
            raise ValueError(
                f"params[{key!r}] and params[{other!r}] share memory, expected arrays of their "
                "own for shard_state"
            )
