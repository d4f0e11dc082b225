"""Checkpoints: all in one file, or a part of each rank in a file of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zdlfast import _pieces, _state
from zdlfast._encoded import EncodedState
from zdlfast._files import save
from zdlfast.mpi._layout import Item, cut
from zdlfast.mpi._shards import Shards, Shared

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer


def write_whole(path: Any, optimizer: "Optimizer", state: Any, params: Any) -> None:
    """Write an optimizer to one file, with this state by slot in the place of its own."""
    save(path, optimizer if state is None else _with_state(optimizer, state), params)


def write_part(folder: Any, shards: Shards, params: Any) -> None:
    """Write what a rank has, or would have, of an optimizer and its parameters."""
    folder, ranks = Path(folder), shards.ranks
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _Pieces(shards, params)
    optimizer = shards.optimizer
    state = {slot: pieces.of_state(getattr(optimizer, slot)) for slot in optimizer._slots}
    path = folder / _pieces.name_of(ranks.rank, ranks.size)
    save(path, _with_state(optimizer, state), pieces.of_params(params))


def remove_others(folder: Any, ranks: int) -> None:
    """Remove what another number of ranks has written to a folder before."""
    for path in _pieces.others(Path(folder), ranks):
        path.unlink()


class _Pieces:
    """What a rank writes of all arrays."""

    def __init__(self, shards: Shards, params: Any) -> None:
        optimizer = shards.optimizer
        self.rank, self.parts = shards.ranks.rank, shards.arrays
        containers = [params, *(getattr(optimizer, slot) for slot in optimizer._slots)]
        self.by_key = shards.by_key
        if self.by_key is None:
            self.by_key = not any(isinstance(container, list) for container in containers)
        whole: dict[Any, np.ndarray] = {}
        encoded = set()
        for container in containers:
            for key, value in _pairs(container):
                if isinstance(value, np.ndarray):
                    whole.setdefault(key, value)
                elif isinstance(value, EncodedState):
                    encoded.add(key)
        # State that is encoded is not cut: rank 0 writes it.
        whole = {
            key: value
            for key, value in whole.items()
            if key not in self.parts and key not in encoded
        }
        items = [Item(array.size, array.dtype) for array in whole.values()]
        self.shared = dict(self.parts)
        for (key, array), bounds in zip(whole.items(), cut(items, shards.ranks.size), strict=True):
            self.shared[key] = Shared(array.shape, array.dtype, bounds)
        keys = [*self.parts, *(key for container in containers for key, _ in _pairs(container))]
        self.places = {
            key: place if self.by_key else key for place, key in enumerate(dict.fromkeys(keys))
        }

    def of_state(self, container: Any) -> dict[Any, Any] | None:
        if container is None:
            return None
        pieces: dict[Any, Any] = {}
        for key, value in _pairs(container):
            self._add(pieces, key, value, key in self.parts)
        for key, shared in self.parts.items():
            # In a list, what was never updated keeps the place of those behind it.
            if not self.by_key and key not in container and shared.is_of(self.rank):
                part = shared.part(self.rank)
                zeros = np.zeros(part.stop - part.start, shared.dtype)
                self._add(pieces, key, zeros, True)
        return pieces

    def of_params(self, container: Any) -> dict[Any, Any] | None:
        if container is None:
            return None
        pieces: dict[Any, Any] = {}
        for key, value in _pairs(container):
            self._add(pieces, key, value, False)
        return pieces

    def _add(self, pieces: dict[Any, Any], key: Any, value: Any, is_part: bool) -> None:
        place, by_key = self.places[key], bool(self.by_key)
        shared = self.shared.get(key)
        if shared is None or not isinstance(value, np.ndarray):
            if self.rank == 0:
                pieces[_pieces.key_of(by_key, place, key, 0, np.shape(value))] = value
            return
        part = shared.part(self.rank)
        if shared.is_of(self.rank):
            piece = value if is_part else np.ascontiguousarray(value).reshape(-1)[part]
            pieces[_pieces.key_of(by_key, place, key, part.start, shared.shape)] = piece


def _pairs(container: Any) -> list[tuple[Any, Any]]:
    if container is None:
        return []
    keys = container.keys() if hasattr(container, "keys") else range(len(container))
    return [(key, container[key]) for key in keys]


def _with_state(optimizer: "Optimizer", state: dict[str, Any]) -> "Optimizer":
    """An optimizer like this one, with other state: without a copy of its arrays."""
    content = _state.collect(optimizer, copies=False)
    content["state"] = {
        slot: {
            key: value.to_dict() if isinstance(value, EncodedState) else value
            for key, value in container.items()
        }
        if isinstance(container, dict)
        else container
        for slot, container in state.items()
    }
    other: Optimizer = type(optimizer)()
    # Functions are taken from there.
    for name in ("lr", "overrides"):
        object.__setattr__(other, name, getattr(optimizer, name))
    _state.restore(other, content, copies=False)
    return other
