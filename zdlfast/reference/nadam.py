"""NAdam in plain NumPy."""

from math import sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class NAdam(Optimizer, rule="NAdam"):
    """Adam with Nesterov's momentum, which warms up.

    ::

        t = t + 1
        mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)
        mu_product = mu_product * mu(t)
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        mean = (1 - mu(t)) * g / (1 - mu_product)
        mean += mu(t + 1) * m / (1 - mu_product * mu(t + 1))
        p -= lr * mean / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    lr : float or callable, default 0.002
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    momentum_decay : float, default 0.004
        How fast the momentum goes from half of ``beta1`` to all of it. Keyword only.
    eps : float, default 1e-8
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    mu_product : float
        The product of the momenta of all updates so far.
    m, v : dict, list or None
        Running means of the gradients and of their squares, without bias correction: 8 bytes for
        each float32 element. None before the first update.

    Notes
    -----
    The form is PyTorch's, which keeps ``mu_product`` in single precision, however, and differs
    by 1e-7 for that. Optax has Nesterov's momentum without the warm-up: another rule.

    References
    ----------
    Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = NAdam(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6), round(optimizer.mu_product, 6)
    (array([0.468962]), 0.450073)
    """

    def __init__(
        self,
        lr: Rate = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        momentum_decay: float = 0.004,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.momentum_decay = momentum_decay
        self.eps = eps
        self.iter = 0
        self.mu_product = 1.0
        self.m: State = None
        self.v: State = None

    def _momentum(self, t: int) -> float:
        return float(self.beta1 * (1.0 - 0.5 * 0.96 ** (t * self.momentum_decay)))

    def _next_numbers(self) -> tuple[float, ...]:
        return (self.mu_product * self._momentum(self.iter + 1),)

    def _scalars(self) -> tuple[float, ...]:
        t = self.iter + 1
        mu, mu_next = self._momentum(t), self._momentum(t + 1)
        (product,) = self._next_numbers()
        root2 = sqrt(1.0 - self.beta2**t)
        lr_g = self.lr * root2 * (1.0 - mu) / (1.0 - product)
        lr_m = self.lr * root2 * mu_next / (1.0 - product * mu_next)
        return 1 - self.beta1, 1 - self.beta2, lr_g, lr_m, self.eps * root2

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, v: Any,
        rate1: float, rate2: float, lr_g: float, lr_m: float, eps: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        p -= (lr_g * g + lr_m * m) / (np.sqrt(v) + eps)
        return p, m, v
