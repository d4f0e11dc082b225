"""Checkpoints of which each process has written a part: the names of the parts, and the whole.

A part is a file as `zdlfast.save` writes it, of an optimizer whose arrays are pieces. The key of a
piece says where it belongs: the kind of container, the place and the key in it, the first
element and the shape of the whole.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

_NAME = re.compile(r"rank-(\d+)-of-(\d+)\.npz")


def name_of(rank: int, ranks: int) -> str:
    """The file of a rank, in the folder of a checkpoint."""
    return f"rank-{rank}-of-{ranks}.npz"


def others(folder: Path, ranks: int) -> Iterator[Path]:
    """The files of a checkpoint that another number of ranks has written there."""
    for path in folder.iterdir():
        found = _NAME.fullmatch(path.name)
        if found and int(found[2]) != ranks:
            yield path


def files_of(folder: Path) -> list[Path]:
    """The files of a checkpoint, in the order of the ranks."""
    numbers = {int(found[2]) for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))}
    if not numbers:
        raise IsADirectoryError(f"{folder} is a folder without a checkpoint, rank-0-of-n.npz")
    if len(numbers) > 1:
        raise ValueError(f"there are checkpoints of {sorted(numbers)} ranks, expected one")
    (ranks,) = numbers
    return [folder / name_of(rank, ranks) for rank in range(ranks)]


def key_of(
    by_key: bool, place: int, key: Any, start: int, shape: tuple[int, ...]
) -> tuple[Any, ...]:
    """The key of a piece."""
    return ("dict" if by_key else "list", place, key, start, *shape)


def joined(parts: Sequence[tuple["Optimizer", Any]]) -> tuple["Optimizer", Any]:
    """The whole of what the files of a checkpoint hold."""
    optimizer = parts[0][0]
    found = {(type(each).__name__, each.updates) for each, _ in parts}
    if len(found) > 1:
        raise ValueError(
            "the files are of different checkpoints: "
            + ", ".join(f"{name} after {count} updates" for name, count in sorted(found))
        )
    for slot in optimizer._slots:
        whole = _whole(slot, [getattr(each, slot) for each, _ in parts])
        object.__setattr__(optimizer, slot, whole)
    optimizer._was_loaded()
    return optimizer, _whole("params", [params for _, params in parts])


def _whole(what: str, containers: Sequence[dict[Any, Any] | None]) -> Any:
    """The container that these are the pieces of."""
    pieces = [pair for container in containers for pair in (container or {}).items()]
    if all(container is None for container in containers):
        return None
    kinds = {key[0] for key, _ in pieces}
    found: dict[Any, tuple[Any, Any]] = {}  # by place: key and array
    missing: dict[Any, int] = {}
    for (_, place, key, start, *shape), piece in pieces:
        if not isinstance(piece, np.ndarray):
            found[place] = key, piece
            continue
        if place not in found:
            found[place] = key, np.empty(shape, piece.dtype)
            missing[place] = math.prod(shape)
        found[place][1].reshape(-1)[start : start + piece.size] = piece.reshape(-1)
        missing[place] -= piece.size
    for place, elements in missing.items():
        if elements:
            raise ValueError(f"{elements} elements of {what}[{found[place][0]!r}] are missing")
    pairs = [found[place] for place in sorted(found)]
    if kinds == {"list"}:
        return [value for _, value in pairs]
    return dict(pairs)
