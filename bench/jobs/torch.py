"""The job ``torch``: torch's networks on the CPU, with torch's own Adam and with zdlfast's."""

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from rich.console import Console
from rich.table import Table

import zdlfast
from bench import internals, plots, report
from bench.equality import different
from bench.timing import Run, interleave, median
from bench.updates import thread_counts

if TYPE_CHECKING:
    import torch

HELP = "steps and whole training loops of torch's networks, with torch's Adam and with zdlfast's"
DESCRIPTION = """\
Train networks of torch on the CPU with Adam, in float32: by torch's default, by its fused
implementation, and by zdlfast.torch, in turns, on one thread and on all. First the step alone,
on gradients that are there; then the whole loop of forward, backward and step. Check before that
zdlfast's parameters are those of NumPy's rule bit for bit.
"""
EPILOG = """\
columns of the tables:
  tensors, elements  how many parameters the network has, and how many numbers in them
  default, fused     torch.optim.Adam, as it is and with fused=True
  zdlfast            zdlfast.torch.Adam
  (×)                torch's time / zdlfast's time
  step               the share of torch's default step in the whole loop

files in DIR:
  torch.json   machine, settings, quartiles and every sample
  torch.txt    the tables
  torch.png    the time of one pass through the loop

exit status: 0 if all is equal, 1 if anything differs, 2 without torch, 130 after Ctrl-C
"""
DEFAULT, FUSED, ZDLFAST = "torch, default", "torch, fused", "zdlfast"
SECONDS, QUICK_SECONDS = 6.0, 0.05
LARGE = 50_000_000
CHECKED_STEPS = 3


@dataclass(frozen=True)
class Network:
    """What is trained: a name, what makes it, and the shape of its input."""

    name: str
    make: Callable[[], Any]
    shape: tuple[int, ...]


@dataclass
class Result:
    """The times of one network, in seconds per step and per pass through the loop."""

    name: str
    tensors: int
    elements: int
    threads: int
    step: dict[str, list[float]] = field(default_factory=dict)
    loop: dict[str, list[float]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)


def dense(*sizes: int) -> Any:
    import torch

    layers: list[Any] = []
    for inputs, outputs in pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def encoder() -> Any:
    import torch

    layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
    return torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


def one_tensor() -> Any:
    import torch

    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.randn(LARGE))
    return model


# Policies of reinforcement learning, tabular data, digits, and a small transformer.
NETWORKS = [
    Network("8-64-64-2", partial(dense, 8, 64, 64, 2), (64, 8)),
    Network("23-256-256-1", partial(dense, 23, 256, 256, 1), (256, 23)),
    Network("784-200-200-10", partial(dense, 784, 200, 200, 10), (100, 784)),
    Network("encoder 4 x 128", encoder, (16, 32, 128)),
]


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "five rounds, one thread, and no tensor of 50 million elements")


def main(options: argparse.Namespace, console: Console) -> int:
    try:
        import torch
    except ModuleNotFoundError as error:
        console.print("error:", error, style="bold red", markup=False)
        return 2
    seconds = QUICK_SECONDS if options.quick else SECONDS
    counts = [1] if options.quick else thread_counts()
    networks = list(NETWORKS)
    if not options.quick:
        networks.append(Network("one tensor", one_tensor, ()))
    before = torch.get_num_threads()
    try:
        results, complete = report.collect(
            console,
            len(networks) * len(counts),
            lambda step: measure_all(networks, counts, seconds, step),
        )
    finally:
        torch.set_num_threads(before)
    timed = [result for result in results if result.step]
    tables = report.tables_by_threads(timed, counts, step_table, loop_table)
    records = [
        {
            "case": {"name": r.name, "threads": r.threads, "what": what},
            "equal": not r.differences,
            "differences": r.differences,
            "tensors": r.tensors,
            "elements": r.elements,
            "times": report.times_record(times),
        }
        for r in results
        for what, times in (("step", r.step), ("loop", r.loop))
        if times or r.differences
    ]
    report.publish(
        console,
        options.out,
        "torch",
        tables,
        {"torch.png": partial(draw, results=timed)} if timed else {},
        records,
        {"seconds": seconds, "versions": report.versions(["torch"])},
        complete,
    )
    found = {f"{r.name}, {report.threads(r.threads)}": r.differences for r in results}
    return report.finish(
        console,
        {name: lines for name, lines in found.items() if lines},
        complete,
        "All parameters by zdlfast: equal to NumPy's rule bit for bit.",
    )


def measure_all(
    networks: list[Network], counts: list[int], seconds: float, step: report.Step
) -> Iterator[Result]:
    import torch

    for count in counts:
        torch.set_num_threads(count)
        with zdlfast.threads(count):
            for network in networks:
                step(f"{network.name}, {report.threads(count)}")
                yield measure(network, count, seconds)


