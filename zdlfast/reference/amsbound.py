"""AMSBound in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import State
from zdlfast._options import Options, Rate
from zdlfast.reference._store import store
from zdlfast.reference.adabound import AdaBound


class AMSBound(AdaBound, rule="AMSBound"):
    """AdaBound with the largest mean square so far, as AMSGrad has it.

    ::

        t = t + 1
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        v_max = max(v_max, v)
        final = final_lr * lr / base_lr
        lower = final * (1 - 1 / (gamma * t + 1))
        upper = final * (1 + 1 / (gamma * t))
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        p -= clip(lr_t / (sqrt(v_max) + eps), lower, upper) * m

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
        Running means of the gradients and of their squares, without bias correction.
    v_max : dict, list or None
        The largest ``v`` so far. With the means, 12 bytes for each float32 element. None before
        the first update.

    Notes
    -----
    The form is that of the authors' code, ``AdaBound(amsbound=True)``: see `AdaBound`.

    References
    ----------
    Luo, Xiong, Liu, Sun, "Adaptive gradient methods with dynamic bound of learning rate",
    arXiv:1902.09843.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AMSBound(lr=0.5, gamma=0.5)
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
        super().__init__(lr, beta1, beta2, final_lr=final_lr, gamma=gamma, eps=eps, **options)
        self.v_max: State = None

    @staticmethod
    def _rule(  # type: ignore[override]  # one slot more
        p: Any, g: Any, m: Any, v: Any, v_max: Any,
        rate1: float, rate2: float, lr_t: float, eps: float, lower: float, upper: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        v_max = store(v_max, np.maximum(v_max, v))
        rate = np.minimum(np.maximum(lr_t / (np.sqrt(v_max) + eps), lower), upper)
        p -= rate * m
        return p, m, v, v_max
