"""The optimizers in plain NumPy: the slow path, and the oracle of the fast one.

Each class is one rule of "Deep Learning from Scratch" (Saito, O'Reilly Japan), in the
order of operations of the book's own code, so that float64 results equal the book's bit
for bit. A rule takes a parameter, its gradient, its state and the step's scalars, works
in place where NumPy can, and returns the new parameter and the new state.

The scalars of a step are Python floats, computed once in double precision. NumPy rounds
them to an array's own dtype, which keeps float32 training in float32. (The book's Adam
uses ``np.sqrt`` for its step size; that makes it an ``np.float64``, and since NumPy 2 the
whole update is then computed in double precision.)
"""

from math import sqrt
from typing import Any, ClassVar

import numpy as np

from zdlfast._contract import FRACTION, UNBOUNDED, Nonfinite, Optimizer, State


class SGD(Optimizer):
    """Stochastic gradient descent.

    ::

        p -= lr * g

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, finite and not negative. May be assigned between updates.
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.2.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0, -2.0])}
    >>> SGD(lr=0.1).update(params, {"W": np.array([10.0, 10.0])})
    >>> params["W"]
    array([ 0., -3.])
    """

    _options: ClassVar = {"lr": UNBOUNDED}

    def __init__(self, lr: float = 0.01, *, nonfinite: Nonfinite = "propagate") -> None:
        self.lr = lr
        self.nonfinite = nonfinite

    def _scalars(self) -> tuple[float, ...]:
        return (self.lr,)

    @staticmethod
    def _rule(p: Any, g: Any, lr: float) -> tuple[Any, ...]:
        p -= lr * g
        return (p,)


class Momentum(Optimizer):
    """SGD with a velocity that remembers past gradients.

    ::

        v = momentum * v - lr * g
        p += v

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, finite and not negative. May be assigned between updates.
    momentum : float, default 0.9
        The share of the velocity that survives a step, in [0, 1).
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    Attributes
    ----------
    v : dict, list or None
        Velocity of every parameter, of its shape. None before the first update.

    Notes
    -----
    The learning rate is inside the velocity, as in Keras and scikit-learn; PyTorch has it
    outside (``p -= lr * v``), which differs as soon as ``lr`` changes during training.

    The velocity is updated in place, where the book makes a new array each time. Only a
    gradient of a wider dtype makes a new one, of that dtype, as in the book.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.4. Polyak, "Some methods of speeding
    up the convergence of iteration methods", 1964.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Momentum(lr=0.1)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([1.0])})
    >>> optimizer.update(params, {"W": np.array([1.0])})
    >>> params["W"], optimizer.v["W"]
    (array([0.71]), array([-0.19]))
    """

    _slots = ("v",)
    _widens = True
    _options: ClassVar = {"lr": UNBOUNDED, "momentum": FRACTION}

    def __init__(
        self, lr: float = 0.01, momentum: float = 0.9, *, nonfinite: Nonfinite = "propagate"
    ) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: State = None
        self.nonfinite = nonfinite

    def _scalars(self) -> tuple[float, ...]:
        return self.momentum, self.lr

    @staticmethod
    def _rule(p: Any, g: Any, v: Any, momentum: float, lr: float) -> tuple[Any, ...]:
        v *= momentum
        step = lr * g
        dtype = np.promote_types(v.dtype, getattr(step, "dtype", v.dtype))
        if dtype == v.dtype.newbyteorder("="):
            v -= step
        else:
            v = v - step
        p += v
        return p, v


