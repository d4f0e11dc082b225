"""AdaBound in plain NumPy."""

from math import inf, sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class AdaBound(Optimizer, rule="AdaBound"):
    """Adam that becomes SGD: the rate of each element is held between bounds that close in.

    ::

        t = t + 1
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        final = final_lr * lr / base_lr
        lower = final * (1 - 1 / (gamma * t + 1))
        upper = final * (1 + 1 / (gamma * t))
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p -= clip(lr_t / (sqrt(v) + eps), lower, upper) * m

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate at first, as of Adam, finite and not negative, or a schedule of it: see
        `zdlfast.schedules`. May be assigned between updates. The bounds follow it in proportion.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    final_lr : float, default 0.1
        Learning rate in the end, as of SGD with momentum. Keyword only.
    gamma : float, default 0.001
        How fast the bounds close in, in [0, 1). Keyword only.
    eps : float, default 1e-8
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    base_lr : float
        The learning rate that ``final_lr`` belongs to: the one that the optimizer was made with.
    m, v : dict, list or None
        Running means of the gradients and of their squares, without bias correction: 8 bytes for
        each float32 element. None before the first update.

    Notes
    -----
    The form is that of the authors' code, where the mean keeps its bias towards zero at the
    bounds. The paper divides the bounded rate by the root of ``t``, which the code does not.
    The code does not save ``base_lr``.

    References
    ----------
    Luo, Xiong, Liu, Sun, "Adaptive gradient methods with dynamic bound of learning rate",
    arXiv:1902.09843.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdaBound(lr=0.5, gamma=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6)
    array([0.95])
    """

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        final_lr: float = 0.1,
        gamma: float = 0.001,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.final_lr = final_lr
        self.gamma = gamma
        self.eps = eps
        self.iter = 0
        # The highest one of a schedule, if that tells it; else its first one above zero.
        self.base_lr = self.lr if isinstance(self.lr, float) else getattr(self.lr, "lr", 0.0)
        self.m: State = None
        self.v: State = None

    def _next_numbers(self) -> tuple[float, ...]:
        return (self.base_lr or self._lr_now(),)

    def _scalars(self) -> tuple[float, ...]:
        t, beta1, beta2 = self.iter + 1, self.beta1, self.beta2
        base_lr = self.base_lr or self.lr
        final = self.final_lr * self.lr / base_lr if base_lr else 0.0
        lower = final * (1.0 - 1.0 / (self.gamma * t + 1.0))
        upper = final * (1.0 + 1.0 / (self.gamma * t)) if self.gamma else inf
        lr_t = self.lr * sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        return 1 - beta1, 1 - beta2, lr_t, self.eps, lower, upper

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, v: Any,
        rate1: float, rate2: float, lr_t: float, eps: float, lower: float, upper: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        rate = np.minimum(np.maximum(lr_t / (np.sqrt(v) + eps), lower), upper)
        p -= rate * m
        return p, m, v
