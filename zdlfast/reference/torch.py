"""The rules of torch's optimizers that differ from zdlfast's own, in plain NumPy.

`zdlfast.torch` takes the others from the rules that are here for everyone: AdamW, RMSprop, RAdam
and so on. These are no public classes of zdlfast.
"""

from typing import Any, Unpack

import numpy as np

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate
from zdlfast.reference.nadam import NAdam


class TorchMomentum(Optimizer, rule="TorchMomentum"):
    """Momentum whose buffer is free of the learning rate.

    ::

        b = momentum * b + (1 - dampening) * g      # b = g in the first step
        p -= lr * b
    """

    def __init__(
        self,
        lr: Rate = 0.001,
        momentum: float = 0.9,
        dampening: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.momentum = momentum
        self.dampening = dampening
        self.iter = 0
        self.b: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.momentum, 1 - self.dampening if self.iter else 1.0, self.lr

    @staticmethod
    def _rule(p: Any, g: Any, b: Any, momentum: float, rate: float, lr: float) -> tuple[Any, ...]:
        b *= momentum
        b += rate * g
        p -= lr * b
        return p, b


class TorchNesterov(TorchMomentum, rule="TorchNesterov"):
    """The same, one step ahead.

    ::

        b = momentum * b + (1 - dampening) * g      # b = g in the first step
        p -= lr * (g + momentum * b)
    """

    @staticmethod
    def _rule(p: Any, g: Any, b: Any, momentum: float, rate: float, lr: float) -> tuple[Any, ...]:
        b *= momentum
        b += rate * g
        p -= lr * (g + momentum * b)
        return p, b


class TorchAdagrad(Optimizer, rule="TorchAdagrad"):
    """AdaGrad with a learning rate that decays with the steps.

    ::

        t = t + 1
        h += g**2
        p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(h) + eps)
    """

    def __init__(
        self,
        lr: Rate = 0.01,
        lr_decay: float = 0.0,
        *,
        eps: float = 1e-10,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.lr_decay = lr_decay
        self.eps = eps
        self.iter = 0
        self.h: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.lr / (1.0 + self.iter * self.lr_decay), self.eps

    @staticmethod
    def _rule(p: Any, g: Any, h: Any, lr: float, eps: float) -> tuple[Any, ...]:
        h += g**2
        p -= lr * g / (np.sqrt(h) + eps)
        return p, h


class TorchRMSpropMomentum(Optimizer, rule="TorchRMSpropMomentum"):
    """RMSprop whose steps have momentum.

    ::

        v = alpha * v + (1 - alpha) * g**2
        b = momentum * b + g / (sqrt(v) + eps)
        p -= lr * b
    """

    def __init__(
        self,
        lr: Rate = 0.01,
        alpha: float = 0.99,
        momentum: float = 0.9,
        *,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.alpha = alpha
        self.momentum = momentum
        self.eps = eps
        self.v: State = None
        self.b: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.alpha, 1 - self.alpha, self.lr, self.eps, self.momentum

    @staticmethod
    def _rule(
        p: Any, g: Any, v: Any, b: Any,
        alpha: float, rate: float, lr: float, eps: float, momentum: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        v *= alpha
        v += rate * g * g
        b *= momentum
        b += g / (np.sqrt(v) + eps)
        p -= lr * b
        return p, v, b


class TorchRMSpropCentered(Optimizer, rule="TorchRMSpropCentered"):
    """RMSprop that divides by the root of the gradient's variance.

    ::

        v = alpha * v + (1 - alpha) * g**2
        a += (1 - alpha) * (g - a)
        p -= lr * g / (sqrt(max(v - a**2, 0)) + eps)

    Notes
    -----
    Where gradients do not vary, rounding may make ``v - a**2`` negative; torch computes NaN then.
    """

    def __init__(
        self,
        lr: Rate = 0.01,
        alpha: float = 0.99,
        *,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.alpha = alpha
        self.eps = eps
        self.v: State = None
        self.a: State = None

    def _scalars(self) -> tuple[float, ...]:
        return self.alpha, 1 - self.alpha, self.lr, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, v: Any, a: Any, alpha: float, rate: float, lr: float, eps: float
    ) -> tuple[Any, ...]:
        v *= alpha
        v += rate * g * g
        a += rate * (g - a)
        p -= lr * g / (np.sqrt(np.maximum(v - a * a, 0.0)) + eps)
        return p, v, a


class TorchRMSpropCenteredMomentum(TorchRMSpropMomentum, rule="TorchRMSpropCenteredMomentum"):
    """Both of these.

    ::

        v = alpha * v + (1 - alpha) * g**2
        a += (1 - alpha) * (g - a)
        b = momentum * b + g / (sqrt(max(v - a**2, 0)) + eps)
        p -= lr * b
    """

    def __init__(
        self,
        lr: Rate = 0.01,
        alpha: float = 0.99,
        momentum: float = 0.9,
        *,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, alpha, momentum, eps=eps, **options)
        self.a: State = None

    @staticmethod
    def _rule(  # type: ignore[override]  # one slot more
        p: Any, g: Any, v: Any, a: Any, b: Any,
        alpha: float, rate: float, lr: float, eps: float, momentum: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        v *= alpha
        v += rate * g * g
        a += rate * (g - a)
        b *= momentum
        b += g / (np.sqrt(np.maximum(v - a * a, 0.0)) + eps)
        p -= lr * b
        return p, v, a, b


class TorchNAdam(NAdam, rule="TorchNAdam"):
    """NAdam whose product of momenta is kept in single precision."""

    def _next_numbers(self) -> tuple[float, ...]:
        momentum = np.float32(self._momentum(self.iter + 1))
        return (float(np.float32(self.mu_product) * momentum),)
