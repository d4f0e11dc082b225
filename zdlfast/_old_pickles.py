"""Optimizers in pickles of protocol 0 and 1, as older versions and the book's classes write them.

Such a pickle has its objects made by ``copyreg._reconstructor``, which calls ``object.__new__``.
Python does not allow that for a class whose base is written in C, as an optimizer's lock is. So
optimizers are made by their own ``__new__`` there, and all else as ever.
"""

import copyreg
from functools import wraps
from typing import Any

from zdlfast._optimizer import Optimizer

_make: Any = vars(copyreg)["_reconstructor"]


@wraps(_make)  # under its name, by which pickles ask for it
def _reconstructor(cls: type, base: type, state: Any) -> Any:
    if issubclass(cls, Optimizer):
        return cls.__new__(cls)
    return _make(cls, base, state)


vars(copyreg)["_reconstructor"] = _reconstructor
