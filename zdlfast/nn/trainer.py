"""Training: epochs of mini-batches, with a record of how it went."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from zdlfast._optimizer import Optimizer
from zdlfast.nn._checks import instance, whole
from zdlfast.nn.layers import Seed
from zdlfast.nn.losses import one_hot
from zdlfast.nn.network import Sequential


@dataclass
class History:
    """How a training went.

    Attributes
    ----------
    loss : ndarray, shape (steps,)
        Of every mini-batch, before its update.
    train_accuracy, test_accuracy : ndarray, shape (epochs,)
        After every epoch; the second one is empty without data to evaluate on.
    complete : bool
        Whether all epochs were trained, and nothing interrupted them.
    """

    loss: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray
    complete: bool


class Trainer:
    """Trains a network on mini-batches.

    Parameters
    ----------
    network : Sequential
        What is trained.
    optimizer : Optimizer
        Any of `zdlfast` or `zdlfast.reference`.
    epochs : int
        How often all samples are used.
    batch_size : int
        Samples of one step; the last batch of an epoch has what is left.
    learning_rate : callable, optional
        Takes the number of the epoch, from 0, and returns the optimizer's ``lr`` for it.
    rng : numpy.random.Generator or int, optional
        What shuffles the samples for every epoch, or a seed.
    progress : bool
        Whether to show a progress bar. That takes the package rich; without it there is none.

    Raises
    ------
    TypeError, ValueError
        A number is no whole number from 1 on, or something else is of no usable type.
    """

    def __init__(
        self,
        network: Sequential,
        optimizer: Optimizer,
        *,
        epochs: int = 10,
        batch_size: int = 100,
        learning_rate: Callable[[int], float] | None = None,
        rng: Seed = None,
        progress: bool = True,
    ) -> None:
        self.epochs = whole("Trainer", "epochs", epochs)
        self.batch_size = whole("Trainer", "batch_size", batch_size)
        instance("Trainer", "network", network, Sequential)
        instance("Trainer", "optimizer", optimizer, Optimizer)
        if learning_rate is not None and not callable(learning_rate):
            raise TypeError(
                f"Trainer: learning_rate must be a function of the epoch, got {learning_rate!r}"
            )
        self.network, self.optimizer = network, optimizer
        self.learning_rate = learning_rate
        self.rng = np.random.default_rng(rng)
        self.progress = progress

    def fit(
        self,
        x: np.ndarray,
        t: np.ndarray,
        evaluate: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> History:
        """Train on these samples.

        Parameters
        ----------
        x, t : ndarray
            Samples and their labels, one row each.
        evaluate : pair of ndarray, optional
            Further samples and labels, to measure the accuracy on after every epoch.

        Returns
        -------
        History
            Of all that was done, also if Ctrl-C ended it.

        Raises
        ------
        ValueError
            There are not as many labels as samples, or none at all, labels are out of range, or
            a sample holds what the network cannot take.
        TypeError
            `evaluate` is no pair, or an array is not of numbers.
        FloatingPointError
            The loss became NaN or infinite. The network is left as it was before that step. An
            optimizer with ``nonfinite="skip"`` goes on instead.
        """
        # What is wrong with the data is told before the first epoch, not after it.
        x, t = self._checked(x, t)
        if evaluate is not None:
            if not isinstance(evaluate, tuple | list) or len(evaluate) != 2:
                length = f" of length {len(evaluate)}" if isinstance(evaluate, Sized) else ""
                raise TypeError(
                    "Trainer: evaluate must be a pair of samples and labels, got a "
                    f"{type(evaluate).__name__}{length}"
                )
            evaluate = self._checked(*evaluate)
        losses: list[float] = []
        accuracies: tuple[list[float], list[float]] = [], []
        complete = True
        steps = -(-len(x) // self.batch_size)
        try:
            with _bar(self.epochs * steps, self.progress) as advance:
                for epoch in range(self.epochs):
                    if self.learning_rate is not None:
                        self.optimizer.lr = self.learning_rate(epoch)
                    order = self.rng.permutation(len(x))
                    for start in range(0, len(x), self.batch_size):
                        batch = order[start : start + self.batch_size]
                        grads = self.network.gradient(x[batch], t[batch])
                        loss = self.network.batch_loss
                        if not math.isfinite(loss) and self.optimizer.nonfinite != "skip":
                            raise FloatingPointError(
                                f"Trainer: the loss became {loss} at step {len(losses) + 1}, in "
                                f"epoch {epoch + 1} of {self.epochs}, with {self.optimizer!r}"
                            )
                        losses.append(loss)
                        self.optimizer.update(self.network.params, grads)
                        advance()
                    measured = [self.network.accuracy(x, t)]
                    if evaluate is not None:
                        measured.append(self.network.accuracy(*evaluate))
                    for of_epochs, accuracy in zip(accuracies, measured, strict=False):
                        of_epochs.append(accuracy)
        except KeyboardInterrupt:
            complete = False
        return History(
            np.array(losses), np.array(accuracies[0]), np.array(accuracies[1]), complete
        )

    def _checked(self, x: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples, in the network's dtype, and labels, if they fit to each other and to it."""
        for what, given in (("samples", x), ("labels", t)):
            if isinstance(given, Iterator):
                kind = type(given).__name__
                raise TypeError(f"Trainer: the {what} must be an array, got an iterator ({kind})")
        x, t = np.asarray(x), np.asarray(t)
        if x.ndim == 0 or t.ndim == 0 or len(x) == 0 or len(x) != len(t):
            raise ValueError(
                f"Trainer: expected as many labels as samples, and at least one, got x of shape "
                f"{x.shape} and t of shape {t.shape}"
            )
        scores = self.network.predict(x[:1])
        one_hot(t, np.broadcast_to(scores, (len(x), *scores.shape[1:])))
        return self.network._batch(x), t


@contextmanager
def _bar(steps: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar, as a function that advances it."""
    if not shown or importlib.util.find_spec("rich") is None:
        yield lambda: None
        return
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task("training", total=steps)
        yield lambda: progress.advance(task)
