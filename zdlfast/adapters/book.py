"""The book's ``common.optimizer``, answered by zdlfast's classes of the same names."""

import warnings
from typing import Any

import numpy as np

from zdlfast._optimizer import Optimizer
from zdlfast._rules import RULES
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
        classes = self._classes(reference)
        self._replaced.restore()
        if counter is not None:
            for cls in classes.values():
                self._replaced.set(cls, "update", counter.counted(cls.update))
        # The book's scripts take np from here too: "from common.optimizer import *".
        names: dict[str, Any] = {"np": np, **classes}
        if self._finder.install(names):
            warnings.warn(
                f"{self.module} was imported before zdlfast.patch(): names that were taken from "
                "it already are still its own",
                RuntimeWarning,
                stacklevel=4,
            )

    def remove(self) -> None:
        self._finder.remove()
        self._replaced.restore()

    def _classes(self, reference: bool) -> dict[str, type[Optimizer]]:
        """What the module gives, by the book's names."""
        rules = [rule for rule in RULES.values() if rule.book]
        return {rule.name: rule.twin if reference else rule.fast for rule in rules}


adapter = Book()
