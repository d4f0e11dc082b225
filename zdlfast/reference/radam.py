"""RAdam in plain NumPy."""

from math import sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class RAdam(Optimizer, rule="RAdam"):
    """Rectified Adam: as careful at first as the mean square is uncertain.

    ::

        t = t + 1
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        lr_t = lr / (1 - beta1**t)
        if length > 5:
            r = (length - 4) * (length - 2) * longest
            r = sqrt(r / ((longest - 4) * (longest - 2) * length))
            p -= lr_t * r * sqrt(1 - beta2**t) * m / (sqrt(v) + eps)
        else:
            p -= lr_t * m

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    eps : float, default 1e-8
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m, v : dict, list or None
        Running means of the gradients and of their squares, without bias correction: 8 bytes for
        each float32 element. None before the first update.

    Notes
    -----
    With the usual ``beta2`` the first 5 steps are those of momentum alone: as long as the
    gradients, not as long as ``lr``. With a ``beta2`` below about 0.67 all of them are.

    As in PyTorch, ``eps`` is added to the uncorrected root. Optax adds it to the corrected one,
    and rectifies from ``length >= 5`` on; the paper says ``length > 4``.

    References
    ----------
    Liu, Jiang, He, Chen, Liu, Gao, Han, "On the variance of the adaptive learning rate and
    beyond", arXiv:1908.03265.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = RAdam(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6)
    array([-0.5])
    """

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.iter = 0
        self.m: State = None
        self.v: State = None

    def _scalars(self) -> tuple[float, ...]:
        t = self.iter + 1
        power = self.beta2**t
        lr_t = self.lr / (1.0 - self.beta1**t)
        longest = 2.0 / (1.0 - self.beta2) - 1.0
        length = longest - 2.0 * t * power / (1.0 - power)
        rectified = length > 5.0
        if rectified:
            r = (length - 4.0) * (length - 2.0) * longest
            r = sqrt(r / ((longest - 4.0) * (longest - 2.0) * length))
            lr_t = lr_t * r * sqrt(1.0 - power)
        return 1 - self.beta1, 1 - self.beta2, lr_t, self.eps, float(rectified)

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, v: Any,
        rate1: float, rate2: float, lr_t: float, eps: float, rectified: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        if rectified:
            p -= lr_t * m / (np.sqrt(v) + eps)
        else:
            p -= lr_t * m
        return p, m, v
