"""The rules of scikit-learn's MLPClassifier and MLPRegressor in plain NumPy.

`zdlfast.adapters` uses them; they are no public classes of zdlfast.
"""

from math import sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class SklearnAdam(Optimizer, rule="SklearnAdam"):
    """Adam with the terms of its means in scikit-learn's order.

    ::

        t = t + 1
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p -= lr_t * m / (sqrt(v) + eps)

    Notes
    -----
    scikit-learn's ``lr_t`` is an ``np.float64``. With NumPy 2 this lifts the last line to float64
    for float32 arrays; the two means stay in float32.
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
        return beta1, 1 - beta1, beta2, 1 - beta2, lr_t, self.eps

    @staticmethod
    def _rule(
        p: Any,
        g: Any,
        m: Any,
        v: Any,
        beta1: float,
        rate1: float,
        beta2: float,
        rate2: float,
        lr_t: float,
        eps: float,
    ) -> tuple[Any, ...]:
        m *= beta1
        m += rate1 * g
        v *= beta2
        v += rate2 * g**2
        p -= np.float64(lr_t) * m / (np.sqrt(v) + eps)
        return p, m, v


class SklearnNesterov(Optimizer, rule="SklearnNesterov"):
    """Momentum that looks one step ahead, as scikit-learn writes it.

    ::

        v = momentum * v - lr * g
        p += momentum * v - lr * g
    """

    def __init__(self, lr: Rate = 0.1, momentum: float = 0.9, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.lr = lr
        self.momentum = momentum
        self.v: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.momentum, self.lr

    @staticmethod
    def _rule(p: Any, g: Any, v: Any, momentum: float, lr: float) -> tuple[Any, ...]:
        v *= momentum
        v -= lr * g
        p += momentum * v - lr * g
        return p, v
