"""SGD in plain NumPy."""

from typing import Any

from zdlfast._optimizer import Nonfinite, Optimizer


class SGD(Optimizer, rule="SGD"):
    """Stochastic gradient descent.

    ::

        p -= lr * g

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, finite and not negative. May be assigned between updates.
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.2.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0, -2.0])}
    >>> SGD(lr=0.1).update(params, {"W": np.array([10.0, 10.0])})
    >>> params["W"]
    array([ 0., -3.])
    """

    def __init__(self, lr: float = 0.01, *, nonfinite: Nonfinite = "propagate") -> None:
        self.lr = lr
        self.nonfinite = nonfinite

    def _scalars(self) -> tuple[float, ...]:
        return (self.lr,)

    @staticmethod
    def _rule(p: Any, g: Any, lr: float) -> tuple[Any, ...]:
        p -= lr * g
        return (p,)
