"""The drop-in: ``common.optimizer``, the book's module, answered by zdlfast."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from types import ModuleType

import numpy as np

from zdlfast._rules import BOOK

PACKAGE, MODULE = "common", "common.optimizer"


class _Finder(MetaPathFinder, Loader):
    """Answers imports of the book's module, whatever lies on ``sys.path``.

    The package around it stays the book's own, if there is one; an empty one stands in where
    there is none.
    """

    def __init__(self, source: ModuleType) -> None:
        self.source = source

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == MODULE:
            return ModuleSpec(name, self)
        if name != PACKAGE:
            return None
        others = (
            finder.find_spec(name, path, target)
            for finder in sys.meta_path
            if finder is not self and hasattr(finder, "find_spec")
        )
        spec = next(filter(None, others), None) or ModuleSpec(name, None, is_package=True)
        if spec.submodule_search_locations is None:
            spec.submodule_search_locations = []
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name, self.source.__doc__)
        # The book's scripts take np from here too: "from common.optimizer import *".
        vars(module)["np"] = np
        for name in BOOK:
            vars(module)[name] = getattr(self.source, name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def patch(*, reference: bool = False) -> None:
    """Let every later import of ``common.optimizer`` give zdlfast's classes.

    Call it before the book's modules are imported. ``common`` itself stays the book's.

    Parameters
    ----------
    reference : bool, default False
        Take the classes of `zdlfast.reference`, the same rules in plain NumPy, to compare.

    Warns
    -----
    RuntimeWarning
        ``common.optimizer`` was imported already: what other modules took from it stays.

    Examples
    --------
    >>> import zdlfast
    >>> zdlfast.patch()
    >>> from common.optimizer import Adam
    >>> Adam is zdlfast.Adam
    True
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    finder = _Finder(import_module(f"zdlfast.{'reference' if reference else 'optimizers'}"))
    sys.meta_path.insert(0, finder)
    loaded = sys.modules.get(MODULE)
    if loaded is None:
        return
    if not isinstance(loaded.__loader__, _Finder):
        warnings.warn(
            f"{MODULE} was imported before zdlfast.patch(): names that were taken from it "
            "already are still its own",
            RuntimeWarning,
            stacklevel=2,
        )
    module = module_from_spec(ModuleSpec(MODULE, finder))
    sys.modules[MODULE] = module
    if PACKAGE in sys.modules:
        vars(sys.modules[PACKAGE])["optimizer"] = module
