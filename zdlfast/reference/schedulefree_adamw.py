"""Schedule-free AdamW in plain NumPy."""

from dataclasses import replace
from math import inf, sqrt
from typing import Any, Unpack

import numpy as np

from zdlfast import _entries
from zdlfast import _validation as validation
from zdlfast._encoded import Encoding
from zdlfast._groups import Group
from zdlfast._optimizer import Optimizer, Params, Rollback, State
from zdlfast._options import Options, Rate


class ScheduleFreeAdamW(Optimizer, rule="ScheduleFreeAdamW"):
    """AdamW that needs no schedule: it trains at one point, and evaluates at a mean of points.

    ::

        t = t + 1
        lr_t = lr * min(1, t / warmup_steps)
        lr_max = max(lr_max, lr_t)
        weight = t**r * lr_max**weight_lr_power
        weight_sum = weight_sum + weight
        c = weight / weight_sum
        v += (1 - beta2) * (g**2 - v)
        step = g / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y
        x = (1 - c) * x + c * (z - lr_t * step)
        z = z - lr_t * step
        y = beta1 * x + (1 - beta1) * z

    The parameters are ``y`` while the network is trained, and ``x`` while it is evaluated:
    `train` and `eval` move them from one to the other. Gradients are those at ``y``.

    Parameters
    ----------
    lr : float or callable, default 0.0025
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The share of ``x`` in ``y``, and the share of the mean square that survives a step, in
        [0, 1).
    warmup_steps : float, default 0
        The number of updates in which the learning rate grows to ``lr``. Keyword only.
    r : float, default 0
        The power of ``t`` in the weight of a point. Keyword only.
    weight_lr_power : float, default 2
        The power of the learning rate in the weight of a point. Keyword only.
    eps : float, default 1e-8
        Keeps the division finite where no gradient was seen yet. Keyword only.
    weight_decay, **options
        Those that every rule takes: see `zdlfast.Optimizer`. Weight decay is decoupled here, if
        ``decoupled=False`` does not say otherwise: it is added to the step, as above.
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    weight_sum, lr_max : float
        The sum of the weights, and the largest learning rate, of all updates so far.
    training : bool
        Whether the parameters are ``y``. True at first, when all three points are one.
    d, v : dict, list or None
        ``z - y``, and the running mean of the squared gradients without bias correction: 8 bytes
        for each float32 element. None before the first update.

    Notes
    -----
    The form is that of the authors' package, of which the file ``adamw_schedulefree_paper.py``
    gives other numbers, however: it has no bias correction within the division. There a new
    optimizer has to be told to train. It keeps ``z`` where ``z - y`` is kept here, which is zero
    at first. Optax has neither ``r`` nor a warm-up that begins above zero.

    To go from ``y`` to ``x`` and back may change the last digit of a parameter.

    A network with batch normalization takes its means at ``y``; to evaluate it at ``x``, let it
    see some training data there first.

    References
    ----------
    Defazio, Yang, Mehta, Mishchenko, Khaled, Cutkosky, "The road less scheduled",
    arXiv:2405.15682.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = ScheduleFreeAdamW(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> for _ in range(2):
    ...     optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6)
    array([0.225])
    >>> optimizer.eval(params)
    >>> params["W"].round(6)
    array([0.25])
    >>> optimizer.train(params)
    """

    decoupled = True
    training: bool = True

    def __init__(
        self,
        lr: Rate = 0.0025,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        warmup_steps: float = 0.0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        eps: float = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.warmup_steps = warmup_steps
        self.r = r
        self.weight_lr_power = weight_lr_power
        self.eps = eps
        self.iter = 0
        self.weight_sum = 0.0
        self.lr_max = 0.0
        self.d: State = None
        self.v: State = None

    def train(self, params: Params) -> None:
        """Put the point at which the network is trained into its parameters: ``y``.

        Parameters
        ----------
        params : mapping or list
            All that this optimizer updates. Arrays are changed in place.

        Raises
        ------
        KeyError
            One of them is missing.
        ValueError
            ``beta1`` is zero, so that ``x`` is not known.
        """
        self._locked(True, self._move, params, True)

    def eval(self, params: Params) -> None:
        """Put the point at which the network is evaluated, or saved, into its parameters: ``x``.

        Parameters, errors: see `train`. An update raises a RuntimeError until `train` is called.
        """
        self._locked(True, self._move, params, False)

    def _move(self, params: Any, training: bool) -> None:
        if training == self.training:
            return
        found, entries = validation.with_state(self, params), []
        if self.overrides is not None:
            self.overrides.resolve(key for key, *_ in found)
        for place, (key, value, *held) in enumerate(found):
            if held[0] is None:
                continue
            to_x = self._to_x(key)
            # What was never updated may be read-only.
            if np.any(held[0]):
                group = replace(_UNCHANGED, scalars=(-to_x if training else to_x,))
                entries.append(_entries.make_entry(
                    place, key, value, 0.0, tuple(held), group, self._slots, params
                ))  # fmt: skip
        with Rollback() as rollback:
            _entries.run(_moved, entries, params, rollback, copies=True)
            rollback.finish(setattr, self, "training", training)

    def _to_x(self, key: Any) -> float:
        """What ``d`` is multiplied by to go from ``y`` to ``x``."""
        beta1 = self.beta1
        if self.overrides is not None:
            options = self.overrides.groups[self.overrides.group_of[key]]
            beta1 = options.get("beta1", beta1)
        if beta1 == 0.0:
            raise ValueError("with beta1=0.0 there is no point to evaluate at, expected > 0")
        return 1.0 - 1.0 / beta1

    def _check_ready(self) -> None:
        if not self.training:
            raise RuntimeError(
                "the parameters are those to evaluate with: call train(params) before an update"
            )

    def _schedule(self, lr: float) -> tuple[float, float, float, float]:
        """The rate of the coming step, the weight of its point, and the numbers after it."""
        t, lr_t = self.iter + 1, lr
        if t < self.warmup_steps:
            lr_t = lr_t * (t / self.warmup_steps)
        lr_max = max(self.lr_max, lr_t)
        weight = _power(t, self.r) * _power(lr_max, self.weight_lr_power)
        return lr_t, weight, self.weight_sum + weight, lr_max

    def _next_numbers(self) -> tuple[float, ...]:
        return self._schedule(self._lr_now())[2:]

    def _scalars(self) -> tuple[float, ...]:
        lr_t, weight, weight_sum, _ = self._schedule(self.lr)
        c = weight / weight_sum if weight_sum else 0.0
        beta1, root2 = self.beta1, sqrt(1.0 - self.beta2 ** (self.iter + 1))
        lr_y = lr_t * (1.0 - beta1 * (1.0 - c))
        decay = self.weight_decay if self.decoupled else 0.0
        return (
            1 - self.beta2, root2, self.eps * root2, decay, c, lr_y, 1 - c,
            beta1 * lr_t,
        )  # fmt: skip

    @staticmethod
    def _rule(
        p: Any, g: Any, d: Any, v: Any,
        rate2: float, root2: float, eps: float, weight_decay: float,
        c: float, lr_y: float, rest: float, lr_d: float,
    ) -> tuple[Any, ...]:  # fmt: skip
        v += rate2 * (g**2 - v)
        step = root2 * g / (np.sqrt(v) + eps)
        if weight_decay != 0.0:
            step = step + weight_decay * p
        p += c * d
        p -= lr_y * step
        d -= lr_d * step
        d *= rest
        return p, d, v


# A group of options that do nothing.
_UNCHANGED = Group(
    step=0, scalars=(), g_scale=1.0, clip_value=None, decay=0.0, p_decay=1.0, flush=False,
    frozen=False, encoding=Encoding(None, 0, False, 0, (), ()),
)  # fmt: skip


def _power(x: float, y: float) -> float:
    try:
        return float(float(x) ** y)
    except OverflowError:
        return inf


def _moved(p: Any, g: Any, d: Any, v: Any, factor: float) -> tuple[Any, ...]:
    p += factor * d
    return p, d, v
