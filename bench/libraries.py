"""Adam on one array by each library, as a user of that library would write it.

`serve` does so in a process of its own, which `bench.worker` starts.
"""

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import worker
from bench.timing import Run

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
CHECKED_STEPS = 2
SHOWN = 1000  # so many weights are sent back


@dataclass
class Peer:
    """Adam by one library."""

    step: Callable[[], object]  # takes one whole step
    weights: Callable[[], np.ndarray]
    before: Callable[[], object] = lambda: None  # before each sample, not timed


def learning_rates() -> Iterator[float]:
    """Adam's corrected learning rate, step by step."""
    for t in itertools.count(1):
        yield LR * math.sqrt(1 - BETA2**t) / (1 - BETA1**t)


def numpy_by_the_book(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    from bench.internals import update_by_the_book
    from zdlfast import reference

    update, params, grads = update_by_the_book(reference.Adam(lr=LR, eps=EPS)), {"W": p}, {"W": g}
    return Peer(lambda: update(params, grads), lambda: p)


def numpy_out(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    m, v, scratch = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    rates = learning_rates()

    def step() -> None:
        lr = next(rates)
        np.subtract(g, m, out=scratch)
        np.multiply(scratch, 1 - BETA1, out=scratch)
        np.add(m, scratch, out=m)
        np.multiply(g, g, out=scratch)
        np.subtract(scratch, v, out=scratch)
        np.multiply(scratch, 1 - BETA2, out=scratch)
        np.add(v, scratch, out=v)
        np.sqrt(v, out=scratch)
        np.add(scratch, EPS, out=scratch)
        np.divide(m, scratch, out=scratch)
        np.multiply(scratch, lr, out=scratch)
        np.subtract(p, scratch, out=p)

    return Peer(step, lambda: p)


def zdlfast_adam(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    import zdlfast

    optimizer, params, grads = zdlfast.Adam(lr=LR, eps=EPS), {"W": p}, {"W": g}
    return Peer(lambda: optimizer.update(params, grads), lambda: p)


def limit(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    from bench.internals import stream

    params, grads = {"W": p}, {"W": g}
    mover = stream(2)
    return Peer(lambda: mover.update(params, grads), lambda: p)


def numexpr(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    import numexpr as ne

    ne.set_num_threads(threads)
    m, v = np.zeros_like(p), np.zeros_like(p)
    # Arrays, because a Python float would make numexpr compute in double precision.
    scalar = p.dtype.type
    rate1, rate2, eps = (scalar(x) for x in (1 - BETA1, 1 - BETA2, EPS))
    rates = learning_rates()

    def step() -> None:
        lr = scalar(next(rates))
        names = {"p": p, "g": g, "m": m, "v": v, "lr": lr, "eps": eps, "r1": rate1, "r2": rate2}
        ne.evaluate("m + r1 * (g - m)", names, out=m)
        ne.evaluate("v + r2 * (g * g - v)", names, out=v)
        ne.evaluate("p - lr * m / (sqrt(v) + eps)", names, out=p)

    return Peer(step, lambda: p)


def numba(p: np.ndarray, g: np.ndarray, threads: int, fastmath: bool = True) -> Peer:
    from numba import njit, prange

    def loop(p, g, m, v, rate1, rate2, lr, eps):  # type: ignore[no-untyped-def]
        for i in prange(p.size):
            m[i] += rate1 * (g[i] - m[i])
            v[i] += rate2 * (g[i] * g[i] - v[i])
            p[i] -= lr * m[i] / (np.sqrt(v[i]) + eps)

    # As fast as it gets: no check for a division by zero, and threads only if there are some.
    kernel = njit(loop, parallel=threads > 1, fastmath=fastmath, error_model="numpy")
    m, v = np.zeros_like(p), np.zeros_like(p)
    scalar = p.dtype.type
    rate1, rate2, eps = (scalar(x) for x in (1 - BETA1, 1 - BETA2, EPS))
    rates = learning_rates()

    def step() -> None:
        lr = scalar(next(rates))
        kernel(p, g, m, v, rate1, rate2, lr, eps)

    return Peer(step, lambda: p)


def numba_exact(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    return numba(p, g, threads, fastmath=False)


def thinc(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    from thinc.api import Adam

    refuse_float64(p)
    optimizer = Adam(LR, beta1=BETA1, beta2=BETA2, eps=EPS, L2=0.0, grad_clip=0.0)
    gradient = g.copy()
    # It sets the gradient to zero at each step, with which the state would become subnormal
    # after some hundreds, and slow.
    return Peer(
        lambda: optimizer((0, "W"), p, gradient), lambda: p, lambda: np.copyto(gradient, g)
    )


def torch(p: np.ndarray, g: np.ndarray, threads: int, **how: bool) -> Peer:
    import torch

    torch.set_num_threads(threads)
    param = torch.nn.Parameter(torch.from_numpy(p))
    param.grad = torch.from_numpy(g)
    optimizer = torch.optim.Adam([param], lr=LR, betas=(BETA1, BETA2), eps=EPS, **how)
    return Peer(optimizer.step, lambda: p)


def torch_loop(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    return torch(p, g, threads, foreach=False, fused=False)


def torch_foreach(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    return torch(p, g, threads, foreach=True)


def torch_fused(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    return torch(p, g, threads, fused=True)


def refuse_float64(p: np.ndarray) -> None:
    if p.dtype != np.float32:
        raise TypeError("only for float32")


def deepspeed(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    refuse_float64(p)
    os.environ["DS_ACCELERATOR"] = "cpu"
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    torch.set_num_threads(threads)
    param = torch.nn.Parameter(torch.from_numpy(p))
    param.grad = torch.from_numpy(g)
    optimizer = DeepSpeedCPUAdam(
        [param], lr=LR, betas=(BETA1, BETA2), eps=EPS, adamw_mode=False, fp32_optimizer_states=True
    )
    return Peer(optimizer.step, lambda: p)


def optax(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import optax

    jax.config.update("jax_enable_x64", p.dtype == np.float64)
    rule = optax.adam(LR, b1=BETA1, b2=BETA2, eps=EPS)

    @jax.jit(donate_argnums=(0, 1))
    def update(params: Any, state: Any, grads: Any) -> Any:
        changes, state = rule.update(grads, state)
        return optax.apply_updates(params, changes), state

    grads = jax.numpy.array(g)
    params = jax.numpy.array(p)
    state = rule.init(params)

    def step() -> None:
        nonlocal params, state
        params, state = update(params, state, grads)
        params.block_until_ready()

    return Peer(step, lambda: np.asarray(params))


#: By name: how to make it, and the packages whose versions count.
PEERS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, int], Peer], list[str]]] = {
    "limit": (limit, []),
    "zdlfast": (zdlfast_adam, ["zdlfast"]),
    "DeepSpeed CPUAdam": (deepspeed, ["deepspeed", "torch"]),
    "torch, fused": (torch_fused, ["torch"]),
    "torch, foreach": (torch_foreach, ["torch"]),
    "torch, for-loop": (torch_loop, ["torch"]),
    "numba": (numba, ["numba"]),
    "numba, exact": (numba_exact, ["numba"]),
    "JAX, optax": (optax, ["jax", "optax"]),
    "numexpr": (numexpr, ["numexpr"]),
    "thinc": (thinc, ["thinc"]),
    "NumPy, out=": (numpy_out, ["numpy"]),
    "NumPy": (numpy_by_the_book, ["numpy"]),
}


def arrays(elements: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A parameter and its gradient, the same in every process."""
    rng = np.random.default_rng(8)
    p = rng.standard_normal(elements, np.float32).astype(dtype, copy=False)
    return p, rng.standard_normal(elements, np.float32).astype(dtype, copy=False)


def packages_of(libraries: Mapping[str, tuple[Any, list[str]]]) -> list[str]:
    """The packages that these libraries come in."""
    return sorted({package for _, packages in libraries.values() for package in packages})


def start(name: str, threads: int, module: str = "bench.libraries") -> worker.Worker:
    """A process that runs one library, by the function `serve` of a module."""
    count = str(threads)
    names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "NUMEXPR", "NUMEXPR_MAX", "ZDLFAST")
    env = {f"{name}_NUM_THREADS": count for name in names}
    # Linux may put both of two OpenMP threads on one CPU, where each waits for the other. This
    # is not what is to be compared.
    env["OMP_PROC_BIND"] = "true"
    # DeepSpeed finds its compiler's helper, ninja, beside Python.
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return worker.Worker(sys.executable, module, name, count, env=env, quiet=True)


@contextlib.contextmanager
def started(
    names: Iterable[str],
    threads: int,
    module: str,
    skipped: Callable[[str, str], None],
    **job: Any,
) -> Iterator[dict[str, worker.Worker]]:
    """A process for each library that can prepare a job; they end with the ``with`` block.

    Parameters
    ----------
    module : str
        Where the function `serve` is.
    skipped : callable
        Is called with the name of a library that cannot, and why.
    **job
        What it is asked to prepare.
    """
    processes: dict[str, worker.Worker] = {}
    try:
        for name in names:
            processes[name] = start(name, threads, module)
            answer = processes[name].ask(do="prepare", **job)
            if "error" in answer:
                processes.pop(name).end()
                skipped(name, "not installed" if answer.get("missing") else answer["error"])
        yield processes
    finally:
        for process in processes.values():
            process.end()


def serve(name: str, threads: str) -> None:
    """Time the steps of one library."""

    def prepare(command: dict[str, Any]) -> tuple[dict[str, Run], dict[str, Any]]:
        peer = PEERS[name][0](*arrays(command["elements"], command["dtype"]), int(threads))
        for _ in range(CHECKED_STEPS):
            peer.before()
            peer.step()
        every = max(1, command["elements"] // SHOWN)
        answer = {"weights": peer.weights()[::every].tolist()}
        return {"step": Run(peer.step, peer.before)}, answer

    worker.serve(prepare, int(threads))
