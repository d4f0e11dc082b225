"""The main job: one training by the NumPy twin and by zdlfast, side by side.

Both take each step on the same mini-batch, in turns, so that a change of the machine's speed
meets both alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

import zdlfast
from bench.network import Digits, Network
from zdlfast import reference

OPTIMIZERS = zdlfast.optimizers.__all__
# The article's settings.
BATCH, LR, SEED = 100, 0.001, 8


@dataclass
class Side:
    """One of the two trainings: its network and what was measured on it."""

    optimizer: Any
    network: Network
    losses: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    @property
    def update_median(self) -> float:
        """Seconds of a typical update."""
        return float(np.median(self.update_seconds))

    @property
    def training_seconds(self) -> float:
        """The whole training: all steps, each as long as the typical one.

        The plain sum would be at the mercy of whatever else the machine did meanwhile.
        """
        return float(np.median(self.step_seconds) * len(self.step_seconds))

    def step(self, x: np.ndarray, t: np.ndarray) -> None:
        start = perf_counter()
        loss, grads = self.network.gradient(x, t)
        middle = perf_counter()
        self.optimizer.update(self.network.params, grads)
        end = perf_counter()
        self.losses.append(loss)
        self.update_seconds.append(end - middle)
        self.step_seconds.append(end - start)


@dataclass
class Result:
    """Both trainings with one optimizer."""

    name: str
    numpy: Side
    fast: Side
    accuracy: float
    differences: list[str]

    @property
    def update_ratio(self) -> float:
        """How often zdlfast's update fits into NumPy's, by the medians."""
        return self.numpy.update_median / self.fast.update_median

    @property
    def training_ratio(self) -> float:
        """The same of the whole training."""
        return self.numpy.training_seconds / self.fast.training_seconds


def train(name: str, data: Digits, steps: int, advance: Callable[[], None]) -> Result:
    """Train the network twice with the optimizer of this name, from the same weights.

    Parameters
    ----------
    name : str
        A class of `zdlfast` and of `zdlfast.reference`.
    data : Digits
        What is learned; its dtype is the network's too.
    steps : int
        Mini-batches of 100 images, drawn with replacement.
    advance : callable
        Is called after every step, for a progress bar.

    Returns
    -------
    Result
        With a line in `differences` for whatever is not equal bit for bit.
    """
    dtype = data.x_train.dtype
    numpy = Side(getattr(reference, name)(lr=LR), Network(dtype, SEED))
    fast = Side(getattr(zdlfast, name)(lr=LR), Network(dtype, SEED))
    rng = np.random.default_rng(SEED)
    for step in range(steps):
        batch = rng.integers(0, len(data.x_train), BATCH)
        x, t = data.x_train[batch], data.t_train[batch]
        for side in (numpy, fast) if step % 2 else (fast, numpy):
            side.step(x, t)
        advance()
    accuracy = fast.network.accuracy(data.x_test, data.t_test)
    return Result(name, numpy, fast, accuracy, differences(numpy, fast))


def differences(numpy: Side, fast: Side) -> list[str]:
    """What differs between the two trainings: nothing, if all is well."""
    found = []
    for step, (a, b) in enumerate(zip(numpy.losses, fast.losses, strict=True), start=1):
        if different_bits(np.array(a), np.array(b)):
            found.append(f"the loss of step {step} is {b!r}, by NumPy {a!r}")
            break
    pairs = {f"weights {key}": (value, fast.network.params[key])
             for key, value in numpy.network.params.items()}  # fmt: skip
    for slot in type(numpy.optimizer)._slots:
        for key, value in getattr(numpy.optimizer, slot).items():
            pairs[f"state {slot}[{key!r}]"] = (value, getattr(fast.optimizer, slot)[key])
    for what, (a, b) in pairs.items():
        if a.dtype != b.dtype:
            found.append(f"the final {what} are {b.dtype}, by NumPy {a.dtype}")
        elif count := different_bits(a, b):
            found.append(f"the final {what} differ in {count} of {a.size} elements")
    return found


def different_bits(a: np.ndarray, b: np.ndarray) -> int:
    """How many elements differ, where -0.0 is not 0.0, and NaN is NaN whatever its payload."""
    same = ((a == b) & (np.signbit(a) == np.signbit(b))) | (np.isnan(a) & np.isnan(b))
    return int(a.size - np.count_nonzero(same))
