"""Numerical gradients, to check those of backpropagation (book 1, section 4.3)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zdlfast.nn._checks import positive
from zdlfast.nn.layers import Dropout

if TYPE_CHECKING:
    from zdlfast.nn.network import Sequential


def numerical_gradient(
    f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-4
) -> np.ndarray:
    """The gradient of a function by central differences: ``(f(x + h) - f(x - h)) / 2h``.

    Parameters
    ----------
    f : callable
        Takes the array and returns a number.
    x : ndarray
        Where: float64, or float32 with what that loses. Its elements are changed one at a time
        while `f` is asked, and are what they were in the end, whatever happens.
    h : float
        The distance, before it is rounded to what `x` can hold.

    Returns
    -------
    ndarray
        Of the shape of `x`.

    Raises
    ------
    TypeError
        `x` is no array of floats, or of float16, in which differences round to 0.
    ValueError
        `h` is lost in the rounding of an element of `x`: the difference would be 0.
    """
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.dtype.itemsize < 4:
        raise TypeError(
            f"x must be an array of float32 or float64, got {getattr(x, 'dtype', type(x))}"
        )
    h = positive("numerical_gradient", "h", h)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        before = x[index]
        above, below = x.dtype.type(before + h), x.dtype.type(before - h)
        if not below < before < above:
            raise ValueError(
                f"numerical_gradient: h={h!r} is lost beside the {before} at {index} of x"
            )
        try:
            x[index] = above
            difference = float(f(x))
            x[index] = below
            difference -= float(f(x))
        finally:
            x[index] = before
        gradient[index] = difference / (above - below)
    return gradient


def gradient_check(network: Sequential, x: np.ndarray, t: np.ndarray) -> dict[str, float]:
    """Compare a network's gradients by backpropagation with numerical ones.

    The loss is that of training, with the same units dropped at every evaluation. The network is
    left as it was.

    Parameters
    ----------
    network : Sequential
        Of float64.
    x, t : ndarray
        A batch; a few samples are enough.

    Returns
    -------
    dict of float
        For each parameter the relative error ``|a - b| / (|a| + |b|)``, by Euclidean norms, or
        relative to a ten-thousandth of the whole gradient if that is more: a bias before a batch
        normalization has no effect, and a gradient of rounding errors. Below 1e-6 is good,
        unless an input of a ReLU happens to be about 0.

    Raises
    ------
    TypeError
        The network is of another dtype: float32 is too coarse for differences.
    """
    for key, value in network.params.items():
        if value.dtype != np.float64:
            raise TypeError(f"gradient_check: {key} has dtype {value.dtype}, expected float64")
    network = copy.deepcopy(network)
    generators = [
        layer.rng.bit_generator for layer in network.layers if isinstance(layer, Dropout)
    ]
    states = [generator.state for generator in generators]

    def drop_the_same() -> None:
        for generator, state in zip(generators, states, strict=True):
            generator.state = state

    def loss(_: np.ndarray) -> float:
        drop_the_same()
        return network.loss(x, t, training=True)

    drop_the_same()
    grads = network.gradient(x, t)
    expected = {key: numerical_gradient(loss, param) for key, param in network.params.items()}
    total = np.sqrt(sum(np.sum(gradient**2) for gradient in expected.values()))
    errors = {}
    for key, gradient in expected.items():
        size = np.linalg.norm(grads[key]) + np.linalg.norm(gradient)
        # A gradient that is next to nothing beside the others is rounding error in both.
        size = max(size, 1e-4 * total)
        errors[key] = float(np.linalg.norm(grads[key] - gradient) / size) if size > 0 else 0.0
    return errors
