"""AdamW in plain NumPy."""

from math import sqrt
from typing import Any, Unpack

from zdlfast._options import Options, Rate
from zdlfast.reference.adam import Adam
from zdlfast.reference.amsgrad import AMSGrad


class AdamW(Adam, rule="AdamW"):
    """Adam as the paper has it, with weight decay that does not go through the gradients.

    ::

        t = t + 1
        p -= lr * weight_decay * p
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, finite and not negative, or a schedule of it: see `zdlfast.schedules`.
        May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    eps : float, default 1e-8
        Keeps the division finite where no gradient was seen yet. Keyword only.
    amsgrad : bool, default False
        Whether to divide by the largest ``v`` so far, as `AMSGrad` does. Cannot be changed after
        the first update. Keyword only.
    weight_decay, **options
        Those that every rule takes: see `zdlfast.Optimizer`. Weight decay is 0.01 here, and
        decoupled, if nothing else is said.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m, v : dict, list or None
        Running means of the gradients and of their squares, without bias correction: 8 bytes for
        each float32 element. None before the first update.
    v_max : dict, list or None
        The largest ``v`` so far, if ``amsgrad`` asks for it: 4 bytes more.

    Notes
    -----
    ``eps`` is added to the corrected root, as in the paper's algorithm and in PyTorch. `Adam`,
    the book's, adds it to the uncorrected one, where a number of the same size weighs more in the
    first steps. What is computed is ``lr_t * m / (sqrt(v) + eps_t)``, with
    ``lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)`` and ``eps_t = eps * sqrt(1 - beta2**t)``,
    which is the same.

    The decay is times the learning rate, as in PyTorch and optax; in the paper it is times the
    schedule alone, and optax has 1e-4 by default.

    References
    ----------
    Loshchilov, Hutter, "Decoupled weight decay regularization", arXiv:1711.05101. Kingma, Ba,
    "Adam: a method for stochastic optimization", arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdamW(lr=0.5, weight_decay=0.1)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6)
    array([0.45])
    """

    weight_decay = 0.01
    decoupled = True
    amsgrad: bool = False

    def __init__(
        self,
        lr: Rate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, beta1, beta2, eps=eps, **options)
        self.amsgrad = amsgrad

    def _scalars(self) -> tuple[float, ...]:
        t = self.iter + 1
        beta1, beta2 = self.beta1, self.beta2
        root2 = sqrt(1.0 - beta2**t)
        return 1 - beta1, 1 - beta2, self.lr * root2 / (1.0 - beta1**t), self.eps * root2

    @staticmethod
    def _rule(p: Any, g: Any, m: Any, v: Any, *rest: Any) -> tuple[Any, ...]:
        rule = Adam._rule if len(rest) == 4 else AMSGrad._rule
        return rule(p, g, m, v, *rest)
