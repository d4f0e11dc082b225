"""What all studies share: their settings, how they report, and the style of their pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from zdlfast.datasets import Split, load_digits, load_mnist

# Okabe and Ito's colours, which colour-blind people tell apart.
BLUE, RED, GREEN, PURPLE, ORANGE, BLACK = (
    "#0072b2", "#d55e00", "#009e73", "#b0578d", "#c98a00", "#000000"
)  # fmt: skip
WIDTH = 6.0  # inches: at 410 pixels, half a page on GitHub, ten points are about ten pixels
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.labelsize": 10,
    "figure.titlesize": 11,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, RED, GREEN, PURPLE, ORANGE, BLACK]),
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "savefig.dpi": 200,
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
    scheduler : str, optional
        The address of a scheduler of Dask, for the study that runs on a cluster.
    """

    seed: int = 0
    data: str = "digits"
    quick: bool = False
    step: Callable[[str, float], None] = lambda what, done: None
    scheduler: str | None = None

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


def make_figure(height: float, title: str) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title)
    return figure


def running_median(values: np.ndarray, window: int) -> np.ndarray:
    """The median of so many neighbours; NaN at the ends, where there are not as many.

    A single spike leaves no trace in it; a mean would make a plateau of it.
    """
    window = min(window, len(values))
    medians = np.median(np.lib.stride_tricks.sliding_window_view(values, window), axis=1)
    before = window // 2
    ends = (before, len(values) - len(medians) - before)
    padded: np.ndarray = np.pad(medians, ends, constant_values=np.nan)
    return padded


def label_ends(ax: Axes, lines: dict[str, Line2D], gap: float = 0.075) -> None:
    """Name each line beside its right end, in its colour, where names have room above each other.

    Parameters
    ----------
    ax : Axes
        With its final limits.
    lines : dict of Line2D
        By name.
    gap : float
        The height of a name, as a share of that of the axes.
    """
    to_axes = ax.transScale + ax.transLimits
    ends = {}
    for name, line in lines.items():
        x, y = (np.asarray(values, dtype=float) for values in line.get_data())
        finite = np.flatnonzero(np.isfinite(y))
        if len(finite):  # a training that diverged at once leaves nothing to be seen
            last = finite[-1]
            ends[name] = float(to_axes.transform((x[last], y[last]))[1])
    lowest = 0.0
    for name in sorted(ends, key=lambda name: ends[name]):
        lowest = max(ends[name], lowest)
        ax.text(1.01, lowest, name, color=lines[name].get_color(), transform=ax.transAxes,
                verticalalignment="center")  # fmt: skip
        lowest += gap
