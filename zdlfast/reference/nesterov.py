"""Nesterov's accelerated gradient in plain NumPy."""

import warnings
from typing import Any, Unpack

from zdlfast._optimizer import Optimizer, State
from zdlfast._options import Options, Rate


class Nesterov(Optimizer, rule="Nesterov"):
    """Nesterov's accelerated gradient, stored at the look-ahead point.

    ::

        p += momentum**2 * v            (the velocity before this step)
        p -= (1 + momentum) * lr * g
        v = momentum * v - lr * g

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    momentum : float, default 0.9
        The share of the velocity that survives a step, in [0, 1).
    **options
        Those that every rule takes: see `zdlfast.Optimizer`.

    Attributes
    ----------
    v : dict, list or None
        Velocity of every parameter, of its shape. None before the first update.

    Notes
    -----
    The parameters are the look-ahead points of the textbook method. Book 2, and copies of
    book 1 older than 2021, update ``v`` before they use it; that is another rule, and not
    Nesterov's. This class has book 1's rule for dicts and lists alike.

    References
    ----------
    Saito, "Deep Learning from Scratch", ``common/optimizer.py``. Bengio,
    Boulanger-Lewandowski, Pascanu, "Advances in optimizing recurrent networks",
    arXiv:1212.0901, equations 6 and 7.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> Nesterov(lr=0.1).update(params, {"W": np.array([1.0])})
    >>> params["W"]
    array([0.81])
    """

    def __init__(self, lr: Rate = 0.01, momentum: float = 0.9, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.lr = lr
        self.momentum = momentum
        self.v: State = None

    def __setstate__(self, state: Any) -> None:
        # What the book's own class leaves is a dict, without this option; book 2's has lists.
        books = isinstance(state, dict) and "nonfinite" not in state
        mine = type(self)._rule is Nesterov._rule
        if mine and books and isinstance(state.get("v"), list):
            warnings.warn(
                "a Nesterov with lists that the book's own class pickled is book 2's: it goes on "
                "by book 1's rule, which is another one (zdlfast.NesterovBook2 has book 2's)",
                RuntimeWarning,
                stacklevel=2,
            )
        super().__setstate__(state)

    def _scalars(self) -> tuple[float, ...]:
        momentum, lr = self.momentum, self.lr
        return momentum * momentum, (1 + momentum) * lr, momentum, lr

    @staticmethod
    def _rule(
        p: Any, g: Any, v: Any, momentum2: float, lr_ahead: float, momentum: float, lr: float
    ) -> tuple[Any, ...]:
        p += momentum2 * v
        p -= lr_ahead * g
        v *= momentum
        v -= lr * g
        return p, v
