"""Child processes that start afresh are patched as their parent is.

A forked child inherits everything. A child of multiprocessing's spawn, the server of its
forkserver, and a child of joblib's loky start as an empty interpreter; from the parent they get
``sys.path``, before they import any module of the user's. So ``sys.path`` is sent in a form that
makes the same call there as was made here when it is read. Why in this way:

- An environment variable that a sitecustomize reads would reach every Python that the script
  starts, those of other environments too, and hide the user's own sitecustomize.
- The main module, which a child may import again, would come too late: the fork server may have
  imported others by then, and loky sends functions by value and does not import it at all.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from zdlfast.adapters._imports import unwatch, watch
from zdlfast.adapters._replaced import Replaced

# Each has a function get_preparation_data, which says what a child gets.
_MODULES = ("multiprocessing.spawn", "joblib.externals.loky.backend.spawn", "loky.backend.spawn")

# Where zdlfast lies. Only this is sure to lead a child there: a folder of the user's may hold a
# file of the same name, or the current folder may have been another one.
_FOLDER = str(Path(__file__).parents[2])

#: A module, a function in it, and its keyword arguments.
Call = tuple[str, str, dict[str, object]]

_replaced = Replaced()


class _SysPath(list[str]):
    """A copy of ``sys.path``; where it is read, the call that was given to it is made."""

    def __init__(self, path: Iterable[str], call: Call) -> None:
        super().__init__(path)
        self._source = (
            f"__import__('sys').path.insert(0, {_FOLDER!r}) or "
            f"__import__({__name__!r}, fromlist=['_arrive'])._arrive(*{call})"
        )

    def __repr__(self) -> str:
        # The fork server gets its path on the command line, as the expression that this is.
        return f"({self._source} + {list(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self._source,), None, iter(self)


def _arrive(module: str, function: str, options: dict[str, object]) -> list[str]:
    """In a child, before anything of the user's is imported: make the call, and begin a path."""
    sys.path.remove(_FOLDER)
    getattr(import_module(module), function)(**options)
    return []


def hand_on(function: Callable[..., object], **options: object) -> None:
    """Have every child that starts from now on call this function first, as was done here.

    Parameters
    ----------
    function : callable
        A function of a module: the child finds it by name. It takes the place of an earlier one.
    **options : object
        What it is called with; the representation of each has to be its source.
    """
    hand_nothing_on()
    call = (function.__module__, function.__name__, options)
    for name in _MODULES:
        watch(name, functools.partial(_send, call))


def hand_nothing_on() -> None:
    """Let children start as they would without this module."""
    for name in _MODULES:
        unwatch(name)
    _replaced.restore()


def _send(call: Call, module: ModuleType) -> None:
    """Have what children get make this call where it is read."""
    prepare = vars(module)["get_preparation_data"]

    @functools.wraps(prepare)
    def get_preparation_data(*args: Any, **kwargs: Any) -> dict[str, Any]:
        data: dict[str, Any] = prepare(*args, **kwargs)
        data["sys_path"] = _SysPath(data["sys_path"], call)
        return data

    _replaced.set(module, "get_preparation_data", get_preparation_data)
