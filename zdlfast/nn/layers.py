"""Layers: each takes a batch forwards, and the gradient of the loss backwards.

Rows are samples. No layer writes to what it is given, and gradients are new arrays at every call:
the article's ReLU zeroes parts of the gradient it receives, these do not. What went forwards has
to stay as it is until `backward`, which needs it.
"""

import numpy as np
from numpy.typing import DTypeLike

from zdlfast.nn._checks import instance, number, positive, whole
from zdlfast.nn.initializers import He, Initializer, float_dtype

Seed = np.random.Generator | int | None


class Layer:
    """The base of all layers: one without parameters.

    Attributes
    ----------
    params : dict of ndarray
        By the book's names: ``W``, ``b``, ``gamma``, ``beta``. Updated in place by an optimizer.
    grads : dict of ndarray
        Of the same keys, new at every `backward`.
    decays : tuple of str
        The parameters that weight decay applies to.
    """

    decays: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The outputs for a batch.

        Parameters
        ----------
        x : ndarray, shape (n, inputs)
            One row per sample.
        training : bool
            Whether to behave as in training (`Dropout`, `BatchNormalization`).
        """
        raise NotImplementedError

    def backward(self, dout: np.ndarray) -> np.ndarray:
        """The gradient of the loss with respect to the inputs, from that to the outputs.

        Goes back through the latest `forward`, and sets `grads`.
        """
        raise NotImplementedError

    def _check(self, x: np.ndarray, columns: int) -> None:
        if x.ndim != 2 or x.shape[1] != columns or len(x) == 0:
            raise ValueError(
                f"{self!r}: expected inputs of shape (n, {columns}) with n > 0, got {x.shape}"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Affine(Layer):
    """A fully connected layer: ``x @ W + b``.

    Parameters
    ----------
    inputs, outputs : int
        The numbers of columns.
    init : Initializer
        Of the weights; the bias starts at 0.
    rng : numpy.random.Generator or int, optional
        What draws the weights, or a seed.
    dtype : data-type
        float32 or float64.

    Raises
    ------
    ValueError
        A number of columns is less than 1, or `forward` gets a batch of another shape.
    """

    decays = ("W",)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        init: Initializer | None = None,
        *,
        rng: Seed = None,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__()
        inputs, outputs = whole("Affine", "inputs", inputs), whole("Affine", "outputs", outputs)
        init = He() if init is None else init
        instance("Affine", "init", init, Initializer)
        self.params["W"] = init((inputs, outputs), np.random.default_rng(rng), dtype)
        self.params["b"] = np.zeros(outputs, float_dtype(dtype))

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self._check(x, len(self.params["W"]))
        self._x = x
        out: np.ndarray = x @ self.params["W"] + self.params["b"]
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        self.grads = {"W": self._x.T @ dout, "b": dout.sum(axis=0)}
        dx: np.ndarray = dout @ self.params["W"].T
        return dx

    def __repr__(self) -> str:
        return "Affine({}, {})".format(*self.params["W"].shape)


class ReLU(Layer):
    """The larger one of the input and 0."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self._positive = x > 0
        out: np.ndarray = np.maximum(x, 0)
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dx: np.ndarray = np.where(self._positive, dout, np.zeros((), dout.dtype))
        return dx


class Sigmoid(Layer):
    """``1 / (1 + exp(-x))``, without overflow for any input."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        out: np.ndarray = np.exp(-np.logaddexp(0, x * -1.0))  # -x would wrap unsigned integers
        self._out = out
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dx: np.ndarray = dout * (1 - self._out) * self._out
        return dx


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        out: np.ndarray = np.tanh(x)
        self._out = out
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dx: np.ndarray = dout * (1 - self._out * self._out)
        return dx


class BatchNormalization(Layer):
    """Makes each column of a batch of mean 0 and variance 1, then scales and shifts it.

    In training by the statistics of the batch, of which a running mean is kept; in inference by
    that (Ioffe and Szegedy, 2015; book 1, section 6.3).

    Parameters
    ----------
    size : int
        The number of columns.
    momentum : float
        The share of the old running mean in the new one, in [0, 1).
    eps : float
        Is added to the variance. The book's 10e-7, which is 1e-6.
    dtype : data-type
        float32 or float64.

    Attributes
    ----------
    running_mean, running_var : ndarray, shape (size,)
        What inference uses.
    """

    def __init__(
        self,
        size: int,
        *,
        momentum: float = 0.9,
        eps: float = 1e-6,
        dtype: DTypeLike = np.float64,
    ) -> None:
        super().__init__()
        size = whole("BatchNormalization", "size", size)
        self.momentum = number("BatchNormalization", "momentum", momentum, below=1)
        self.eps = positive("BatchNormalization", "eps", eps)
        dtype = float_dtype(dtype)
        if dtype.type(self.eps) == 0:
            raise ValueError(f"BatchNormalization: eps must be > 0 in {dtype}, got {eps!r}")
        self.params = {"gamma": np.ones(size, dtype), "beta": np.zeros(size, dtype)}
        self.running_mean, self.running_var = np.zeros(size, dtype), np.ones(size, dtype)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        self._check(x, len(self.running_mean))
        if training:
            mean, var = x.mean(axis=0), x.var(axis=0)
            for running, now in ((self.running_mean, mean), (self.running_var, var)):
                running *= self.momentum
                running += (1 - self.momentum) * now
        else:
            mean, var = self.running_mean, self.running_var
        self._training = training
        self._std = np.sqrt(var + self.eps)
        self._normal = (x - mean) / self._std
        out: np.ndarray = self.params["gamma"] * self._normal + self.params["beta"]
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        self.grads = {"gamma": (dout * self._normal).sum(axis=0), "beta": dout.sum(axis=0)}
        dnormal = dout * self.params["gamma"]
        if self._training:
            # The batch's own statistics depend on each of its samples.
            dnormal = (
                dnormal
                - dnormal.mean(axis=0)
                - self._normal * (dnormal * self._normal).mean(axis=0)
            )
        dx: np.ndarray = dnormal / self._std
        return dx

    def __repr__(self) -> str:
        return f"BatchNormalization({len(self.running_mean)})"


class Dropout(Layer):
    """In training, drops units at random, anew at each pass; in inference, scales all down.

    As in the book: what is kept in training is passed on as it is, and outputs are multiplied by
    ``1 - ratio`` in inference (Srivastava et al., 2014).

    Parameters
    ----------
    ratio : float
        The share of units to drop, in [0, 1).
    rng : numpy.random.Generator or int, optional
        What draws, or a seed.

    Raises
    ------
    ValueError
        The ratio is no such number.
    """

    def __init__(self, ratio: float = 0.5, *, rng: Seed = None) -> None:
        super().__init__()
        self.ratio = number("Dropout", "ratio", ratio, below=1)
        self.rng = np.random.default_rng(rng)

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        if training:
            self._factor: np.ndarray | float = (self.rng.random(x.shape) >= self.ratio).astype(
                x.dtype
            )
        else:
            self._factor = 1 - self.ratio
        return x * self._factor

    def backward(self, dout: np.ndarray) -> np.ndarray:
        return dout * self._factor

    def __repr__(self) -> str:
        return f"Dropout({self.ratio!r})"