class Nesterov(Optimizer):
    """Nesterov's accelerated gradient, stored at the look-ahead point.

    ::

        p += momentum**2 * v            (the velocity before this step)
        p -= (1 + momentum) * lr * g
        v = momentum * v - lr * g

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, finite and not negative. May be assigned between updates.
    momentum : float, default 0.9
        The share of the velocity that survives a step, in [0, 1).
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

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

    _slots = ("v",)
    _options: ClassVar = {"lr": UNBOUNDED, "momentum": FRACTION}

    def __init__(
        self, lr: float = 0.01, momentum: float = 0.9, *, nonfinite: Nonfinite = "propagate"
    ) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: State = None
        self.nonfinite = nonfinite

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


class AdaGrad(Optimizer):
    """A step per element, shrunk by all of its past gradients.

    ::

        h += g * g
        p -= lr * g / (sqrt(h) + eps)

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, finite and not negative. May be assigned between updates.
    eps : float, default 1e-7
        Keeps the division finite where no gradient was seen yet. Keyword only.
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    Attributes
    ----------
    h : dict, list or None
        Sum of the squared gradients of every parameter. None before the first update.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.5. Duchi, Hazan, Singer, "Adaptive
    subgradient methods for online learning and stochastic optimization", 2011.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = AdaGrad(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(6), optimizer.h["W"]
    (array([0.5]), array([9.]))
    """

    _slots = ("h",)
    _options: ClassVar = {"lr": UNBOUNDED, "eps": UNBOUNDED}

    def __init__(
        self, lr: float = 0.01, *, eps: float = 1e-7, nonfinite: Nonfinite = "propagate"
    ) -> None:
        self.lr = lr
        self.eps = eps
        self.h: State = None
        self.nonfinite = nonfinite

    def _scalars(self) -> tuple[float, ...]:
        return self.lr, self.eps

    @staticmethod
    def _rule(p: Any, g: Any, h: Any, lr: float, eps: float) -> tuple[Any, ...]:
        h += g * g
        p -= lr * g / (np.sqrt(h) + eps)
        return p, h


class RMSprop(Optimizer):
    """AdaGrad that forgets: a running mean in place of the sum.

    ::

        h = decay_rate * h + (1 - decay_rate) * g * g
        p -= lr * g / (sqrt(h) + eps)

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate, finite and not negative. May be assigned between updates.
    decay_rate : float, default 0.99
        The share of the mean that survives a step, in [0, 1).
    eps : float, default 1e-7
        Keeps the division finite where no gradient was seen yet. Keyword only.
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    Attributes
    ----------
    h : dict, list or None
        Running mean of the squared gradients. None before the first update.

    References
    ----------
    Saito, "Deep Learning from Scratch", ``common/optimizer.py``. Tieleman, Hinton,
    "Lecture 6.5: RMSProp", Neural Networks for Machine Learning, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = RMSprop(lr=0.1, decay_rate=0.75)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"].round(6), optimizer.h["W"]
    (array([0.8]), array([1.]))
    """

    _slots = ("h",)
    _options: ClassVar = {"lr": UNBOUNDED, "decay_rate": FRACTION, "eps": UNBOUNDED}

    def __init__(
        self,
        lr: float = 0.01,
        decay_rate: float = 0.99,
        *,
        eps: float = 1e-7,
        nonfinite: Nonfinite = "propagate",
    ) -> None:
        self.lr = lr
        self.decay_rate = decay_rate
        self.eps = eps
        self.h: State = None
        self.nonfinite = nonfinite

    def _scalars(self) -> tuple[float, ...]:
        return self.decay_rate, 1 - self.decay_rate, self.lr, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, h: Any, decay: float, rate: float, lr: float, eps: float
    ) -> tuple[Any, ...]:
        h *= decay
        h += rate * g * g
        p -= lr * g / (np.sqrt(h) + eps)
        return p, h


class Adam(Optimizer):
    """Adaptive moment estimation: a mean gradient over the root of a mean square.

    ::

        t = t + 1
        lr_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        m += (1 - beta1) * (g - m)
        v += (1 - beta2) * (g**2 - v)
        p -= lr_t * m / (sqrt(v) + eps)

    Parameters
    ----------
    lr : float, default 0.001
        Learning rate, finite and not negative. May be assigned between updates.
    beta1, beta2 : float, default 0.9 and 0.999
        The shares of the two means that survive a step, in [0, 1).
    eps : float, default 1e-7
        Keeps the division finite where no gradient was seen yet. Keyword only.
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.

    Attributes
    ----------
    iter : int
        The number of updates so far.
    m, v : dict, list or None
        Running means of the gradients and of their squares, without bias correction.
        None before the first update.

    Notes
    -----
    The bias correction has the power ``t``, as in the paper and in the book's code; some
    texts print it without. ``eps`` is added to the uncorrected root (the "epsilon hat" of
    the paper's section 2); PyTorch adds 1e-8 after the correction.

    References
    ----------
    Saito, "Deep Learning from Scratch", section 6.1.6. Kingma, Ba, "Adam: a method for
    stochastic optimization", arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> optimizer = Adam(lr=0.5)
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4), optimizer.iter
    (array([0.5]), 1)
    """

    _slots = ("m", "v")
    _counter = "iter"
    _options: ClassVar = {"lr": UNBOUNDED, "beta1": FRACTION, "beta2": FRACTION, "eps": UNBOUNDED}

    def __init__(
        self,
        lr: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-7,
        nonfinite: Nonfinite = "propagate",
    ) -> None:
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.iter = 0
        self.m: State = None
        self.v: State = None
        self.nonfinite = nonfinite

    def _scalars(self) -> tuple[float, ...]:
        t = self.iter + 1
        beta1, beta2 = self.beta1, self.beta2
        lr_t = self.lr * sqrt(1.0 - beta2**t) / (1.0 - beta1**t)
        return 1 - beta1, 1 - beta2, lr_t, self.eps

    @staticmethod
    def _rule(
        p: Any, g: Any, m: Any, v: Any, rate1: float, rate2: float, lr_t: float, eps: float
    ) -> tuple[Any, ...]:
        m += rate1 * (g - m)
        v += rate2 * (g**2 - v)
        p -= lr_t * m / (np.sqrt(v) + eps)
        return p, m, v
