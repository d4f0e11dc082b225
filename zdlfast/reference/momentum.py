"""Momentum in plain NumPy."""

from typing import Any, Unpack

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class Momentum(Optimizer, rule="Momentum"):
    """SGD with a velocity that remembers past gradients.

    ::

        v = momentum * v - lr * g
        p += v

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    momentum : float, default 0.9
        The share of the velocity that survives a step, in [0, 1).
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    v : dict, list or None
        Velocity of every parameter, of its shape. None before the first update.

    Notes
    -----
    The learning rate is inside the velocity, as in Keras and scikit-learn; PyTorch has it
    outside (``p -= lr * v``), which differs as soon as ``lr`` changes during training.

    The velocity is updated in place and keeps its parameter's dtype. The book makes a new array
    each time, which a gradient of a wider dtype widens.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.4. Polyak, "Some methods of speeding
    up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Momentum(lr=0.1)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([1.0])})
    >>> optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer.v["W"]
    (array([0.71]), array([-0.19]))
    """

    def __init__(self, lr: Rate = 0.01, momentum: float = 0.9, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.lr = lr
        self.momentum = momentum
        self.v: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.momentum, self.lr

    @staticmethod
    def _rule(p: Any, g: Any, v: Any, momentum: float, lr: float) -> tuple[Any, ...]:
        v *= momentum
        v -= lr * g
        p += v
        return p, v
