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
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from zdlfast._finder import find_elsewhere

# Each has a function get_preparation_data, which says what a child gets.
_MODULES = ("multiprocessing.spawn", "joblib.externals.loky.backend.spawn", "loky.backend.spawn")

# Where zdlfast lies. Only this is sure to lead a child there: a folder of the user's may hold a
# file of the same name, or the current folder may have been another one.
_FOLDER = str(Path(__file__).parents[1])


class _SysPath(list[str]):
    """A copy of ``sys.path``; where it is read, the call that was given to it is made."""

    def __init__(self, path: Iterable[str], call: tuple[str, str, dict[str, object]]) -> None:
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


class _Finder(MetaPathFinder):
    """Lets what children get be changed as soon as a module that sends it is imported."""

    def __init__(self) -> None:
        self.call: tuple[str, str, dict[str, object]]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = find_elsewhere(self, name, path) if name in _MODULES else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec

    def wrap(self, module: ModuleType) -> None:
        prepare = vars(module)["get_preparation_data"]

        @functools.wraps(prepare)
        def get_preparation_data(*args: Any, **kwargs: Any) -> dict[str, Any]:
            data: dict[str, Any] = prepare(*args, **kwargs)
            data["sys_path"] = _SysPath(data["sys_path"], self.call)
            return data

        vars(module)["get_preparation_data"] = get_preparation_data


class _Loader(Loader):
    """Another loader, until it has loaded its module."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__loader__"] = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _finder.wrap(module)


_finder = _Finder()


def hand_on(function: Callable[..., object], **options: object) -> None:
    """Have every child that starts from now on call this function first, as was done here.

    Parameters
    ----------
    function : callable
        A function of a module: the child finds it by name.
    **options : object
        What it is called with; the representation of each has to be its source.
    """
    _finder.call = (function.__module__, function.__name__, options)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
        for name in _MODULES:
            if name in sys.modules:
                _finder.wrap(sys.modules[name])
