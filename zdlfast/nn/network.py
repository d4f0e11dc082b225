"""Networks: layers one after the other, with a loss at the end."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from zdlfast.nn._checks import instance, number
from zdlfast.nn.initializers import Initializer
from zdlfast.nn.layers import Affine, BatchNormalization, Dropout, Layer, ReLU, Seed
from zdlfast.nn.losses import SoftmaxCrossEntropy, one_hot


class Sequential:
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        From the input to the scores of the classes.
    loss : SoftmaxCrossEntropy, optional
        What training makes small.
    weight_decay : float
        The factor λ of the penalty ``λ / 2 * sum(W ** 2)``, which is added to the loss. Weights
        are decayed, biases and batch normalization are not, as in the book (section 6.4.2).

    Attributes
    ----------
    params : dict of ndarray
        All parameters, by the book's names with the number of the fully connected layer that they
        belong to: ``W1``, ``b1``, ``gamma1``, ``beta1``, ``W2``… For ``optimizer.update``.
    batch_loss : float
        The loss of the batch that `gradient` saw last.

    Raises
    ------
    ValueError
        There is no layer, one is there twice, or they have different dtypes; the weight decay is
        negative or not finite.
    """

    def __init__(
        self,
        *layers: Layer,
        loss: SoftmaxCrossEntropy | None = None,
        weight_decay: float = 0.0,
    ) -> None:
        if not layers:
            raise ValueError("Sequential: expected at least one layer")
        for i, layer in enumerate(layers):
            instance("Sequential", f"layer {i + 1}", layer, Layer)
            if any(layer is other for other in layers[:i]):
                raise ValueError(f"Sequential: {layer!r} is used twice, expected a layer for each")
        self.layers = layers
        self.last = SoftmaxCrossEntropy() if loss is None else loss
        instance("Sequential", "loss", self.last, SoftmaxCrossEntropy)
        self.weight_decay = number("Sequential", "weight_decay", weight_decay)
        self.batch_loss = math.nan
        self.params: dict[str, np.ndarray] = {}
        # Where each parameter lies: its layer, and its name there.
        self._places: dict[str, tuple[Layer, str]] = {}
        place = 0
        for layer in layers:
            place += isinstance(layer, Affine)
            for name, value in layer.params.items():
                key = f"{name}{place}"
                if key in self.params:
                    raise ValueError(f"Sequential: two layers have a parameter {key}")
                self.params[key] = value
                self._places[key] = layer, name
        dtypes = {str(value.dtype) for value in self.params.values()}
        if len(dtypes) > 1:
            raise ValueError(f"Sequential: expected layers of one dtype, got {sorted(dtypes)}")

    def predict(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The scores of a batch, one column per class.

        Parameters
        ----------
        x : ndarray, shape (n, inputs)
            One row per sample.
        training : bool
            Whether layers behave as in training.

        Raises
        ------
        ValueError
            The batch is empty, of another shape, or holds NaN, infinity, or a number that is
            infinite in the dtype of the parameters.
        TypeError
            The batch is not of real numbers.
        """
        x = self._batch(x)
        for key, (layer, name) in self._places.items():
            layer.params[name] = self.params[key]  # it may be another array now
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def _batch(self, x: np.ndarray) -> np.ndarray:
        """`x`, checked, in the dtype of the parameters, which is that of the whole network."""
        x = np.asarray(x)
        if x.dtype.kind not in "biuf":
            raise TypeError(f"the batch x has dtype {x.dtype}, expected real numbers")
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"the batch x has shape {x.shape}, expected at least one sample")
        dtypes = (value.dtype for value in self.params.values())
        dtype = next(dtypes, np.result_type(x, np.float32))
        with np.errstate(over="ignore"):
            batch = x.astype(dtype, copy=False)
        finite = np.isfinite(batch)
        if not finite.all():
            raise ValueError(
                f"the batch x holds {x[~finite][0]}, expected finite numbers of {dtype}"
            )
        return batch

    def loss(self, x: np.ndarray, t: np.ndarray, training: bool = False) -> float:
        """The loss of a batch, with the penalty of the weight decay.

        Parameters
        ----------
        x : ndarray, shape (n, inputs)
            One row per sample.
        t : ndarray, shape (n,) or (n, classes)
            Labels as whole numbers, or one-hot.
        training : bool
            Whether layers behave as in training.
        """
        loss = self.last.forward(self.predict(x, training), t)
        if self.weight_decay:
            for layer, name in self._places.values():
                if name in layer.decays:
                    weights = layer.params[name]
                    loss += 0.5 * self.weight_decay * float(np.sum(weights * weights))
        return loss

    def gradient(self, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
        """The gradient of the loss in training for every parameter, by backpropagation.

        Parameters are as for `loss`.

        Returns
        -------
        dict of ndarray
            Of the keys of `params`. The arrays are new ones at every call.
        """
        self.batch_loss = self.loss(x, t, training=True)
        dout = self.last.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        grads = {}
        for key, (layer, name) in self._places.items():
            grads[key] = layer.grads[name]
            if self.weight_decay and name in layer.decays:
                grads[key] = grads[key] + self.weight_decay * layer.params[name]
        return grads

    def accuracy(self, x: np.ndarray, t: np.ndarray) -> float:
        """The share of samples whose highest score is that of their label.

        Where scores are NaN, nothing was predicted, and that is no success.
        """
        scores = self.predict(x)
        right = scores.argmax(axis=1) == one_hot(t, scores).argmax(axis=1)
        return float(np.mean(right & ~np.isnan(scores).any(axis=1)))

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self.layers))})"


def dense_network(
    *sizes: int,
    activation: type[Layer] = ReLU,
    init: Initializer | None = None,
    batch_normalization: bool = False,
    dropout: float = 0.0,
    rng: Seed = None,
    dtype: DTypeLike = np.float64,
    loss: SoftmaxCrossEntropy | None = None,
    weight_decay: float = 0.0,
) -> Sequential:
    """Fully connected layers with an activation between them: the book's MultiLayerNet.

    Parameters
    ----------
    *sizes : int
        The numbers of inputs, of units of each hidden layer, and of classes.
    activation : type
        The layer after each hidden one: `ReLU`, `Sigmoid` or `Tanh`.
    init : Initializer, optional
        Of the weights; `He` by default.
    batch_normalization : bool
        Whether to normalize between each hidden layer and its activation.
    dropout : float
        The share of units to drop after each activation, in [0, 1).
    rng : numpy.random.Generator or int, optional
        What draws weights and dropped units, or a seed.
    dtype, loss, weight_decay
        As for `Affine` and `Sequential`.

    Examples
    --------
    >>> network = dense_network(784, 50, 100, 10, rng=8)
    >>> sum(value.size for value in network.params.values())
    45360
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must be at least inputs and classes, got {sizes}")
    if not (isinstance(activation, type) and issubclass(activation, Layer)):
        raise TypeError(f"activation must be a class of layers such as ReLU, got {activation!r}")
    rng = np.random.default_rng(rng)
    layers: list[Layer] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers.append(Affine(inputs, outputs, init, rng=rng, dtype=dtype))
        if batch_normalization:
            layers.append(BatchNormalization(outputs, dtype=dtype))
        layers.append(activation())
        if dropout:
            layers.append(Dropout(dropout, rng=rng))
    layers.append(Affine(sizes[-2], sizes[-1], init, rng=rng, dtype=dtype))
    return Sequential(*layers, loss=loss, weight_decay=weight_decay)
