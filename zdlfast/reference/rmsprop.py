"""RMSprop in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class RMSprop(Optimizer, rule="RMSprop"):
    """AdaGrad that forgets: a running mean in place of the sum.

    ::

        h = decay_rate * h + (1 - decay_rate) * g * g
        p -= lr * g / (sqrt(h) + eps)

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    decay_rate : float, default 0.99
        The share of the mean that survives a step, in [0, 1).
    eps : float, default 1e-7
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    h : dict, list or None
        Running mean of the squared gradients. None before the first update.

    References
    ----------
    Saito, "Deep Learning from Scratch", ``common/optimizer.py``. Tieleman, Hinton,
    "Lecture 6.5: RMSProp", Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = RMSprop(lr=0.1, decay_rate=0.75)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"].round(6), optimizer.h["W"]
    (array([0.8]), array([1.]))
    """

    def __init__(
        self,
        lr: Rate = 0.01,
        decay_rate: float = 0.99,
        *,
        eps: float = 1e-7,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.decay_rate = decay_rate
        self.eps = eps
        self.h: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.decay_rate, 1 - self.decay_rate, self.lr, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, h: Any, decay: float, rate: float, lr: float, eps: float
    ) -> tuple[Any, ...]:
        h *= decay
        h += rate * g * g
        p -= lr * g / (np.sqrt(h) + eps)
        return p, h
