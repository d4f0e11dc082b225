"""ADOPT in plain NumPy."""

from math import sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate
from zdlfast.reference._store import store


class ADOPT(Optimizer, rule="ADOPT"):
    """Adam that divides a gradient by what was known before it, so that any ``beta2`` will do.

    ::

        t = t + 1
        if t == 1:
            v = g * g
        else:
            limit = (t - 1)**(1 / 4)
            m += (1 - beta1) * (clip(g / max(sqrt(v), eps), -limit, limit) - m)
            p -= lr * m
            v += (1 - beta2) * (g**2 - v)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.9999
        The shares of the two means that survive a step, in [0, 1).
    eps : float, default 1e-6
        The smallest number that a gradient is divided by. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m, v : dict, list or None
        Running means of the divided gradients and of the squared gradients: 8 bytes for each
        float32 element. None before the first update.

    Notes
    -----
    The first update changes no parameter, by a decay neither. A parameter that appears later
    has no ``v`` from such an update: at its own first step its gradients are divided by ``eps``
    and clipped.

    The form is that of the authors' code with its clipping, which the paper's second version
    introduced. Optax has the same.

    References
    ----------
    Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara, Iiyama, Suzuki, Iwasawa, Matsuo,
    "ADOPT: modified Adam can converge with any beta2 with the optimal rate", arXiv:2411.02853.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = ADOPT(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"], optimizer.v["W"]
    (array([1.]), array([4.]))
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"].round(6)
    array([0.95])
    """

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.9999,
        *,
        eps: float = 1e-6,
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
        limit = sqrt(sqrt(self.iter))  # 0.0 in the first update
        decay = self.weight_decay if self.decoupled else 0.0
        return 1 - self.beta1, 1 - self.beta2, self.lr, self.eps, limit, 1.0 - self.lr * decay

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, v: Any,
        rate1: float, rate2: float, lr: float, eps: float, limit: float, p_decay: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        if limit == 0.0:
            return p, m, store(v, g**2)
        ratio = g / np.maximum(np.sqrt(v), eps)
        m += rate1 * (np.minimum(np.maximum(ratio, -limit), limit) - m)
        p *= p_decay
        p -= lr * m
        v += rate2 * (g**2 - v)
        return p, m, v
