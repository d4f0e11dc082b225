"""What the benchmark's pictures share: colours, axes, and the machine's name in each."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from bench import report

ORANGE, BLUE, LIGHT = "#e08a32", "#1f4e79", "#6fa3d0"
# Colour and stroke of a library's line: implementations of one library share a colour.
LIBRARIES = {
    "limit": ("0.45", "--"),
    "zdlfast": (BLUE, "-"),
    "DeepSpeed CPUAdam": ("#2a9d8f", "-"),
    "torch, fused": ("#d1495b", "-"),
    "torch, foreach": ("#d1495b", "--"),
    "torch, for-loop": ("#d1495b", ":"),
    "numba": ("#7b4fc9", "-"),
    "numba, exact": ("#7b4fc9", "--"),
    "JAX, optax": ("#9a6b00", "-"),
    "numexpr": ("#5d7f1e", "-"),
    "thinc": ("#b5157a", "-"),
    "NumPy, out=": (ORANGE, "--"),
    "NumPy": (ORANGE, "-"),
}
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 130,
}


def grid(
    count: int, columns: int, size: tuple[float, float], share: bool
) -> tuple[Figure, np.ndarray]:
    """A figure of so many plots, in rows of `size`: two-dimensional, what is left over unseen."""
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0], size[1] * rows + 1), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, axes


def set_title(figure: Figure, title: str) -> None:
    """The title of a picture, and the machine that it was measured on."""
    about = report.machine()
    machine = f"{about['cpu']}, {about['zdlfast']['simd']}"
    # The title keeps the place for both lines.
    place: dict[str, Any] = {
        "xycoords": "figure fraction",
        "textcoords": "offset points",
        "va": "top",
    }
    figure.suptitle(
        f"{title}\n", x=0.01, ha="left", fontsize=14, fontweight="bold", linespacing=1.5
    )
    line = figure.axes[0].annotate(machine, (0.01, 1), (0, -25), color="0.35", **place)
    line.set(fontsize=11, in_layout=False)


def over_size(ax: Axes) -> None:
    """A logarithmic axis of sizes."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.grid(alpha=0.25)


def ratio_axis(ax: Axes, which: str, limits: tuple[float, float]) -> None:
    """A logarithmic axis of ratios, with the numbers that a person would write there."""
    ax.set(**{f"{which}scale": "log", f"{which}lim": limits})
    axis = {"x": ax.xaxis, "y": ax.yaxis}[which]
    ticks = [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if limits[0] <= t <= limits[1]]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.set_minor_formatter(NullFormatter())


def _count(value: float) -> str:
    for unit, size in ((" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _short(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.999 * size:
            return f"{seconds / size:g} {unit}"
    return f"{seconds * 1e9:g} ns"


DURATIONS = FuncFormatter(lambda value, _: _short(value))


def spread(values: list[float], apart: float) -> list[float]:
    """Values from 0 on, moved as little as it takes to have them so far apart: label places."""
    order = np.argsort(values, kind="stable")
    groups: list[tuple[float, int]] = []  # of labels that touch: their middle and their number
    for i in order:
        groups.append((values[i], 1))
        while len(groups) > 1:
            (low, n), (high, m) = groups[-2:]
            if high - low >= apart * (n + m) / 2:
                break
            middle = (low * n + high * m) / (n + m)
            groups[-2:] = [(max(middle, apart * (n + m - 1) / 2), n + m)]
    places = [middle + apart * (k - (n - 1) / 2) for middle, n in groups for k in range(n)]
    found = dict(zip(order.tolist(), places, strict=True))
    return [found[i] for i in range(len(values))]
