"""All optimizers train one network from the same weights: the comparison of the Adam article."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.nn import Normal, SoftmaxCrossEntropy, dense_network
from zdlfast.studies._study import Report, Setup, make_figure, smooth

SUMMARY = "one network trained by every optimizer from the same initial weights"

# The article's settings; its gradient is of the sum over a batch.
SIZES, STD, BATCH, LR = (784, 200, 200, 10), 0.01, 100, 0.001
STEPS, QUICK_STEPS = 1000, 150
SEEDS, QUICK_SEEDS = 5, 2
SMOOTHED = 25  # steps


@dataclass
class Result:
    """For each optimizer the losses, (seeds, steps), and the accuracies in the end, (seeds,)."""

    losses: dict[str, np.ndarray]
    accuracies: dict[str, np.ndarray]


def compute(setup: Setup) -> Result:
    names = zdlfast.optimizers.__all__
    steps = QUICK_STEPS if setup.quick else STEPS
    seeds = QUICK_SEEDS if setup.quick else SEEDS
    losses = {name: np.zeros((seeds, steps)) for name in names}
    accuracies = {name: np.zeros(seeds) for name in names}
    for seed in range(seeds):
        for i, name in enumerate(names):
            setup.step(f"{name}, seed {seed + 1} of {seeds}", (seed + i / len(names)) / seeds)
            losses[name][seed], accuracies[name][seed] = train(setup, name, seed, steps)
    return Result(losses, accuracies)


def train(setup: Setup, name: str, seed: int, steps: int) -> tuple[list[float], float]:
    """The loss of every step, and the accuracy on the test images in the end."""
    (x, t), test = setup.images
    rng = setup.rng(seed)
    loss = SoftmaxCrossEntropy("sum")
    network = dense_network(*SIZES, init=Normal(STD), rng=rng, loss=loss)
    optimizer = getattr(zdlfast, name)(lr=LR)
    losses = []
    for _ in range(steps):
        batch = rng.integers(0, len(x), BATCH)
        optimizer.update(network.params, network.gradient(x[batch], t[batch]))
        losses.append(network.batch_loss / BATCH)
    return losses, network.accuracy(*test)


def describe(result: Result) -> Report:
    rows = []
    for name, losses in result.losses.items():
        last = losses[:, -50:].mean(axis=1)
        accuracy = result.accuracies[name]
        shares = [f"{accuracy.mean():.1%}", f"{accuracy.min():.1%} to {accuracy.max():.1%}"]
        rows.append([name, f"{last.mean():.4f}", f"{last.max():.4f}", *shares])
    best = min(result.losses, key=lambda name: result.losses[name][:, -50:].mean())
    return Report(
        ["optimizer", "last 50 losses", "worst seed", "accuracy", "of the seeds"],
        rows,
        f"With one learning rate for all, {LR}, {best} ends lowest. The rate suits some more than "
        "others: this compares settings of the article, not optimizers at their best.",
    )


def draw(result: Result) -> Figure:
    seeds, steps = next(iter(result.losses.values())).shape
    figure = make_figure(
        12, 6, f"784-200-200-10, lr {LR}: mean and range of {seeds} seeds, over {SMOOTHED} steps"
    )
    ax = figure.subplots()
    for name, losses in result.losses.items():
        curves = np.array([smooth(row, SMOOTHED) for row in losses])
        (line,) = ax.semilogy(np.arange(1, steps + 1), curves.mean(axis=0), label=name)
        ax.fill_between(np.arange(1, steps + 1), curves.min(axis=0), curves.max(axis=0),
                        color=line.get_color(), alpha=0.15, linewidth=0)  # fmt: skip
    ax.set_xlabel(f"step (mini-batches of {BATCH} images)")
    ax.set_ylabel("loss (cross entropy per image, nats)")
    ax.grid(alpha=0.25)
    figure.legend(loc="outside right upper")
    return figure
