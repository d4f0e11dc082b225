"""Adam's bias correction, as it is and as the articles put it in words."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.studies._study import Report, Setup, make_figure
from zdlfast.studies.trajectories import START, STEPS, follow, valley

SUMMARY = "Adam with its bias correction, and with that of the articles' prose"

LR = 0.3
TRUE, PROSE = "divided by 1 - βᵗ", "divided by 1 - β"


class AdamOfTheProse(zdlfast.reference.Adam):
    """Adam with moments divided by ``1 - beta`` at every step, without the power t.

    So the articles have it in words; their code, and the paper, take ``1 - beta ** t``.
    """

    def _scalars(self) -> tuple[float, ...]:
        rate1, rate2, _, eps = super()._scalars()
        return rate1, rate2, self.lr * math.sqrt(1 - self.beta2) / (1 - self.beta1), eps


@dataclass
class Result:
    """For both corrections the path, and the factor of the learning rate at every step."""

    paths: dict[str, np.ndarray]
    rates: dict[str, np.ndarray]


def compute(setup: Setup) -> Result:
    adam, prose = zdlfast.Adam(lr=LR), AdamOfTheProse(lr=LR)
    steps = np.arange(1, STEPS + 1)
    rates = {
        TRUE: np.sqrt(1 - adam.beta2**steps) / (1 - adam.beta1**steps),
        PROSE: np.full(STEPS, math.sqrt(1 - adam.beta2) / (1 - adam.beta1)),
    }
    return Result({TRUE: follow(adam), PROSE: follow(prose)}, rates)


def describe(result: Result) -> Report:
    rows = []
    for name, path in result.paths.items():
        x, y = path[-1]
        height = f"{float(valley(x, y)):.4f}"
        rows.append([name, f"{x:.4f}", f"{y:.4f}", height, f"{result.rates[name][-1]:.3f}"])
    apart = np.hypot(*(result.paths[TRUE] - result.paths[PROSE]).T).max()
    return Report(
        ["moments", "x", "y", "height", "last factor of lr"],
        rows,
        f"The first step is the same. Then the paths part, by up to {apart:.2f}: without the "
        "power t, the correction of the first step goes on for ever.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(13, 5, f"Adam, {STEPS} steps down x²/20 + y² from {START}, lr {LR}")
    left, right = figure.subplots(1, 2)
    x, y = np.meshgrid(np.linspace(-8, 3, 201), np.linspace(-2, 2.6, 161))
    left.contour(x, y, valley(x, y), levels=20, colors="#bbbbbb", linewidths=0.7)
    for name, path in result.paths.items():
        left.plot(*path.T, "o-", markersize=3.5, label=name)
        right.plot(np.arange(1, STEPS + 1), result.rates[name], "o-", markersize=3.5, label=name)
    left.plot(0, 0, "+", color="black", markersize=12)
    left.set_xlabel("x")
    left.set_ylabel("y")
    left.set_title("paths", fontsize=12)
    left.legend(loc="lower left")
    right.set_xlabel("step t")
    right.set_ylabel("factor of the learning rate")
    right.set_ylim(0, 1.05)
    right.set_title("effect of the correction", fontsize=12)
    return figure
