"""Initial values of weights (book 1, section 6.2)."""

import math

import numpy as np
from numpy.typing import DTypeLike

from zdlfast.nn._checks import number


class Initializer:
    """Draws the initial weights of a layer from a normal distribution around 0."""

    def std(self, fan_in: int) -> float:
        """The standard deviation for a layer of so many inputs."""
        raise NotImplementedError

    def __call__(
        self, shape: tuple[int, int], rng: np.random.Generator, dtype: DTypeLike = np.float64
    ) -> np.ndarray:
        """Draw weights.

        Parameters
        ----------
        shape : tuple of int
            The numbers of inputs and of outputs.
        rng : numpy.random.Generator
            What draws.
        dtype : data-type
            float32 or float64. Both have the same values, up to rounding.

        Returns
        -------
        ndarray

        Raises
        ------
        TypeError
            The dtype is another one.
        ValueError
            The dtype cannot hold the weights.
        """
        dtype = float_dtype(dtype)
        with np.errstate(over="ignore"):
            weights = (self.std(shape[0]) * rng.standard_normal(shape)).astype(dtype)
        if not np.all(np.isfinite(weights)):
            raise ValueError(f"{self!r} draws weights that {dtype} cannot hold")
        return weights

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Normal(Initializer):
    """Normally distributed weights of one standard deviation everywhere.

    With a large one sigmoid and tanh saturate, where gradients vanish;
    with a small one all units do the same.

    Parameters
    ----------
    std : float
        The standard deviation, 0 or more.
    """

    def __init__(self, std: float = 0.01) -> None:
        self._std = number("Normal", "std", std)

    def std(self, fan_in: int) -> float:
        return self._std

    def __repr__(self) -> str:
        return f"Normal({self._std!r})"


class Xavier(Initializer):
    """Standard deviation ``sqrt(1 / n)`` for n inputs: right for sigmoid and tanh.

    As in the book. Glorot and Bengio (2010) take the mean of inputs and outputs for n.
    """

    def std(self, fan_in: int) -> float:
        return math.sqrt(1.0 / fan_in)


class He(Initializer):
    """Standard deviation ``sqrt(2 / n)`` for n inputs: right for ReLU (He et al., 2015)."""

    def std(self, fan_in: int) -> float:
        return math.sqrt(2.0 / fan_in)


class Zeros(Initializer):
    """All weights 0: nothing breaks the symmetry, and all units of a layer stay equal."""

    def std(self, fan_in: int) -> float:
        return 0.0


def float_dtype(dtype: DTypeLike) -> np.dtype:
    """`dtype`, if it is float32 or float64.

    Raises
    ------
    TypeError
        It is another one.
    """
    given = np.dtype(dtype)
    if given not in (np.float32, np.float64):
        raise TypeError(f"dtype must be float32 or float64, got {given}")
    return given
