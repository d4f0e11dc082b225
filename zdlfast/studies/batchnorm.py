"""Learning with and without batch normalization, over 16 scales of initial weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.nn import Normal, dense_network
from zdlfast.studies._study import BLUE, RED, Report, Setup, make_figure

SIZES, SAMPLES, BATCH, LR = (784, 100, 100, 100, 100, 100, 10), 1000, 100, 0.01
SCALES = np.logspace(0, -4, 16)
EPOCHS, QUICK_EPOCHS = 20, 4
WITH, WITHOUT = "with batch normalization", "without"


@dataclass
class Result:
    """The initial weights' standard deviations, and accuracies by (scale, epoch)."""

    scales: np.ndarray
    accuracies: dict[str, np.ndarray]


def compute(setup: Setup) -> Result:
    epochs = QUICK_EPOCHS if setup.quick else EPOCHS
    accuracies = {name: np.zeros((len(SCALES), epochs)) for name in (WITH, WITHOUT)}
    for i, scale in enumerate(SCALES):
        setup.step(f"std {scale:.2g}", i / len(SCALES))
        for name in accuracies:
            accuracies[name][i] = train(setup, float(scale), name == WITH, epochs)
    return Result(SCALES, accuracies)


def train(setup: Setup, scale: float, batch_normalization: bool, epochs: int) -> list[float]:
    """The accuracy on the training images after each epoch."""
    (x, t), _ = setup.images
    x, t = x[:SAMPLES], t[:SAMPLES]
    rng = setup.rng(0)
    network = dense_network(
        *SIZES, init=Normal(scale), batch_normalization=batch_normalization, rng=rng
    )
    optimizer, accuracies = zdlfast.SGD(lr=LR), []
    # Large weights overflow without batch normalization: that is what this shows.
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(epochs):
            for _ in range(SAMPLES // BATCH):
                batch = rng.integers(0, SAMPLES, BATCH)
                optimizer.update(network.params, network.gradient(x[batch], t[batch]))
            accuracies.append(network.accuracy(x, t))
    return accuracies


def describe(result: Result) -> Report:
    final = {name: of_epochs[:, -1] for name, of_epochs in result.accuracies.items()}
    rows = [
        [f"{scale:.4f}", f"{a:.1%}", f"{b:.1%}"]
        for scale, a, b in zip(result.scales, final[WITH], final[WITHOUT], strict=True)
    ]
    better = int(np.sum(final[WITH] > final[WITHOUT]))
    learned = int(np.sum(final[WITHOUT] > 0.5))
    return Report(
        ["std of weights", WITH, WITHOUT],
        rows,
        f"With it, accuracy is higher for {better} of {len(rows)} scales of weights, from "
        f"{final[WITH].min():.0%} to {final[WITH].max():.0%}; without it the network learns for "
        f"{learned} of them: batch normalization widens the range of weights to start from.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(3.8, f"784-100x5-10, {SAMPLES:,} images, SGD with lr {LR}")
    ax = figure.subplots()
    for name, accuracies in result.accuracies.items():
        epochs = accuracies.shape[1]
        for epoch, style in ((epochs, "o-"), (max(1, epochs // 4), "o:")):
            color = BLUE if name == WITH else RED
            ax.semilogx(result.scales, accuracies[:, epoch - 1], style, color=color, markersize=4,
                        label=f"{name}, {epoch} epochs")  # fmt: skip
    ax.set_xlabel("standard deviation of the initial weights")
    ax.set_ylabel("accuracy on the training images")
    ax.set_ylim(0, 1.03)
    ax.grid()
    figure.legend(loc="outside lower center", ncols=2)
    return figure
