"""SGD in plain NumPy."""

from typing import Any, Unpack

from zdlfast._optimizer import Optimizer
from zdlfast._options import Options, Rate


class SGD(Optimizer, rule="SGD"):
    """Stochastic gradient descent.

    ::

        p -= lr * g

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

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

    def __init__(self, lr: Rate = 0.01, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.lr = lr

    def _scalars(self) -> tuple[float, ...]:
        return (self.lr,)

    @staticmethod
    def _rule(p: Any, g: Any, lr: float) -> tuple[Any, ...]:
        p -= lr * g
        return (p,)
