"""What happens when a module is imported: who finds it, and who waits for it."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def find_elsewhere(
    finder: MetaPathFinder, name: str, path: Sequence[str] | None
) -> ModuleSpec | None:
    """Where a module lies for the finders other than this one.

    Parameters
    ----------
    finder : MetaPathFinder
        The one that asks.
    name : str
        The module's full name.
    path : sequence of str or None
        Where to look: the ``__path__`` of the package that it belongs to, if any.

    Returns
    -------
    ModuleSpec or None
        What they found first.
    """
    others = (
        other.find_spec(name, path)
        for other in sys.meta_path
        if other is not finder and hasattr(other, "find_spec")
    )
    return next(filter(None, others), None)


def watch(module: str, function: Callable[[ModuleType], None]) -> None:
    """Call a function with a module: now if it is imported already, and whenever it will be.

    Parameters
    ----------
    module : str
        The module's full name.
    function : callable
        It takes the place of an earlier one for the same module.
    """
    _watcher.functions[module] = function
    if _watcher not in sys.meta_path:
        sys.meta_path.insert(0, _watcher)
    if module in sys.modules:
        function(sys.modules[module])


def unwatch(module: str) -> None:
    """Call nothing any more when this module is imported."""
    _watcher.functions.pop(module, None)
    if not _watcher.functions and _watcher in sys.meta_path:
        sys.meta_path.remove(_watcher)


class _Watcher(MetaPathFinder):
    """Finds nothing itself: it has what the others find loaded by a `_Loader`."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[[ModuleType], None]] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = find_elsewhere(self, name, path) if name in self.functions else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.functions[name])
        return spec


class _Loader(Loader):
    """Another loader, until it has loaded its module."""

    def __init__(self, loader: Loader, function: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._function = function

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__loader__"] = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._function(module)


_watcher = _Watcher()
