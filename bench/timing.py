"""Timing in turns: A B A B, so that a change of the machine's speed meets all alike."""

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np

# A sample is as many calls as take about this long, in seconds; a call that takes longer is
# a sample by itself.
SAMPLE = 2e-3
MOST_REPEATS = 1000
FEWEST_ROUNDS, MOST_ROUNDS = 5, 41


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Run:
    """What to time, and what to do before each sample, which is not timed."""

    call: Callable[[], object]
    before: Callable[[], object] = _nothing

    def seconds(self, repeats: int) -> float:
        """Seconds per call."""
        self.before()
        collects = gc.isenabled()
        gc.disable()
        try:
            call = self.call
            start = perf_counter()
            for _ in range(repeats):
                call()
            return (perf_counter() - start) / repeats
        finally:
            if collects:
                gc.enable()


class Timed(Protocol):
    """What can be timed: by itself here, or by a process that is asked to."""

    def seconds(self, repeats: int) -> float:
        """Seconds per call."""


def interleave(runs: Mapping[str, Timed], seconds: float) -> dict[str, list[float]]:
    """Time several runs in turns.

    Parameters
    ----------
    runs : mapping of Timed
        What to time, by name. Each should have been called before, so that it is warm.
    seconds : float
        For how long, if that is enough for five rounds and not too much for 41.

    Returns
    -------
    dict of list
        For each name the seconds per call, one sample for every round.
    """
    samples: dict[str, list[float]] = {name: [] for name in runs}
    once = {name: run.seconds(1) for name, run in runs.items()}
    repeats = {name: repeats_for(time) for name, time in once.items()}
    rounds = rounds_for(sum(once[name] * repeats[name] for name in runs), seconds)
    order = list(runs)
    for _ in range(rounds):
        order.reverse()  # nobody always follows the same neighbour
        for name in order:
            samples[name].append(runs[name].seconds(repeats[name]))
    return samples


def repeats_for(seconds: float) -> int:
    """How many calls of this length make up a sample."""
    return max(1, min(MOST_REPEATS, int(SAMPLE / seconds)))


def rounds_for(one: float, seconds: float) -> int:
    """How many rounds of length `one` to take in about so many seconds."""
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(seconds / one)))


def median(samples: list[float]) -> float:
    return float(np.median(samples))


def quartiles(samples: list[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    low, middle, high = np.percentile(samples, [25, 50, 75])
    return float(low), float(middle), float(high)
