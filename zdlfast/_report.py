"""What ``python -m zdlfast`` says on stderr when the script has ended."""

import atexit
import functools
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from time import perf_counter
from typing import Any

#: Updates and the seconds in them, by the name of the class.
Totals = dict[str, tuple[int, float]]


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


def count_updates(classes: Iterable[type]) -> Totals:
    """Have each class count its updates and their time from now on.

    Parameters
    ----------
    classes : iterable of type
        Optimizers.

    Returns
    -------
    dict
        The totals so far, which go on to change.
    """
    totals: Totals = {}
    lock = Lock()

    def counted(update: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(update)
        def count(self: object, *args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            result = update(self, *args, **kwargs)
            seconds = perf_counter() - start
            name = type(self).__name__
            with lock:
                updates, before = totals.get(name, (0, 0.0))
                totals[name] = updates + 1, before + seconds
            return result

        return count

    for cls in classes:
        cls.update = counted(cls.update)  # type: ignore[attr-defined]
    return totals


def table(totals: Totals) -> list[str]:
    """The totals as lines of text."""
    rows = [("optimizer", "updates", "seconds", "microseconds each")]
    for name, (updates, seconds) in totals.items():
        rows.append((name, f"{updates:,}", f"{seconds:.3f}", f"{seconds / updates * 1e6:.1f}"))
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([name.ljust(first), *map(str.rjust, cells, widths)]) for name, *cells in rows
    ]
