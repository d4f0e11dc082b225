"""Overfitting on 300 images, with and without weight decay and dropout (book 1, section 6.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import zdlfast
from zdlfast.nn import Trainer, dense_network
from zdlfast.studies._study import Report, Setup, make_figure

SIZES, SAMPLES, BATCH, LR = (784, 100, 100, 100, 100, 100, 100, 10), 300, 100, 0.01
EPOCHS, QUICK_EPOCHS = 300, 60
OPTIONS: dict[str, dict[str, Any]] = {
    "neither": {},
    "weight decay 0.1": {"weight_decay": 0.1},
    "dropout 0.2": {"dropout": 0.2},
}
NORMS = {"L1": 1, "L2": 2, "L∞": np.inf}


@dataclass
class Result:
    """Accuracies by epoch on both sets of images, and norms of all weights in the end."""

    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    norms: dict[str, dict[str, float]]


def compute(setup: Setup) -> Result:
    (x, t), test = setup.images
    result = Result({}, {}, {})
    for i, (name, options) in enumerate(OPTIONS.items()):
        setup.step(name, i / len(OPTIONS))
        network = dense_network(*SIZES, rng=setup.rng(0), **options)
        trainer = Trainer(
            network,
            zdlfast.SGD(lr=LR),
            epochs=QUICK_EPOCHS if setup.quick else EPOCHS,
            batch_size=BATCH,
            rng=setup.rng(1),
            progress=False,
        )
        history = trainer.fit(x[:SAMPLES], t[:SAMPLES], test)
        if not history.complete:
            raise KeyboardInterrupt
        result.train[name], result.test[name] = history.train_accuracy, history.test_accuracy
        weights = [value.ravel() for key, value in network.params.items() if key.startswith("W")]
        result.norms[name] = {
            norm: float(np.linalg.norm(np.concatenate(weights), order))
            for norm, order in NORMS.items()
        }
    return result


def describe(result: Result) -> Report:
    rows, gaps = [], {}
    for name in OPTIONS:
        train, test = result.train[name][-1], result.test[name][-1]
        gaps[name] = train - test
        norms = [f"{value:.4g}" for value in result.norms[name].values()]
        rows.append([name, f"{train:.1%}", f"{test:.1%}", f"{gaps[name]:.1%}", *norms])
    plain = result.test["neither"][-1]
    better = [name for name in OPTIONS if result.test[name][-1] > plain]
    verdict = (
        f"The test accuracy is better with {' and '.join(better)}."
        if better
        else "The test accuracy itself is no better with either."
    )
    gap, *others = (f"{value:.1%}" for value in gaps.values())
    return Report(
        ["regularization", "training", "test", "gap", *NORMS],
        rows,
        f"The gap between training and test accuracy is {gap} without regularization, {others[0]} "
        f"with weight decay and {others[1]} with dropout. {verdict} Weight decay keeps weights "
        "small.",
    )


def draw(result: Result) -> Figure:
    figure = make_figure(3.0, f"784-100x6-10 on {SAMPLES} images, SGD with lr {LR}")
    axes = figure.subplots(1, len(OPTIONS), sharex=True, sharey=True)
    for ax, name in zip(axes, OPTIONS, strict=True):
        epochs = np.arange(1, len(result.train[name]) + 1)
        ax.plot(epochs, result.train[name], linewidth=1.8, label="training images")
        ax.plot(epochs, result.test[name], "--", linewidth=1.8, label="test images")
        ax.set_title(name)
        ax.set_ylim(0, 1.03)
        ax.grid()
    axes[1].set_xlabel("epoch")
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
