"""Adam in plain NumPy."""

from math import sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class Adam(Optimizer, rule="Adam"):
    """Adaptive moment estimation: a mean gradient over the root of a mean square.

    ::

        t = t + 1
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        p -= lr_t * m / (sqrt(v) + eps)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    eps : float, default 1e-7
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m, v : dict, list or None
        Running means of the gradients and of their squares, without bias correction.
        None before the first update.

    Notes
    -----
    The bias correction has the power ``t``, as in the paper and in the book's code; some
    texts print it without. ``eps`` is added to the uncorrected root (the "epsilon hat" of
    the paper's section 2); PyTorch adds 1e-8 after the correction.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.6. Kingma, Ba, "Adam: a method for
    stochastic optimization", arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Adam(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4), optimizer.iter
    (array([0.5]), 1)
    """

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-7,
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
        beta1, beta2 = self.beta1, self.beta2
        lr_t = self.lr * sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        return 1 - beta1, 1 - beta2, lr_t, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, v: Any, rate1: float, rate2: float, lr_t: float, eps: float
    ) -> tuple[Any, ...]:
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        p -= lr_t * m / (np.sqrt(v) + eps)
        return p, m, v
