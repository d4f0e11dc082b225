"""`Locked` and `Rollback` of the engine, for a Python without the compiled extension.

They do the same, but a signal may come between any two of their steps.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, Self, TypeVar

_Result = TypeVar("_Result")

HOPELESS = 100_000  # attempts to put a value back, as in _rollback.pxi


class Locked:
    """What one thread uses at a time: the base of every optimizer."""

    __slots__ = ("_last", "_lock", "_owner", "_process", "_updates")

    _lock: threading.Lock
    _owner: tuple[int, bool] | None  # the thread, and whether it writes
    _process: int
    _last: Any
    _updates: int  # done, where no attribute of the optimizer counts them

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        if kwargs:
            self._check_arguments(args, kwargs)
        self._lock = threading.Lock()
        self._owner = None
        self._process = os.getpid()
        self._last, self._updates = None, 0
        return self

    def _check_arguments(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        raise NotImplementedError

    def __getstate__(self) -> Any:
        """What pickle and copy take: not the lock, a copy has one of its own."""
        state: Any = super().__getstate__()
        attributes, slots = state if isinstance(state, tuple) else (state, {})
        slots = {name: value for name, value in slots.items() if name not in Locked.__slots__}
        return (attributes, slots) if slots else attributes

    def _locked(self, writes: bool, work: Callable[..., _Result], *args: Any) -> _Result:
        """Return ``work(*args)``, called while no other thread uses this object."""
        name, thread = type(self).__name__, threading.get_ident()
        while not self._lock.acquire(timeout=1.0):
            # None is for a moment: another thread has just taken the lock, or is giving it back.
            owner, writing = self._owner or (None, False)
            if owner == thread:
                raise RuntimeError(
                    f"this {name} is in use by this very thread: it was called from within, by a "
                    "container of an update or by a signal handler"
                )
            if self._process != os.getpid():
                if writing:
                    raise RuntimeError(
                        f"another thread was using this {name} when the process was forked, so "
                        "that half of an update is missing here: make a new one"
                    )
                self._lock, self._process = threading.Lock(), os.getpid()
        self._owner, self._process = (thread, writes), os.getpid()
        try:
            return work(*args)
        finally:
            self._owner = None
            self._lock.release()


class Rollback:
    """Puts back, at the end of a ``with`` block that raised, what was changed in it."""

    def __init__(self) -> None:
        self._changes: list[tuple[Any, Any, Any]] = []

    def add(self, container: Any, key: Any, value: Any) -> None:
        """Note the value that ``container[key]`` has before it is changed."""
        self._changes.append((container, key, value))

    def finish(self, function: Callable[..., object], *args: Any) -> None:
        """Call what does the rest: whole, or it raises and nothing of it was done."""
        function(*args)
        self._changes.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        attempts, interrupt = 0, None
        while kind is not None and self._changes:
            container, key, value = self._changes[-1]
            try:
                container[key] = value
            except Exception:
                pass  # a container that takes nothing back; the rest still goes
            except BaseException as again:  # interrupted
                interrupt = again
                attempts += 1
                if attempts < HOPELESS:
                    continue
            self._changes.pop()
            attempts = 0
        if interrupt is not None:
            raise interrupt  # not lost, whatever the first error was
