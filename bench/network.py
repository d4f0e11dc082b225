"""The workload: the network and the data of the Adam article, in plain NumPy.

Three affine layers with ReLU between them, softmax and cross entropy; all weights normal
with standard deviation 0.01. As in the article, the gradient is of the batch's summed loss.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike
from sklearn.datasets import load_digits

SIZES = (784, 200, 200, 10)


class Digits:
    """scikit-learn's 1,797 handwritten digits in MNIST's format, as floats in [0, 1].

    Each of the 8x8 pixels becomes a square of 3x3, within a black border of 2 pixels.

    Parameters
    ----------
    dtype : data-type
        Of the images, of shape (n, 784), and of the one-hot labels, of shape (n, 10).
    """

    def __init__(self, dtype: DTypeLike) -> None:
        digits = load_digits()
        images = np.kron(digits.images / 16.0, np.ones((3, 3)))
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
        x = images.reshape(len(images), SIZES[0]).astype(dtype)
        t = np.eye(SIZES[-1], dtype=dtype)[digits.target]
        order = np.random.default_rng(8).permutation(len(x))
        test, train = order[:297], order[297:]
        self.x_train, self.t_train = x[train], t[train]
        self.x_test, self.t_test = x[test], t[test]


class Network:
    """784-200-200-10.

    Parameters
    ----------
    dtype : data-type
        Of the parameters and, with data of the same dtype, of all arithmetic.
    seed : int
        Of the initial weights.
    """

    def __init__(self, dtype: DTypeLike, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.params: dict[str, np.ndarray] = {}
        for i, (rows, columns) in enumerate(pairwise(SIZES), start=1):
            self.params[f"W{i}"] = (0.01 * rng.standard_normal((rows, columns))).astype(dtype)
            self.params[f"b{i}"] = np.zeros(columns, dtype)

    def _forward(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p = self.params
        h1 = np.maximum(x @ p["W1"] + p["b1"], 0)
        h2 = np.maximum(h1 @ p["W2"] + p["b2"], 0)
        logits = h2 @ p["W3"] + p["b3"]
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return h1, h2, exp / exp.sum(axis=1, keepdims=True)

    def gradient(self, x: np.ndarray, t: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The mean loss of a batch, and the gradient of its sum by backpropagation."""
        h1, h2, y = self._forward(x)
        loss = -np.sum(t * np.log(y + 1e-7)) / len(x)
        d3 = y - t
        d2 = (d3 @ self.params["W3"].T) * (h2 > 0)
        d1 = (d2 @ self.params["W2"].T) * (h1 > 0)
        grads = {}
        for i, (activation, delta) in enumerate([(x, d1), (h1, d2), (h2, d3)], start=1):
            grads[f"W{i}"] = activation.T @ delta
            grads[f"b{i}"] = delta.sum(axis=0)
        return float(loss), grads

    def accuracy(self, x: np.ndarray, t: np.ndarray) -> float:
        """The share of images whose digit is recognised."""
        return float(np.mean(self._forward(x)[2].argmax(axis=1) == t.argmax(axis=1)))
