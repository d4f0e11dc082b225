"""Book 2's Nesterov in plain NumPy."""

from typing import Any

from zdlfast.reference.nesterov import Nesterov


class NesterovBook2(Nesterov, rule="NesterovBook2"):
    """The rule that book 2 calls Nesterov.

    ::

        v = momentum * v - lr * g
        p += momentum**2 * v            (the velocity of this step)
        p -= (1 + momentum) * lr * g

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    momentum : float, default 0.9
        The share of the velocity that survives a step, in [0, 1).
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    Attributes
    ----------
    v : dict, list or None
        Velocity of every parameter, of its shape: 4 bytes for each float32 element. None before
        the first update.

    Notes
    -----
    It is here so that a script of book 2 can go on with its own numbers. It is not Nesterov's
    method, whose velocity is that of the step before: see `Nesterov`. Copies of book 1 older than
    2021 have it too.

    References
    ----------
    Saito, "Deep Learning from Scratch 2", ``common/optimizer.py``.

    Examples
    --------
    >>> import numpy as np
    >>> params = [np.array([1.0])]
    >>> NesterovBook2(lr=0.1).update(params, [np.array([1.0])])
    >>> params[0].round(6)
    array([0.729])
    """

    @staticmethod
    def _rule(
        p: Any, g: Any, v: Any, momentum2: float, lr_ahead: float, momentum: float, lr: float
    ) -> tuple[Any, ...]:
        v *= momentum
        v -= lr * g
        p += momentum2 * v
        p -= lr_ahead * g
        return p, v
