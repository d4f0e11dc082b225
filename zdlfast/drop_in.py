"""The drop-in: ``common.optimizer``, the book's module, answered by zdlfast."""

import warnings

import numpy as np

from zdlfast._children import hand_on
from zdlfast._finder import Finder
from zdlfast._optimizer import Optimizer
from zdlfast._rules import RULES

MODULE = "common.optimizer"

_finder = Finder(MODULE)


def classes(*, reference: bool) -> dict[str, type[Optimizer]]:
    """The classes that `patch` gives, by the book's names."""
    book = [rule for rule in RULES.values() if rule.book]
    return {rule.name: rule.twin if reference else rule.fast for rule in book}


def patch(*, reference: bool = False) -> None:
    """Let every later import of ``common.optimizer`` give zdlfast's classes.

    Call it before the book's modules are imported. ``common`` itself stays the book's, and so do
    the names in ``common.optimizer`` that zdlfast does not have. Child processes are patched too.

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
    # The book's scripts take np from here too: "from common.optimizer import *".
    too_late = _finder.install({"np": np, **classes(reference=reference)})
    if too_late:
        warnings.warn(
            f"{MODULE} was imported before zdlfast.patch(): names that were taken from it "
            "already are still its own",
            RuntimeWarning,
            stacklevel=2,
        )
    hand_on(patch, reference=reference)
