"""Lion in plain NumPy."""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class Lion(Optimizer, rule="Lion"):
    """The sign of a mean gradient: every element moves by ``lr``, one way or the other.

    ::

        p -= lr * sign(beta1 * m + (1 - beta1) * g)
        m += (1 - beta2) * (g - m)

    Parameters
    ----------
    lr : float or callable, default 0.0001
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1 : float, default 0.9
        The share of the mean in the step, in [0, 1).
    beta2 : float, default 0.99
        The share of the mean that survives the step, in [0, 1).
    weight_decay, **options
        Those that every rule takes: see `zdlfast.Optimizer`. Weight decay is decoupled here, if
        ``decoupled=False`` does not say otherwise.
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    m : dict, list or None
        Running mean of the gradients: 4 bytes for each float32 element. None before the first
        update.

    Notes
    -----
    The steps are longer than Adam's: the paper advises a rate 3 to 10 times smaller, and a weight
    decay as many times larger.

    References
    ----------
    Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu, Le, "Symbolic discovery of
    optimization algorithms", arXiv:2302.06675.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Lion(lr=0.25)
    >>> params = {"W": np.array([1.0, 1.0, 1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0, 0.0, -0.1])})
    >>> params["W"], optimizer.m["W"].round(6)
    (array([0.75, 1.  , 1.25]), array([ 0.03 ,  0.   , -0.001]))
    """

    decoupled = True

    def __init__(
        self,
        lr: Rate = 0.0001,
        beta1: float = 0.9,
        beta2: float = 0.99,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.m: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.beta1, 1 - self.beta1, 1 - self.beta2, self.lr

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, beta1: float, rate1: float, rate2: float, lr: float
    ) -> tuple[Any, ...]:
        p -= lr * np.sign(beta1 * m + rate1 * g)
        m += rate2 * (g - m)
        return p, m
