"""Paths of the optimizers down a long valley (book 1, section 6.1; the Momentum article)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import zdlfast
from zdlfast._optimizer import Optimizer
from zdlfast.studies._study import RED, Report, Setup, make_figure

START, STEPS = (-7.0, 2.0), 30
OPTIONS = {
    "SGD": {"lr": 0.95},
    "Momentum": {"lr": 0.1},
    "Nesterov": {"lr": 0.1},
    "AdaGrad": {"lr": 1.5},
    "RMSprop": {"lr": 0.3, "decay_rate": 0.9},
    "Adam": {"lr": 0.3},
}


def valley(x: np.ndarray | float, y: np.ndarray | float) -> np.ndarray | float:
    return x**2 / 20.0 + y**2


def slope(x: float, y: float) -> dict[str, float]:
    return {"x": x / 10.0, "y": 2.0 * y}


@dataclass
class Result:
    """For each optimizer its path, one row (x, y) for the start and for every step."""

    paths: dict[str, np.ndarray]


def compute(setup: Setup) -> Result:
    paths: dict[str, np.ndarray] = {}
    for name, options in OPTIONS.items():
        setup.step(name, len(paths) / len(OPTIONS))
        paths[name] = follow(getattr(zdlfast, name)(**options))
    return Result(paths)


def follow(optimizer: Optimizer) -> np.ndarray:
    """The path of an optimizer, one row (x, y) for the start and for every step."""
    # Python floats, as in the article: they are replaced in the dict, not changed in place.
    params = {"x": START[0], "y": START[1]}
    path = [START]
    for _ in range(STEPS):
        optimizer.update(params, slope(params["x"], params["y"]))
        path.append((float(params["x"]), float(params["y"])))
    return np.array(path)


def describe(result: Result) -> Report:
    rows = []
    for name, path in result.paths.items():
        x, y = path[-1]
        away = path[np.abs(path[:, 1]) > 1e-3, 1]  # on the ground of the valley, all is rounding
        turns = int(np.count_nonzero(np.diff(np.sign(away))))
        length = float(np.hypot(*np.diff(path, axis=0).T).sum())
        rows.append(
            [name, f"{x:.4f}", f"{y:.4f}", f"{valley(x, y):.4f}", str(turns), f"{length:.1f}"]
        )
    return Report(
        ["optimizer", "x", "y", "height", "crossings", "length"],
        rows,
        "SGD zigzags across the valley, because the slope does not point to the minimum. Momentum "
        "and Nesterov roll along it; AdaGrad, RMSprop and Adam damp the steep direction, and so "
        "hardly cross it.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(5.0, f"{STEPS} steps down x²/20 + y² from {START}")
    axes = figure.subplots(3, 2, sharex=True, sharey=True)
    for ax, (name, path) in zip(axes.flat, result.paths.items(), strict=True):
        draw_valley(ax)
        ax.plot(*path.T, "o-", color=RED, markersize=3, linewidth=1.2)
        ax.set_title(f"{name}, lr {OPTIONS[name]['lr']:g}")
    figure.supxlabel("x")
    figure.supylabel("y")
    return figure


def draw_valley(ax: Axes) -> None:
    x, y = np.meshgrid(np.linspace(-8, 3, 111), np.linspace(-2.4, 2.4, 49))
    ax.contour(x, y, valley(x, y), levels=np.arange(0.4, 3.2, 0.4) ** 2, colors="#bbbbbb",
               linewidths=0.7)  # fmt: skip
    ax.plot(0, 0, "+", color="black", markersize=10)
    ax.set_aspect("equal")
