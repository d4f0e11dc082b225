"""A module in place of another: its own names come first, the hidden module has the others."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

from zdlfast.adapters._imports import find_elsewhere


class Finder(MetaPathFinder, Loader):
    """Answers imports of one module, whatever lies on ``sys.path``.

    The package around it stays as it is, if there is one; an empty one stands in where there
    is none.

    Parameters
    ----------
    module : str
        The module's full name.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.package = module.rpartition(".")[0]
        self.answers: Mapping[str, object] = {}
        self.further: Mapping[str, object] = {}
        self._answers_to: Callable[[str], Mapping[str, object]] = lambda source: {}
        self._hidden: ModuleType | None = None
        self._package_was: str | None = None  # what is not a package without this finder
        self._lock = RLock()  # re-entrant: the hidden module may lead to an import of this one

    def install(
        self,
        answers_to: Callable[[str], Mapping[str, object]],
        further: Mapping[str, object] | None = None,
    ) -> bool:
        """Let every later import give these names.

        Parameters
        ----------
        answers_to : callable
            Gives the objects by their names in the module, if it is told the source of the hidden
            one, which is empty if there is none.
        further : mapping, optional
            Objects that are given to who asks for their names, unless the hidden module has them.

        Returns
        -------
        bool
            Whether the import comes too late: the hidden module was imported already.
        """
        self._answers_to, self.further = answers_to, further or {}
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        sys.meta_path.insert(0, self)
        loaded = sys.modules.get(self.module)
        if loaded is None:
            return False
        if isinstance(loaded, StandIn):
            self._answer(loaded)
            return False
        self._hidden = loaded
        self._set_module(module_from_spec(ModuleSpec(self.module, self)))
        return True

    def remove(self) -> None:
        """Let imports give again what they gave before `install`."""
        sys.meta_path.remove(self)
        if isinstance(sys.modules.get(self.module), StandIn):
            self._set_module(self._hidden)
        self._hidden = None
        if self._package_was == "nothing":
            sys.modules.pop(self.package, None)
        elif self._package_was == "module" and self.package in sys.modules:
            vars(sys.modules[self.package]).pop("__path__", None)
        self._package_was = None

    def _set_module(self, module: ModuleType | None) -> None:
        """Put a module, or none, where imports look for it first."""
        places = [(sys.modules, self.module)]
        if self.package in sys.modules:
            places.append((vars(sys.modules[self.package]), self.module.rpartition(".")[2]))
        for namespace, name in places:
            if module is None:
                namespace.pop(name, None)
            else:
                namespace[name] = module

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == self.module:
            return ModuleSpec(name, self)
        if name != self.package:
            return None
        spec = find_elsewhere(self, name, path)
        if spec is None:
            self._package_was = "nothing"
            spec = ModuleSpec(name, None, is_package=True)
        if spec.submodule_search_locations is None:
            self._package_was = self._package_was or "module"
            spec.submodule_search_locations = []
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = StandIn(spec.name)
        self._answer(module)
        return module

    def _answer(self, module: "StandIn") -> None:
        self.answers = self._answers_to(self._hidden_source())
        vars(module).update(self.answers)

    def exec_module(self, module: ModuleType) -> None:
        pass

    def _hidden_source(self) -> str:
        spec = self._hidden_spec()
        if spec is None or not isinstance(spec.loader, InspectLoader):
            return ""
        try:
            return spec.loader.get_source(self.module) or ""
        except (ImportError, SyntaxError):
            return ""

    def _hidden_spec(self) -> ModuleSpec | None:
        return find_elsewhere(self, self.module, sys.modules[self.package].__path__)

    def hidden(self) -> ModuleType | None:
        """The module that would be imported if this finder were not there, if there is one.

        It is executed when it is first asked for, under its own name but outside ``sys.modules``.
        """
        with self._lock:
            if self._hidden is None:
                spec = self._hidden_spec()
                if spec is None or spec.loader is None:
                    return None
                self._hidden = module_from_spec(spec)
                try:
                    spec.loader.exec_module(self._hidden)
                except BaseException:
                    self._hidden = None
                    raise
            return self._hidden


class StandIn(ModuleType):
    """What is imported in place of the hidden module; its loader is a `Finder`."""

    @property
    def __all__(self) -> list[str]:
        finder: Finder = vars(self)["__loader__"]
        # Who imports everything may need no more than our names, so that a hidden module that
        # cannot be imported does not matter. Who asks for one of its names is told.
        try:
            hidden = finder.hidden()
        except Exception:
            hidden = None
        public = getattr(hidden, "__all__", None)
        if public is None:
            public = [name for name in getattr(hidden, "__dict__", ()) if name[0] != "_"]
        return list(dict.fromkeys([*finder.answers, *public]))

    def __getattr__(self, name: str) -> Any:
        finder: Finder = vars(self)["__loader__"]
        # Python itself asks modules for names such as __path__ at every import.
        is_special = name.startswith("__") and name.endswith("__")
        hidden = None if is_special else finder.hidden()
        if name in finder.further and not hasattr(hidden, name):
            return finder.further[name]
        if hidden is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(hidden, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})
