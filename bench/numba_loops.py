"""The loop of every rule as a user of numba would write it: one pass over memory.

Each takes the parameter, its gradient, the state, and numbers in float32, because a Python float
would make numba compute in double precision: first those that stay, then those of one step.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, prange


def sgd(p, g, lr):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        p[i] -= lr * g[i]


def momentum(p, g, v, mu, lr):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        v[i] = mu * v[i] - lr * g[i]
        p[i] += v[i]


def nesterov(p, g, v, mu, mu2, lr, lr_ahead):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        p[i] += mu2 * v[i] - lr_ahead * g[i]
        v[i] = mu * v[i] - lr * g[i]


def nesterov_book2(p, g, v, mu, mu2, lr, lr_ahead):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        v[i] = mu * v[i] - lr * g[i]
        p[i] += mu2 * v[i] - lr_ahead * g[i]


def adagrad(p, g, h, lr, eps):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        h[i] += g[i] * g[i]
        p[i] -= lr * g[i] / (np.sqrt(h[i]) + eps)


def rmsprop(p, g, h, rate, lr, eps):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        h[i] += rate * (g[i] * g[i] - h[i])
        p[i] -= lr * g[i] / (np.sqrt(h[i]) + eps)


def adam(p, g, m, v, rate1, rate2, kept, lr, eps):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        v[i] += rate2 * (g[i] * g[i] - v[i])
        p[i] = kept * p[i] - lr * m[i] / (np.sqrt(v[i]) + eps)


def amsgrad(p, g, m, v, most, rate1, rate2, eps, lr):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        v[i] += rate2 * (g[i] * g[i] - v[i])
        most[i] = max(most[i], v[i])
        p[i] -= lr * m[i] / (np.sqrt(most[i]) + eps)


def nadam(p, g, m, v, rate1, rate2, lr_g, lr_m, eps):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        v[i] += rate2 * (g[i] * g[i] - v[i])
        p[i] -= (lr_g * g[i] + lr_m * m[i]) / (np.sqrt(v[i]) + eps)


def radam(p, g, m, v, rate1, rate2, eps, lr, rectified):  # type: ignore[no-untyped-def]
    if rectified:
        for i in prange(p.size):
            m[i] += rate1 * (g[i] - m[i])
            v[i] += rate2 * (g[i] * g[i] - v[i])
            p[i] -= lr * m[i] / (np.sqrt(v[i]) + eps)
    else:
        for i in prange(p.size):
            m[i] += rate1 * (g[i] - m[i])
            v[i] += rate2 * (g[i] * g[i] - v[i])
            p[i] -= lr * m[i]


def adamax(p, g, m, u, rate1, beta2, eps, lr):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        u[i] = max(beta2 * u[i], abs(g[i]) + eps)
        p[i] -= lr * m[i] / u[i]


def adadelta(p, g, h, d, rate, lr, eps):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        h[i] += rate * (g[i] * g[i] - h[i])
        step = np.sqrt((d[i] + eps) / (h[i] + eps)) * g[i]
        d[i] += rate * (step * step - d[i])
        p[i] -= lr * step


def adabound(p, g, m, v, rate1, rate2, eps, lr, low, high):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        v[i] += rate2 * (g[i] * g[i] - v[i])
        p[i] -= min(max(lr / (np.sqrt(v[i]) + eps), low), high) * m[i]


def amsbound(p, g, m, v, most, rate1, rate2, eps, lr, low, high):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        v[i] += rate2 * (g[i] * g[i] - v[i])
        most[i] = max(most[i], v[i])
        p[i] -= min(max(lr / (np.sqrt(most[i]) + eps), low), high) * m[i]


def adabelief(p, g, m, s, rate1, rate2, eps, lr, eps_t):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        m[i] += rate1 * (g[i] - m[i])
        away = g[i] - m[i]
        s[i] += rate2 * (away * away - s[i]) + eps
        p[i] -= lr * m[i] / (np.sqrt(s[i]) + eps_t)


def lion(p, g, m, beta1, rate1, rate2, lr):  # type: ignore[no-untyped-def]
    for i in prange(p.size):
        p[i] -= lr * np.sign(beta1 * m[i] + rate1 * g[i])
        m[i] += rate2 * (g[i] - m[i])


def adopt(p, g, m, v, rate1, rate2, lr, eps, limit, first):  # type: ignore[no-untyped-def]
    if first:
        for i in prange(p.size):
            v[i] = g[i] * g[i]
    else:
        for i in prange(p.size):
            ratio = min(max(g[i] / max(np.sqrt(v[i]), eps), -limit), limit)
            m[i] += rate1 * (ratio - m[i])
            p[i] -= lr * m[i]
            v[i] += rate2 * (g[i] * g[i] - v[i])


def schedule_free(p, g, d, v, rate2, lr_d, root2, eps, c, rest, lr_y):  # type: ignore[no-untyped-def]
    # d is z - y.
    for i in prange(p.size):
        v[i] += rate2 * (g[i] * g[i] - v[i])
        step = root2 * g[i] / (np.sqrt(v[i]) + eps)
        p[i] += c * d[i] - lr_y * step
        d[i] = rest * (d[i] - lr_d * step)


# ------------------------------------------------------------------ the numbers of a step

#: Those of step `t`, by an optimizer `o` with the options.
Numbers = Callable[[Any, int], tuple[float, ...]]


def _nesterov(o: Any) -> tuple[float, ...]:
    return o.momentum, o.momentum**2, o.lr, (1 + o.momentum) * o.lr


def _means(o: Any) -> tuple[float, ...]:
    return 1 - o.beta1, 1 - o.beta2


def _means_eps(o: Any) -> tuple[float, ...]:
    return 1 - o.beta1, 1 - o.beta2, o.eps


def _root(o: Any, t: int) -> float:
    return math.sqrt(1 - o.beta2**t)


def _rate(o: Any, t: int) -> float:
    return float(o.lr * _root(o, t) / (1 - o.beta1**t))


def _radam(o: Any, t: int) -> tuple[float, ...]:
    power, lr = o.beta2**t, o.lr / (1 - o.beta1**t)
    longest = 2 / (1 - o.beta2) - 1
    length = longest - 2 * t * power / (1 - power)
    if length > 5:
        r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        lr *= math.sqrt(r * (1 - power))
    return lr, length > 5


def _bound(o: Any, t: int) -> tuple[float, ...]:
    low, high = 1 - 1 / (o.gamma * t + 1), 1 + 1 / (o.gamma * t)
    return _rate(o, t), o.final_lr * low, o.final_lr * high


def _nadam(o: Any, t: int) -> tuple[float, ...]:
    def mu(t: int) -> float:
        return float(o.beta1 * (1 - 0.5 * 0.96 ** (t * o.momentum_decay)))

    # The product of all until now is kept where the options are.
    o.mu_product *= mu(t)
    left, coming, root = 1 - o.mu_product, mu(t + 1), _root(o, t)
    lr_m = o.lr * root * coming / (1 - o.mu_product * coming)
    return o.lr * root * (1 - mu(t)) / left, lr_m, o.eps * root


def _schedule_free(o: Any, t: int) -> tuple[float, ...]:
    c, root = 1 / t, _root(o, t)  # at a constant rate, without warm-up
    return root, o.eps * root, c, 1 - c, o.lr * (1 - o.beta1 * (1 - c))


@dataclass(frozen=True)
class Loop:
    """The loop of one rule."""

    function: Callable[..., None]
    slots: int
    fixed: Callable[[Any], tuple[float, ...]]
    of_step: Numbers | None = None

    def compiled(self, threads: int) -> Callable[..., None]:
        """As fast as it gets: no check for a division by zero, threads only if there are some."""
        made: Callable[..., None] = njit(
            self.function, parallel=threads > 1, fastmath=True, error_model="numpy"
        )
        return made

    def numbers(self, o: Any) -> Iterator[tuple[np.float32, ...]]:
        """What the loop takes behind the arrays, step by step."""
        fixed = tuple(map(np.float32, self.fixed(o)))
        of_step = self.of_step
        if of_step is None:
            return itertools.repeat(fixed)
        return ((*fixed, *map(np.float32, of_step(o, t))) for t in itertools.count(1))


LOOPS = {
    "SGD": Loop(sgd, 0, lambda o: (o.lr,)),
    "Momentum": Loop(momentum, 1, lambda o: (o.momentum, o.lr)),
    "Nesterov": Loop(nesterov, 1, _nesterov),
    "NesterovBook2": Loop(nesterov_book2, 1, _nesterov),
    "AdaGrad": Loop(adagrad, 1, lambda o: (o.lr, o.eps)),
    "RMSprop": Loop(rmsprop, 1, lambda o: (1 - o.decay_rate, o.lr, o.eps)),
    # `eps` stands beside the root without correction here, and beside the corrected one there.
    "Adam": Loop(adam, 2, lambda o: (*_means(o), 1.0), lambda o, t: (_rate(o, t), o.eps)),
    "AdamW": Loop(
        adam,
        2,
        lambda o: (*_means(o), 1 - o.lr * o.weight_decay),
        lambda o, t: (_rate(o, t), o.eps * _root(o, t)),
    ),
    "AMSGrad": Loop(amsgrad, 3, _means_eps, lambda o, t: (_rate(o, t),)),
    "NAdam": Loop(nadam, 2, _means, _nadam),
    "RAdam": Loop(radam, 2, _means_eps, _radam),
    "Adamax": Loop(
        adamax,
        2,
        lambda o: (1 - o.beta1, o.beta2, o.eps),
        lambda o, t: (o.lr / (1 - o.beta1**t),),
    ),
    "AdaDelta": Loop(adadelta, 2, lambda o: (1 - o.decay_rate, o.lr, o.eps)),
    "AdaBound": Loop(adabound, 2, _means_eps, _bound),
    "AMSBound": Loop(amsbound, 3, _means_eps, _bound),
    "AdaBelief": Loop(adabelief, 2, _means_eps, lambda o, t: (_rate(o, t), o.eps * _root(o, t))),
    "Lion": Loop(lion, 1, lambda o: (o.beta1, 1 - o.beta1, 1 - o.beta2, o.lr)),
    "ADOPT": Loop(
        adopt,
        2,
        lambda o: (*_means(o), o.lr, o.eps),
        lambda o, t: ((t - 1) ** 0.25, t == 1),
    ),
    "ScheduleFreeAdamW": Loop(
        schedule_free, 2, lambda o: (1 - o.beta2, o.beta1 * o.lr), _schedule_free
    ),
}
