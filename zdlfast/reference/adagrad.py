"""AdaGrad in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class AdaGrad(Optimizer, rule="AdaGrad"):
    """A step per element, shrunk by all of its past gradients.

    ::

        h += g * g
        p -= lr * g / (sqrt(h) + eps)

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    eps : float, default 1e-7
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    h : dict, list or None
        Sum of the squared gradients of every parameter. None before the first update.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.5. Duchi, Hazan, Singer, "Adaptive
    subgradient methods for online learning and stochastic optimization", 2011.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdaGrad(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6), optimizer.h["W"]
    (array([0.5]), array([9.]))
    """

    def __init__(self, lr: Rate = 0.01, *, eps: float = 1e-7, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.lr = lr
        self.eps = eps
        self.h: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.lr, self.eps

    @staticmethod
    def _rule(p: Any, g: Any, h: Any, lr: float, eps: float) -> tuple[Any, ...]:
        h += g * g
        p -= lr * g / (np.sqrt(h) + eps)
        return p, h
