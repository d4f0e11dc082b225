"""AMSGrad in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import State
from zdlfast._options import Options, Rate
from zdlfast.reference._store import store
from zdlfast.reference.adam import Adam


class AMSGrad(Adam, rule="AMSGrad"):
    """Adam whose steps never grow again because a gradient is forgotten.

    ::

        t = t + 1
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        v_max = max(v_max, v)
        p -= lr_t * m / (sqrt(v_max) + eps)

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
    v_max : dict, list or None
        The largest ``v`` so far. With the means, 12 bytes for each float32 element. None before
        the first update.

    Notes
    -----
    This is the book's `Adam` with the maximum; ``AdamW(amsgrad=True, weight_decay=0)`` is
    PyTorch's ``Adam(amsgrad=True)``, which adds ``eps`` to the corrected root. Both take the
    maximum of ``v`` as it is, like PyTorch; optax takes that of the corrected
    ``v / (1 - beta2**t)``, which gives other numbers. The paper has no bias correction.

    References
    ----------
    Reddi, Kale, Kumar, "On the convergence of Adam and beyond", arXiv:1904.09237.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AMSGrad(beta2=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([4.0])})
    >>> optimizer.update(params, {"W": np.array([0.0])})
    >>> optimizer.v["W"], optimizer.v_max["W"]
    (array([4.]), array([8.]))
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
        super().__init__(lr, beta1, beta2, eps=eps, **options)
        self.v_max: State = None

    @staticmethod
    def _rule(  # type: ignore[override]  # one slot more
        p: Any, g: Any, m: Any, v: Any, v_max: Any,
        rate1: float, rate2: float, lr_t: float, eps: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        v_max = store(v_max, np.maximum(v_max, v))
        p -= lr_t * m / (np.sqrt(v_max) + eps)
        return p, m, v, v_max
