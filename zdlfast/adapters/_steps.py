"""The steps of another framework's optimizer, taken by one of zdlfast's."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from zdlfast._optimizer import Optimizer
from zdlfast._rules import RULES


class Patch:
    """One replaced method: what it was, and who takes its steps.

    Parameters
    ----------
    module : module
        The framework's, as its adapter names it.
    own : callable
        The framework's own method.
    reference : bool
        Whether plain NumPy takes the steps, `zdlfast.reference`.
    """

    def __init__(self, module: ModuleType, own: Callable[..., Any], reference: bool) -> None:
        self.module = module
        self.own = own
        self._reference = reference
        self._classes: dict[str, type[Optimizer]] = {}
        # Beside the framework's objects and not in them, so that a pickle of one knows no zdlfast.
        self._counterparts: WeakKeyDictionary[Any, Optimizer] = WeakKeyDictionary()

    def counterpart(self, optimizer: object, rule: str, **attributes: Any) -> Any:
        """zdlfast's optimizer that takes the steps of this one of the framework.

        Parameters
        ----------
        optimizer : object
            The framework's. It is the same counterpart that is returned for it every time.
        rule : str
            The name of the rule.
        **attributes : float or int
            The options and the step count of the coming step.

        Returns
        -------
        Optimizer or None
            None if zdlfast takes no such value.
        """
        cls = self._classes.get(rule)
        if cls is None:
            row = RULES[rule]
            cls = self._classes[rule] = row.twin if self._reference else row.fast
        found = self._counterparts.get(optimizer)
        if type(found) is not cls:
            found = self._counterparts[optimizer] = cls()
        try:
            for name, value in attributes.items():
                if getattr(found, name) != value:
                    setattr(found, name, value)
        except (TypeError, ValueError):
            return None
        return found


def dtypes_of(*containers: Iterable[Any]) -> set[np.dtype[Any]]:
    """The dtypes of all these arrays, if kernels take them and get what NumPy would.

    Returns
    -------
    set of dtype
        Of float32, float64 or both. Empty if anything is no exact array of these, or a 0-d array:
        NumPy may compute with those as with numbers, of another dtype.
    """
    found = set()
    for arrays in containers:
        for array in arrays:
            if type(array) is not np.ndarray or array.ndim == 0:
                return set()
            found.add(array.dtype)
    return found if found <= _BOTH else set()


def are_numbers(values: Iterable[Any], dtypes: set[np.dtype[Any]]) -> bool:
    """Whether NumPy takes these options as a kernel does, beside arrays of these dtypes.

    An option that is an ``np.float64`` (as in a grid of ``np.logspace``) lifts float32 arrays to
    float64 with NumPy 2. Python's numbers lift nothing.
    """
    kinds = _NUMBERS if _FLOAT32 in dtypes else _NUMBERS_FOR_FLOAT64
    return all(type(value) in kinds for value in values)


def fits(state: Any, param: np.ndarray) -> bool:
    """Whether state is an array of its parameter's shape and dtype."""
    return type(state) is np.ndarray and state.shape == param.shape and state.dtype == param.dtype


_FLOAT32 = np.dtype(np.float32)
_BOTH = {_FLOAT32, np.dtype(np.float64)}
_NUMBERS = (float, int)
_NUMBERS_FOR_FLOAT64 = (float, int, np.float64)
