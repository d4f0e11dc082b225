"""What all studies share: their settings, how they report, and the style of their pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from zdlfast.datasets import Split, load_digits, load_mnist

STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(
        color=["#1f4e79", "#f2a65a", "#2a9d8f", "#d1495b", "#8d5fd3", "#6b8e23"]
    ),
    "legend.frameon": False,
    "savefig.dpi": 130,
}


@dataclass
class Setup:
    """The settings of a study.

    Parameters
    ----------
    seed : int
        Of all that is drawn at random.
    data : str
        ``"digits"``, or the folder of MNIST's files.
    quick : bool
        Whether to do less: enough to see it work.
    step : callable
        Takes a description of what comes next and the share of all work that is done before, from
        0 to 1; for a progress bar.
    """

    seed: int = 0
    data: str = "digits"
    quick: bool = False
    step: Callable[[str, float], None] = lambda what, done: None

    @cached_property
    def images(self) -> Split:
        """Images of 28x28 pixels, as `zdlfast.datasets` gives them."""
        return load_digits(size=28) if self.data == "digits" else load_mnist(self.data)

    def rng(self, *numbers: int) -> np.random.Generator:
        """A generator for one purpose: the same one for the same numbers."""
        return np.random.default_rng([self.seed, *numbers])


@dataclass
class Report:
    """What a study found: a short table, and a sentence or two."""

    columns: list[str]
    rows: list[list[str]]
    finding: str


def make_figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over so many neighbours; NaN at the ends, where there are not as many."""
    window = min(window, len(values))
    smoothed: np.ndarray = np.convolve(values, np.ones(window) / window, "same")
    missing = window // 2
    smoothed[:missing] = smoothed[len(values) - missing :] = np.nan
    return smoothed
