"""All optimizers train one network from the same weights: the comparison of the Adam article."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.nn import Normal, SoftmaxCrossEntropy, dense_network
from zdlfast.studies._study import Report, Setup, label_ends, make_figure, running_median

NAMES = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam")
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
    steps = QUICK_STEPS if setup.quick else STEPS
    seeds = QUICK_SEEDS if setup.quick else SEEDS
    losses = {name: np.zeros((seeds, steps)) for name in NAMES}
    accuracies = {name: np.zeros(seeds) for name in NAMES}
    for seed in range(seeds):
        for i, name in enumerate(NAMES):
            setup.step(f"{name}, seed {seed + 1} of {seeds}", (seed + i / len(NAMES)) / seeds)
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
    rows, ends = [], {}
    for name, losses in result.losses.items():
        last = np.median(losses[:, -50:], axis=1)
        accuracy = result.accuracies[name]
        shares = [f"{np.median(accuracy):.1%}", f"{accuracy.min():.1%} to {accuracy.max():.1%}"]
        ends[name] = np.median(last)
        rows.append([name, f"{ends[name]:.2g}", f"{last.min():.2g} to {last.max():.2g}", *shares])
    best = min(ends, key=lambda name: ends[name])
    return Report(
        ["optimizer", "loss", "of the seeds", "test accuracy", "of the seeds"],
        rows,
        f"Medians of the last 50 steps and of the seeds. With one learning rate for all, {LR}, "
        f"{best} ends lowest. The rate suits some more than others: this compares settings of the "
        "article, not optimizers at their best.",
    )


def draw(result: Result) -> Figure:
    seeds, steps = next(iter(result.losses.values())).shape
    figure = make_figure(4.2, f"784-200-200-10, lr {LR}: median and range of {seeds} seeds")
    ax = figure.subplots()
    step, lines = np.arange(1, steps + 1), {}
    for name, losses in result.losses.items():
        curves = np.array([running_median(of_seed, SMOOTHED) for of_seed in losses])
        (lines[name],) = ax.semilogy(step, np.median(curves, axis=0))
        ax.fill_between(step, curves.min(axis=0), curves.max(axis=0),
                        color=lines[name].get_color(), alpha=0.2, linewidth=0)  # fmt: skip
    ax.set_xlim(0, steps)
    ax.set_xlabel(f"step (mini-batches of {BATCH} images)")
    ax.set_ylabel(f"cross entropy per image (nats),\nrunning median of {SMOOTHED} steps")
    ax.grid()
    label_ends(ax, lines)
    return figure
