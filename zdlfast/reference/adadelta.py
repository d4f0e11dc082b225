"""AdaDelta in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class AdaDelta(Optimizer, rule="AdaDelta"):
    """RMSprop that finds its own rate: steps as long as the last ones were.

    ::

        h = decay_rate * h + (1 - decay_rate) * g * g
        step = sqrt((d + eps) / (h + eps)) * g
        d = decay_rate * d + (1 - decay_rate) * step * step
        p -= lr * step

    Parameters
    ----------
    lr : float or callable, default 1.0
        What the steps are multiplied by, finite and not negative, or a schedule of it: see
        `zdlfast.schedules`. May be assigned between updates.
    decay_rate : float, default 0.9
        The share of the two means that survives a step, in [0, 1).
    eps : float, default 1e-6
        Keeps the division finite, and sets how long the first steps are. Keyword only.
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    h, d : dict, list or None
        Running means of the squares of the gradients and of the steps (before ``lr``): 8 bytes
        for each float32 element. None before the first update.

    Notes
    -----
    PyTorch and optax have the same with two roots, for ``decay_rate`` they say ``rho``. The paper
    has no ``lr``; DeZero's class has none either, and ``rho=0.95``.

    References
    ----------
    Zeiler, "ADADELTA: an adaptive learning rate method", arXiv:1212.5701.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdaDelta(decay_rate=0.75, eps=1.0)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"].round(6), optimizer.h["W"], optimizer.d["W"].round(6)
    (array([-0.414214]), array([1.]), array([0.5]))
    """

    def __init__(
        self,
        lr: Rate = 1.0,
        decay_rate: float = 0.9,
        *,
        eps: float = 1e-6,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.decay_rate = decay_rate
        self.eps = eps
        self.h: State = None
        self.d: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.decay_rate, 1 - self.decay_rate, self.lr, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, h: Any, d: Any, decay: float, rate: float, lr: float, eps: float
    ) -> tuple[Any, ...]:
        h *= decay
        h += rate * g * g
        step = np.sqrt((d + eps) / (h + eps)) * g
        d *= decay
        d += rate * step * step
        p -= lr * step
        return p, h, d