def measure(network: Network, threads: int, seconds: float) -> Result:
    """Check zdlfast's steps against NumPy's; then time all."""
    import torch

    torch.manual_seed(8)
    model = network.make()
    params = list(model.parameters())
    result = Result(network.name, len(params), sum(p.numel() for p in params), threads)
    result.differences = check(copy.deepcopy(params))
    if result.differences:
        return result
    models = {name: copy.deepcopy(model) for name in (DEFAULT, FUSED, ZDLFAST)}
    del model, params
    optimizers = {name: optimizer(name, models[name]) for name in models}
    # Every loop has a model of its own, and a step works on the gradients of its last pass.
    if network.shape:
        inputs = torch.randn(network.shape)
        loops = {
            name: Run(partial(train, models[name], optimizers[name], inputs)) for name in models
        }
        for run in loops.values():
            run.call()
        result.loop = interleave(loops, seconds)
    else:
        for one in models.values():
            set_gradients(list(one.parameters()))
    steps = {name: Run(optimizers[name].step) for name in models}
    for run in steps.values():
        run.call()
    result.step = interleave(steps, seconds)
    return result


def optimizer(name: str, model: Any) -> Any:
    import torch

    if name == ZDLFAST:
        import zdlfast.torch

        return zdlfast.torch.Adam(model.parameters())
    return torch.optim.Adam(model.parameters(), fused=True if name == FUSED else None)


def train(model: Any, optimizer: Any, inputs: "torch.Tensor") -> None:
    """One pass through the loop."""
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


def set_gradients(params: list[Any]) -> None:
    import torch

    for param in params:
        param.grad = 0.01 * torch.randn_like(param)


def check(params: list[Any]) -> list[str]:
    """What differs between steps of zdlfast.torch and of the rule in NumPy."""
    import zdlfast.torch

    rule = internals.twin("AdamW")(eps=1e-8, weight_decay=0.0)
    arrays = [param.detach().numpy().copy() for param in params]
    optimizer = zdlfast.torch.Adam(params)
    for _ in range(CHECKED_STEPS):
        set_gradients(params)
        rule.update(arrays, [param.grad.numpy() for param in params])
        optimizer.step()
    pairs = {
        f"parameter {i}": (array, param.detach().numpy())
        for i, (array, param) in enumerate(zip(arrays, params, strict=True))
    }
    return different(pairs, "NumPy")


def step_table(results: list[Result]) -> Table:
    made = report.make_table(
        f"one step of Adam, float32, {report.threads(results[0].threads)}",
        ["network", "tensors", "elements", ZDLFAST, "default (×)", "fused (×)"],
    )
    for r in results:
        made.add_row(
            r.name, f"{r.tensors}", f"{r.elements:,}", report.duration(median(r.step[ZDLFAST])),
            times(r.step, DEFAULT), times(r.step, FUSED),
        )  # fmt: skip
    return made


def loop_table(results: list[Result]) -> Table:
    made = report.make_table(
        f"forward, backward and step, {report.threads(results[0].threads)}",
        ["network", "step", ZDLFAST, "default (×)", "fused (×)"],
    )
    for r in results:
        if r.loop:
            share = median(r.step[DEFAULT]) / median(r.loop[DEFAULT])
            made.add_row(
                r.name, f"{share:.0%}", report.duration(median(r.loop[ZDLFAST])),
                times(r.loop, DEFAULT), times(r.loop, FUSED),
            )  # fmt: skip
    return made


def times(measured: dict[str, list[float]], name: str) -> str:
    """How many times as long as zdlfast something takes, and how long."""
    ratio = median(measured[name]) / median(measured[ZDLFAST])
    return f"{report.duration(median(measured[name]))} ({report.ratio(ratio)})"


@mpl.rc_context(plots.STYLE)
def draw(path: Path, results: list[Result]) -> None:
    """What a pass through the loop takes: the network's part, and the optimizer's."""
    shown = [r for r in results if r.loop]
    figure, axes = plots.grid(len(shown), 2, (10, 2.2), share=False)
    colors = {DEFAULT: plots.ORANGE, FUSED: "#d1495b", ZDLFAST: plots.BLUE}
    for ax, r in zip(axes.flat, shown, strict=False):
        for place, name in enumerate(reversed(colors)):
            whole, step = median(r.loop[name]), min(median(r.step[name]), median(r.loop[name]))
            ax.barh(place, whole - step, color="0.8")
            ax.barh(place, step, left=whole - step, color=colors[name])
            ax.annotate(report.duration(whole), (whole, place), (3, 0), va="center",
                        textcoords="offset points", fontsize=10)  # fmt: skip
        ax.set_yticks(np.arange(len(colors)), list(reversed(colors)))
        ax.set_xlim(right=1.2 * max(median(times) for times in r.loop.values()))
        ax.xaxis.set_major_formatter(plots.DURATIONS)
        ax.tick_params(axis="x", labelsize=9)
        ax.set_title(f"{r.name}, {report.threads(r.threads)}", fontsize=12, loc="left")
    figure.supxlabel("forward and backward (grey), and the optimizer's step", fontsize=12)
    plots.set_title(figure, "One pass through torch's training loop, with Adam in float32")
    figure.savefig(path)
