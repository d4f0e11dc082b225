"""The benchmark's two pictures."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.training import Result

NUMPY, FAST = "#f2a65a", "#1f4e79"

STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 130,
}


@mpl.rc_context(STYLE)
def losses(path: Path, results: list[Result], title: str) -> None:
    """The loss of every step, of both trainings: two lines that lie on each other."""
    rows = -(-len(results) // 3)
    figure = Figure(figsize=(12, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(results) :]:
        ax.set_visible(False)
    for ax, r in zip(axes.flat, results, strict=False):
        steps = np.arange(1, len(r.fast.losses) + 1)
        ax.semilogy(steps, r.numpy.losses, color=NUMPY, linewidth=4, label="NumPy")
        ax.semilogy(steps, r.fast.losses, color=FAST, linewidth=0.9, label="zdlfast")
        verdict = "not equal" if r.differences else "equal bit for bit"
        ax.set_title(f"{r.name}: {verdict}", fontsize=12)
        ax.grid(alpha=0.25)
    figure.supxlabel("step (mini-batches of 100 images)")
    figure.supylabel("loss (cross entropy per image, nats)")
    figure.suptitle(title)
    axes[0, 2].legend(loc="upper right")
    figure.savefig(path)


@mpl.rc_context(STYLE)
def ratios(path: Path, results: list[Result], title: str) -> None:
    """How many times faster than NumPy: the update alone, and the whole training."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(results))
    for offset, color, label, heights in [
        (-0.2, FAST, "update alone", [r.update_ratio for r in results]),
        (0.2, NUMPY, "whole training", [r.training_ratio for r in results]),
    ]:
        bars = ax.bar(places + offset, heights, 0.38, color=color, label=label)
        ax.bar_label(bars, fmt="%.1f×", padding=2)
    ax.axhline(1, color="black", linewidth=1, linestyle="--")
    ax.annotate(" NumPy", (1, 1), xycoords=("axes fraction", "data"), va="center")
    ax.set_xticks(places, [r.name for r in results])
    ax.set_ylabel("NumPy's time / zdlfast's time")
    ax.margins(y=0.12)
    ax.legend(loc="upper left", ncols=2)
    ax.set_title(title, pad=12)
    figure.savefig(path)
