"""The loss at the end of a network."""

from typing import Literal

import numpy as np


class SoftmaxCrossEntropy:
    """Softmax, and the cross entropy between it and the labels.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Whether the loss of a batch is the mean of its samples' losses, or their sum. The
        gradient is that of this loss.

    Notes
    -----
    The code of the Adam article shows the mean of the loss and goes on with the gradient of the
    sum, which is larger by the size of the batch: that makes its plain SGD with lr 0.001 learn
    at all. ``reduction="sum"`` has this gradient. The book adds 1e-7 within the logarithm, so
    that it is never that of 0; the logarithm of the softmax, computed at once, needs no such
    thing.
    """

    def __init__(self, reduction: Literal["mean", "sum"] = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(
                f"SoftmaxCrossEntropy: reduction must be 'mean' or 'sum', got {reduction!r}"
            )
        self.reduction = reduction

    def forward(self, scores: np.ndarray, t: np.ndarray) -> float:
        """The loss of a batch.

        Parameters
        ----------
        scores : ndarray, shape (n, classes)
            What the last layer gives.
        t : ndarray, shape (n,) or (n, classes)
            Labels as whole numbers, or one-hot.

        Raises
        ------
        ValueError
            A shape does not fit, a label is out of range, or the batch is empty.
        TypeError
            Labels are no whole numbers, or scores are no floats.
        """
        self._t = one_hot(t, scores)
        shifted = scores - scores.max(axis=1, keepdims=True)
        exp = np.exp(shifted)
        total = exp.sum(axis=1, keepdims=True)
        self._y = exp / total
        loss = -np.sum(self._t * (shifted - np.log(total)))
        return float(loss / self._divisor())

    def backward(self) -> np.ndarray:
        """The gradient of the latest loss with respect to the scores."""
        gradient: np.ndarray = (self._y - self._t) / self._divisor()
        return gradient

    def _divisor(self) -> int:
        return len(self._y) if self.reduction == "mean" else 1

    def __repr__(self) -> str:
        return f"SoftmaxCrossEntropy({self.reduction!r})"


def one_hot(t: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Labels as one row per sample with a 1 at the label, checked, in the dtype of the scores."""
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"scores must have shape (n, classes), got {scores.shape}")
    if scores.dtype.kind != "f":
        raise TypeError(f"scores have dtype {scores.dtype}, expected floats")
    n, classes = scores.shape
    t = np.asarray(t)
    if n == 0:
        raise ValueError("the batch is empty, expected at least one sample")
    if t.shape == (n, classes) and t.dtype.kind not in "biuf":
        raise TypeError(f"one-hot labels have dtype {t.dtype}, expected numbers")
    if t.shape == (n, classes):
        if not (np.all(t >= 0) and np.allclose(t.sum(axis=1), 1)):
            raise ValueError(
                "one-hot labels must be 0 or more, and 1 in the sum of each row, got a least "
                f"label of {t.min()} and rows with the sums {np.unique(t.sum(axis=1))[:3]}"
            )
        return t.astype(scores.dtype, copy=False)
    if t.shape != (n,):
        raise ValueError(
            f"labels have shape {t.shape}, expected ({n},) or, one-hot, ({n}, {classes})"
        )
    if t.dtype.kind not in "iu":
        raise TypeError(f"labels have dtype {t.dtype}, expected whole numbers")
    if t.min() < 0 or t.max() >= classes:
        wrong = t[(t < 0) | (t >= classes)][0]
        raise ValueError(f"label {wrong} is out of range, expected 0 to {classes - 1}")
    rows: np.ndarray = np.eye(classes, dtype=scores.dtype)[t]
    return rows
