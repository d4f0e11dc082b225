"""The benchmark's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.report import threads
from bench.updates import NUMPY, fast, limit, thread_counts

if TYPE_CHECKING:
    from bench import peers as peers_job
    from bench import training, updates

ORANGE, BLUE, LIGHT = "#f2a65a", "#1f4e79", "#6fa3d0"
# Told apart without colours too: by marker and by the order of the legend.
PEER_STYLE = {
    "limit": {"color": "black", "linestyle": "--", "linewidth": 1.2},
    "zdlfast": {"color": BLUE, "linewidth": 2.8, "marker": "o"},
    "DeepSpeed CPUAdam": {"color": "#2a9d8f", "marker": "s"},
    "torch, fused": {"color": "#d1495b", "marker": "^"},
    "torch, foreach": {"color": "#e0828d", "marker": "v"},
    "torch, for-loop": {"color": "#edb3ba", "marker": "<"},
    "numba": {"color": "#8d5fd3", "marker": "D"},
    "JAX, optax": {"color": "#b8860b", "marker": "P"},
    "numexpr": {"color": "#6b8e23", "marker": "X"},
    "thinc": {"color": "#c71585", "marker": "*"},
    "NumPy, out=": {"color": "#f7c99b", "marker": ">"},
    "NumPy": {"color": ORANGE, "marker": "h"},
}

STYLE = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 130,
}


@mpl.rc_context(STYLE)
def losses(path: Path, results: list[training.Result], title: str) -> None:
    """The loss of every step, of both trainings: two lines that lie on each other."""
    figure, axes = _grid(len(results), 3, (12, 3.5), share=True)
    for ax, r in zip(axes.flat, results, strict=False):
        steps = np.arange(1, len(r.fast.losses) + 1)
        ax.semilogy(steps, r.numpy.losses, color=ORANGE, linewidth=4, label="NumPy")
        ax.semilogy(steps, r.fast.losses, color=BLUE, linewidth=0.9, label="zdlfast")
        verdict = "not equal" if r.differences else "equal bit for bit"
        ax.set_title(f"{r.name}: {verdict}", fontsize=12)
        ax.grid(alpha=0.25)
    figure.supxlabel("step (mini-batches of 100 images)")
    figure.supylabel("loss (cross entropy per image, nats)")
    figure.suptitle(title)
    axes[0, 2].legend(loc="upper right")
    figure.savefig(path)


@mpl.rc_context(STYLE)
def ratios(path: Path, results: list[training.Result], title: str) -> None:
    """How many times faster than NumPy: the update alone, and the whole training."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(results))
    for offset, color, label, heights in [
        (-0.2, BLUE, "update alone", [r.update_ratio for r in results]),
        (0.2, ORANGE, "whole training", [r.training_ratio for r in results]),
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


@mpl.rc_context(STYLE)
def sizes(path: Path, results: list[updates.Result], title: str) -> None:
    """The time of one update over the size of the array, for every optimizer."""
    rules = list(dict.fromkeys(r.case.rule for r in results))
    figure, axes = _grid(len(rules), 3, (13, 4.3), share=True)
    most = thread_counts()[-1]
    lines = {NUMPY: {"color": ORANGE, "marker": "h"}, fast(1): {"color": LIGHT, "marker": "o"}}
    lines[fast(most)] = {"color": BLUE, "marker": "o"}
    lines[limit(most)] = {"color": "black", "linestyle": "--", "linewidth": 1.2}
    for ax, rule in zip(axes.flat, rules, strict=False):
        of_rule = [r for r in results if r.case.rule == rule]
        elements = [r.case.elements for r in of_rule]
        for name, style in lines.items():
            label = f"streaming {name}" if name == limit(most) else name
            ax.plot(elements, [r.median(name) for r in of_rule], label=label, **style)
        ax.set_title(rule, fontsize=12)
        _time_over_size(ax)
    figure.supxlabel("elements")
    figure.supylabel("time of one update")
    figure.suptitle(title)
    axes[0, 0].legend(loc="upper left", fontsize=10)
    figure.savefig(path)


@mpl.rc_context(STYLE)
def models(path: Path, results: list[updates.Result], title: str) -> None:
    """Bars of the time of one update, for every network."""
    names = list(dict.fromkeys(r.case.name for r in results))
    figure, axes = _grid(len(names), 2, (13, 3.8), share=False)
    counts = thread_counts()
    bars = [(NUMPY, ORANGE), (fast(1), LIGHT)] + [(fast(n), BLUE) for n in counts[1:]]
    width = 0.8 / len(bars)
    for ax, name in zip(axes.flat, names, strict=False):
        of_model = [r for r in results if r.case.name == name]
        places = np.arange(len(of_model))
        for i, (who, color) in enumerate(bars):
            heights = [r.median(who) for r in of_model]
            drawn = ax.bar(
                places + (i + 0.5) * width - 0.4, heights, width, color=color, label=who
            )
            if i == len(bars) - 1:
                labels = [f"{r.ratio(counts[-1]):.0f}×" for r in of_model]
                ax.bar_label(drawn, labels, padding=2, fontsize=10)
        case = of_model[0].case
        ax.set_title(
            f"{name}: {case.elements:,} parameters, {len(case.shapes)} arrays", fontsize=12
        )
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        ax.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        ax.set_xticks(places, [r.case.rule for r in of_model], fontsize=10)
        ax.margins(y=0.15)
    figure.supylabel("time of one update (log scale)")
    figure.suptitle(f"{title}; the labels say how much faster than NumPy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path)


@mpl.rc_context(STYLE)
def peers(path: Path, results: list[peers_job.Result]) -> None:
    """The time of one step of Adam over the size of the array, for every library."""
    counts = list(dict.fromkeys(r.threads for r in results))
    figure = Figure(figsize=(6.8 * len(counts), 6.6), layout="constrained")
    axes = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for ax, count in zip(axes, counts, strict=True):
        of_count = [r for r in results if r.threads == count]
        for name, style in PEER_STYLE.items():
            points = [(r.elements, r.median(name)) for r in of_count if name in r.times]
            if points:
                label = "streaming limit" if name == "limit" else name
                front = 4 if name in ("limit", "zdlfast") else 2
                ax.plot(*zip(*points, strict=True), label=label, zorder=front, **style)
        ax.set_title(threads(count), fontsize=12)
        ax.set_xlabel("elements")
        _time_over_size(ax)
    axes[0].set_ylabel("time of one step")
    figure.suptitle("Adam, float32: one step on one array")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=11)
    figure.savefig(path)


def _grid(
    count: int, columns: int, size: tuple[float, float], share: bool
) -> tuple[Figure, np.ndarray]:
    """A figure of so many plots, in rows of `size`: two-dimensional, what is left over unseen."""
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0], size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=share, sharey=share, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, axes


def _time_over_size(ax: Axes) -> None:
    """Log axes with units that a person can read."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    ax.grid(alpha=0.25)


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
