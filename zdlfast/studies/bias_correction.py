"""Adam's bias correction, as it is and as the articles put it in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.studies._study import Report, Setup, make_figure
from zdlfast.studies.trajectories import START, STEPS, draw_valley, follow, valley

LR = 0.3
TRUE, PROSE = "divided by 1 - beta**t", "divided by 1 - beta"


class AdamOfTheProse(zdlfast.Adam):
    """Adam with moments divided by ``1 - beta`` at every step, as at the first one.

    So the articles have it in words; their code, and the paper, take ``1 - beta ** t``.
    """

    def update(self, params: Any, grads: Any) -> bool | None:
        self.iter = 0
        return super().update(params, grads)


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
        "power t, the correction of the first step is used for all.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(4.9, f"Adam, {STEPS} steps down x²/20 + y² from {START}, lr {LR}")
    above, below = figure.subplots(2, 1, height_ratios=[1.5, 1])
    draw_valley(above)
    steps = np.arange(1, STEPS + 1)
    for (name, path), style in zip(result.paths.items(), ("o-", "s-"), strict=True):
        for ax, line in ((above, path.T), (below, (steps, result.rates[name]))):
            ax.plot(*line, style, markersize=3.5, linewidth=1.2, label=name)
    above.set_xlabel("x")
    above.set_ylabel("y")
    # Where neither path goes.
    above.legend(title="moments", loc="upper right", frameon=True, edgecolor="none")
    below.set_xlabel("step t")
    below.set_ylabel("factor of lr")
    below.set_ylim(0, 0.4)
    below.grid()
    return figure
