"""Adamax in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate
from zdlfast.reference._store import store


class Adamax(Optimizer, rule="Adamax"):
    """Adam with the largest gradient of late in the place of the root of a mean square.

    ::

        t = t + 1
        m += (1 - beta1) * (g - m)
        u = max(beta2 * u, abs(g) + eps)
        p -= lr / (1 - beta1**t) * m / u

    Parameters
    ----------
    lr : float or callable, default 0.002
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the mean and of the maximum that survive a step, in [0, 1).
    eps : float, default 1e-8
        Keeps the division finite where no gradient was seen yet. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m : dict, list or None
        Running mean of the gradients, without bias correction.
    u : dict, list or None
        The largest gradient, forgotten by and by. With the mean, 8 bytes for each float32
        element. None before the first update.

    Notes
    -----
    ``eps`` is within the maximum, as in PyTorch and optax; the paper has none, Keras adds it to
    ``u``.

    References
    ----------
    Kingma, Ba, "Adam: a method for stochastic optimization", arXiv:1412.6980, section 7.1.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Adamax(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6), optimizer.u["W"].round(6)
    (array([0.5]), array([3.]))
    """

    def __init__(
        self,
        lr: Rate = 0.002,
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
        self.u: State = None

    def _scalars(self) -> tuple[float, ...]:
        lr_t = self.lr / (1.0 - self.beta1 ** (self.iter + 1))
        return 1 - self.beta1, self.beta2, lr_t, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, u: Any, rate1: float, beta2: float, lr_t: float, eps: float
    ) -> tuple[Any, ...]:
        m += rate1 * (g - m)
        u = store(u, np.maximum(beta2 * u, np.abs(g) + eps))
        p -= lr_t * m / u
        return p, m, u
