"""What ``python -m zdlfast`` says on stderr when the script has ended."""

import atexit
import functools
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock, local
from time import perf_counter
from typing import Any


def tell_at_end(lines: Callable[[], Iterable[str]]) -> None:
    """Print these lines after all that the script prints.

    Parameters
    ----------
    lines : callable
        Gives the lines. It is called when the process ends, but not in its forks.
    """
    process = os.getpid()

    def tell() -> None:
        # The script may have closed stderr, or put anything in its place.
        if os.getpid() == process and sys.stderr is not None:
            with suppress(OSError, ValueError):
                for line in lines():
                    print(line, file=sys.stderr)

    atexit.register(tell)


class Counter:
    """Counts updates and their time, for a table of them.

    Attributes
    ----------
    totals : dict
        Updates and the seconds in them, by the name of the optimizer.
    """

    def __init__(self) -> None:
        self.totals: dict[str, tuple[int, float]] = {}
        self._lock = Lock()
        self._thread = local()  # has ``inside`` while an update is counted

    def counted(self, update: Callable[..., Any], prefix: str = "") -> Callable[..., Any]:
        """The same method, counted; what it calls in its turn is not counted again.

        Parameters
        ----------
        update : callable
            A method of an optimizer.
        prefix : str
            What stands before the name of the class.
        """

        @functools.wraps(update)
        def count(optimizer: object, *args: Any, **kwargs: Any) -> Any:
            if getattr(self._thread, "inside", False):
                return update(optimizer, *args, **kwargs)
            self._thread.inside = True
            start = perf_counter()
            try:
                result = update(optimizer, *args, **kwargs)
            finally:
                self._thread.inside = False
            seconds = perf_counter() - start
            name = prefix + type(optimizer).__name__
            with self._lock:
                updates, before = self.totals.get(name, (0, 0.0))
                self.totals[name] = updates + 1, before + seconds
            return result

        return count

    def table(self) -> list[str]:
        """The totals as lines of text."""
        rows = [("optimizer", "updates", "seconds", "microseconds each")]
        for name, (updates, seconds) in self.totals.items():
            rows.append((name, f"{updates:,}", f"{seconds:.3f}", f"{seconds / updates * 1e6:.1f}"))
        first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        return [
            "  ".join([name.ljust(first), *map(str.rjust, cells, widths)]) for name, *cells in rows
        ]
