"""The book's ``common.optimizer``, answered by zdlfast's classes of the same names."""

import ast
import warnings
from typing import Any

import numpy as np

from zdlfast._optimizer import Optimizer
from zdlfast._rules import PUBLIC
from zdlfast.adapters._adapter import Adapter
from zdlfast.adapters._replaced import Replaced
from zdlfast.adapters._report import Counter
from zdlfast.adapters._stand_in import Finder


class Book(Adapter):
    """Lets imports of the book's module give zdlfast's classes.

    Not methods are replaced but the module: so it need not be there, nor be importable, and the
    classes have what zdlfast's have, such as ``eps``.
    """

    name = "book"
    module = "common.optimizer"

    def __init__(self) -> None:
        self._finder = Finder(self.module)
        self._replaced = Replaced()

    def install(self, reference: bool, counter: Counter | None) -> None:
        classes, further = (self._classes(reference, book) for book in (True, False))
        self._replaced.restore()
        if counter is not None:
            for cls in (*classes.values(), *further.values()):
                self._replaced.set(cls, "update", counter.counted(cls.update))

        def answers_to(source: str) -> dict[str, Any]:
            own = {"Nesterov": further["NesterovBook2"]} if _is_book2s(source) else {}
            # The book's scripts take np from here too: "from common.optimizer import *".
            return {"np": np, **classes, **own}

        if self._finder.install(answers_to, further):
            warnings.warn(
                f"{self.module} was imported before zdlfast.patch(): names that were taken from "
                "it already are still its own",
                RuntimeWarning,
                stacklevel=4,
            )

    def remove(self) -> None:
        self._finder.remove()
        self._replaced.restore()

    def _classes(self, reference: bool, book: bool) -> dict[str, type[Optimizer]]:
        """The classes of the book's names, or the others, for scripts that ask for them."""
        rules = [rule for rule in PUBLIC.values() if rule.book == book]
        return {rule.name: rule.twin if reference else rule.fast for rule in rules}


def _is_book2s(source: str) -> bool:
    """Whether the Nesterov of a module is book 2's: it changes velocities before parameters.

    Copies of book 1 from before 2021 have it too.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    for cls in ast.walk(tree):
        if not (isinstance(cls, ast.ClassDef) and cls.name == "Nesterov"):
            continue
        changed = [node for node in ast.walk(cls) if isinstance(node, ast.AugAssign)]
        first = min(changed, key=lambda node: node.lineno, default=None)
        return first is not None and ast.unparse(first.target).startswith("self.v[")
    return False


adapter = Book()
