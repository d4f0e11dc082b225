"""Hyper-parameters: numbers that are checked whenever they are assigned."""

import math
import numbers
from typing import TYPE_CHECKING, Any

import numpy as np


class Hyperparameter:
    """Descriptor of an attribute that holds a finite Python float in ``[0, below)``.

    There is no ``__get__``: the value lies in the instance's ``__dict__`` under the
    attribute's own name, so that reading it costs what a plain attribute costs and
    pickle, copy and ``vars`` see a plain float.

    Parameters
    ----------
    below : float, optional
        The bound that the value must stay under. Unbounded by default.
    """

    def __init__(self, *, below: float = math.inf) -> None:
        self._below = below

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    if TYPE_CHECKING:

        def __get__(self, instance: object, owner: type | None = None) -> float: ...

    def __set__(self, instance: object, value: Any) -> None:
        instance.__dict__[self._name] = self._checked(value)

    def _checked(self, value: Any) -> float:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        # A flag is an int to Python; as a rate it is a mistake.
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{self._name} must be a number, got {value!r}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (0.0 <= number < self._below):
            bounds = ">= 0 and finite" if self._below == math.inf else f"in [0, {self._below:g})"
            raise ValueError(f"{self._name} must be {bounds}, got {value!r}")
        return number
