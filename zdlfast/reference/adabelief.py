"""AdaBelief in plain NumPy."""

from math import sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class AdaBelief(Optimizer, rule="AdaBelief"):
    """Adam that takes long steps where gradients are as they were expected.

    ::

        t = t + 1
        m += (1 - beta1) * (g - m)
        s += (1 - beta2) * ((g - m)**2 - s)
        s += eps
        p -= lr * (m / (1 - beta1**t)) / (sqrt(s / (1 - beta2**t)) + eps)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    eps : float, default 1e-16
        Keeps the division finite where gradients do not vary. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m, s : dict, list or None
        Running means of the gradients and of the squares of what they differ from ``m`` by,
        without bias correction: 8 bytes for each float32 element. None before the first update.

    Notes
    -----
    This is the paper's algorithm, and optax's. The authors' package has it with
    ``rectify=False, weight_decouple=False``; by default it rectifies, as `RAdam` does. ``eps``
    was 1e-8 in its first versions. It is added twice: what goes into ``s`` stays there and
    grows to as much as ``eps / (1 - beta2)``.

    References
    ----------
    Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan, "AdaBelief optimizer: adapting
    stepsizes by the belief in observed gradients", arXiv:2010.07468.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdaBelief(lr=0.5, beta1=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"].round(6), optimizer.s["W"].round(6)
    (array([0.]), array([0.001]))
    """

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-16,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.iter = 0
        self.m: State = None
        self.s: State = None

    def _scalars(self) -> tuple[float, ...]:
        t, beta1, beta2 = self.iter + 1, self.beta1, self.beta2
        root2 = sqrt(1.0 - beta2**t)
        lr_t = self.lr * root2 / (1.0 - beta1**t)
        return 1 - beta1, 1 - beta2, lr_t, self.eps, self.eps * root2

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, s: Any,
        rate1: float, rate2: float, lr_t: float, eps: float, eps_t: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        m += rate1 * (g - m)
        s += rate2 * ((g - m) ** 2 - s)
        s += eps
        p -= lr_t * m / (np.sqrt(s) + eps_t)
        return p, m, s
