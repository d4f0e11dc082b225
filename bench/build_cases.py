"""Updates of every kind by the zdlfast of this process: what two builds are compared on."""

import hashlib
import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import worker
from bench.timing import MOST_REPEATS, Run

RULES, DTYPES = ["Adam", "SGD"], ["float32", "float64"]
CHECKED_STEPS = 3
SCATTERED = 4000
# NumPy's smallest call, by which costs are told apart from the machine's speed.
ADD = "np.add"

Shape = tuple[int, ...]
Draw = Callable[[Shape], np.ndarray]
Dicts = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """What is updated, and how."""

    make: Callable[[Draw], Dicts]  # parameters and gradients
    first: bool = False  # each update is the first one of a new optimizer
    dtypes: tuple[str, ...] = tuple(DTYPES)


def plain(*shapes: Shape) -> Callable[[Draw], Dicts]:
    def make(draw: Draw) -> Dicts:
        params = {str(i): draw(shape) for i, shape in enumerate(shapes)}
        return params, {key: draw(value.shape) for key, value in params.items()}

    return make


def odd(count: int, size: int) -> Callable[[Draw], Dicts]:
    """Plain arrays and a NumPy scalar in the middle of them."""

    def make(draw: Draw) -> Dicts:
        params, grads = plain(*[(size,)] * count)(draw)
        middle = str(count // 2)
        params[middle], grads[middle] = params[middle][0], grads[middle][0]
        return params, grads

    return make


def strided(draw: Draw) -> Dicts:
    return {"W": draw((100, 1000))}, {"W": draw((1000, 100)).T}


def byte_swapped(draw: Draw) -> Dicts:
    params, grads = plain((100_000,))(draw)
    swapped = params["0"].dtype.newbyteorder()
    return tuple({"0": d["0"].astype(swapped)} for d in (params, grads))  # type: ignore[return-value]


NET = ((784, 50), (50,), (50, 100), (100,), (100, 10), (10,))  # the book's
ONE, THOUSAND = "1 × 1", "1,000 × 10"
# How many arrays of how many elements; the scalar is one of them, odd because it is no array.
KINDS: dict[str, Kind] = {
    "784-50-100-10": Kind(plain(*NET)),
    ONE: Kind(plain((1,))),
    "1 × 1,000": Kind(plain((1_000,))),
    "1 × 100,000": Kind(plain((100_000,))),
    "1 × 10,000,000": Kind(plain((10_000_000,))),
    THOUSAND: Kind(plain(*[(10,)] * 1000)),
    "strided 100,000": Kind(strided),
    "byte-swapped 100,000": Kind(byte_swapped),
    "10 × 100": Kind(plain(*[(100,)] * 10)),
    "10 × 100 + scalar": Kind(odd(10, 100)),
    "1,000 × 100": Kind(plain(*[(100,)] * 1000)),
    "1,000 × 100 + scalar": Kind(odd(1000, 100)),
    "2 Python floats": Kind(lambda draw: ({"x": -7.0, "y": 2.0}, {"x": -0.7, "y": 4.0}),
                            dtypes=("float64",)),
    "first 784-50-100-10": Kind(plain(*NET), first=True),
    "first 10 × 100": Kind(plain(*[(100,)] * 10), first=True),
}  # fmt: skip


def scatter() -> list[bytearray]:
    """Fill memory with blocks of chance sizes at chance places, and keep every other one.

    Else all arrays would lie as the path of this build happens to move them, and what the caches
    make of that would look like a difference between two builds.
    """
    sizes = np.random.default_rng().integers(16, 1024, SCATTERED)
    return [bytearray(int(size)) for size in sizes][::2]


def prepare(command: dict[str, Any], origin: str) -> tuple[dict[str, Run], dict[str, Any]]:
    """Take some steps, and tell the hash of what they lead to."""
    import zdlfast

    kind, dtype = KINDS[command["kind"]], np.dtype(command["dtype"])
    holes = scatter()
    rng = np.random.default_rng(8)
    params, grads = kind.make(lambda shape: rng.standard_normal(shape).astype(dtype))
    make: Callable[[], Any] = getattr(zdlfast, command["rule"])
    optimizer = make()
    for _ in range(CHECKED_STEPS):
        optimizer.update(params, grads)
    values = hashlib.sha256()
    for value in params.values():
        values.update(np.ascontiguousarray(value).tobytes())
    run = Run(partial(optimizer.update, params, grads))
    del holes
    if kind.first:
        # A list's iterator keeps its items alive: nothing is freed while time is taken.
        fresh = iter([optimizer])

        def renew() -> None:
            nonlocal fresh
            fresh = iter([make() for _ in range(MOST_REPEATS)])

        run = Run(lambda: next(fresh).update(params, grads), renew)
    a, b = np.ones(1), np.ones(1)
    about = {"values": values.hexdigest(), "zdlfast": zdlfast.build_info(), "origin": origin}
    return {"update": run, ADD: Run(lambda: np.add(a, b, out=a))}, about


def serve(threads: str, folder: str) -> None:
    """Time a fresh copy, in this folder, of the zdlfast that is installed.

    A file's code lies in memory wherever it was first read to, for every process and for days;
    between two copies of the same file this makes a difference of up to 15 %.
    """
    spec = importlib.util.find_spec("zdlfast")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("zdlfast is not installed for this Python")
    sources = shutil.ignore_patterns("*.c", "*.h", "*.py[cx]", "*.px[di]")
    shutil.copytree(Path(spec.origin).parent, Path(folder, "zdlfast"), ignore=sources)
    sys.path.insert(0, folder)
    worker.serve(partial(prepare, origin=spec.origin), int(threads))
