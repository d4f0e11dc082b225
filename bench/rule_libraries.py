"""Every rule on one float32 array, by each library that has it, with the options of zdlfast's.

`serve` does so in a process of its own, which `bench.worker` starts.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from bench import worker
from bench.internals import slots, stream, twin, update_by_the_book
from bench.libraries import CHECKED_STEPS, SHOWN, Peer, arrays
from bench.timing import Run

#: Makes a rule for a parameter and its gradient; None if the library has no such rule.
Make = Callable[[str, np.ndarray, np.ndarray, int], Peer | None]
#: The arguments of a rule elsewhere, from an optimizer with the options.
Arguments = Callable[[Any], dict[str, Any]]


def numpy_by_the_book(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    update, params, grads = update_by_the_book(twin(rule)()), {"W": p}, {"W": g}
    return Peer(lambda: update(params, grads), lambda: p)


def zdlfast_rule(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    import zdlfast

    optimizer, params, grads = getattr(zdlfast, rule)(), {"W": p}, {"W": g}
    return Peer(lambda: optimizer.update(params, grads), lambda: p)


def limit(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    params, grads = {"W": p}, {"W": g}
    mover = stream(len(slots(rule)))
    return Peer(lambda: mover.update(params, grads), lambda: p)


def numba(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer | None:
    from bench.numba_loops import LOOPS

    if rule not in LOOPS:
        return None
    loop = LOOPS[rule]
    kernel, numbers = loop.compiled(threads), loop.numbers(twin(rule)())
    state = [np.zeros_like(p) for _ in range(loop.slots)]
    return Peer(lambda: kernel(p, g, *state, *next(numbers)), lambda: p)


# ------------------------------------------------------------------ torch


def _betas(o: Any) -> dict[str, Any]:
    return {"betas": (o.beta1, o.beta2), "eps": o.eps}


TORCH: dict[str, tuple[str, Arguments]] = {
    "SGD": ("SGD", lambda o: {}),
    "Momentum": ("SGD", lambda o: {"momentum": o.momentum}),
    "Nesterov": ("SGD", lambda o: {"momentum": o.momentum, "nesterov": True}),
    "AdaGrad": ("Adagrad", lambda o: {"eps": o.eps}),
    "RMSprop": ("RMSprop", lambda o: {"alpha": o.decay_rate, "eps": o.eps}),
    "Adam": ("Adam", _betas),
    "AdamW": ("AdamW", lambda o: {**_betas(o), "weight_decay": o.weight_decay}),
    "AMSGrad": ("Adam", lambda o: {**_betas(o), "amsgrad": True}),
    "NAdam": ("NAdam", lambda o: {**_betas(o), "momentum_decay": o.momentum_decay}),
    "RAdam": ("RAdam", _betas),
    "Adamax": ("Adamax", _betas),
    "AdaDelta": ("Adadelta", lambda o: {"rho": o.decay_rate, "eps": o.eps}),
}
# Those of which torch has a fused kernel.
FUSED = {"SGD", "Adagrad", "Adam", "AdamW"}


def torch(rule: str, p: np.ndarray, g: np.ndarray, threads: int, **how: bool) -> Peer | None:
    import torch

    if rule not in TORCH or ("fused" in how and TORCH[rule][0] not in FUSED):
        return None
    torch.set_num_threads(threads)
    param, gradient = torch.nn.Parameter(torch.from_numpy(p)), g.copy()
    param.grad = torch.from_numpy(gradient)
    name, arguments = TORCH[rule]
    o = twin(rule)()
    optimizer = getattr(torch.optim, name)([param], lr=o.lr, **arguments(o), **how)
    # With foreach, Nesterov's momentum is added to the gradient itself.
    return Peer(optimizer.step, lambda: p, lambda: np.copyto(gradient, g))


def torch_fused(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer | None:
    return torch(rule, p, g, threads, fused=True)


def torch_foreach(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer | None:
    return torch(rule, p, g, threads, foreach=True)


# ------------------------------------------------------------------ optax


def _b1_b2(o: Any) -> dict[str, Any]:
    return {"b1": o.beta1, "b2": o.beta2}


def _b1_b2_eps(o: Any) -> dict[str, Any]:
    return {**_b1_b2(o), "eps": o.eps}


# NAdam is another rule there, without the growing momentum.
OPTAX: dict[str, tuple[str, Arguments]] = {
    "SGD": ("sgd", lambda o: {}),
    "Momentum": ("sgd", lambda o: {"momentum": o.momentum}),
    "Nesterov": ("sgd", lambda o: {"momentum": o.momentum, "nesterov": True}),
    "AdaGrad": ("adagrad", lambda o: {"initial_accumulator_value": 0.0, "eps": o.eps**2}),
    "RMSprop": ("rmsprop", lambda o: {"decay": o.decay_rate, "eps": o.eps, "eps_in_sqrt": False}),
    "Adam": ("adam", _b1_b2_eps),
    "AdamW": ("adamw", lambda o: {**_b1_b2_eps(o), "weight_decay": o.weight_decay}),
    "AMSGrad": ("amsgrad", _b1_b2_eps),
    "RAdam": ("radam", _b1_b2_eps),
    "Adamax": ("adamax", _b1_b2_eps),
    "AdaDelta": ("adadelta", lambda o: {"rho": o.decay_rate, "eps": o.eps}),
    "AdaBelief": ("adabelief", lambda o: {**_b1_b2_eps(o), "eps_root": o.eps}),
    "Lion": ("lion", lambda o: {**_b1_b2(o), "weight_decay": 0.0}),
    "ADOPT": ("contrib.adopt", _b1_b2_eps),
    "ScheduleFreeAdamW": ("contrib.schedule_free_adamw", _b1_b2_eps),
}


def optax(rule: str, p: np.ndarray, g: np.ndarray, threads: int) -> Peer | None:
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import optax
    import optax.contrib

    if rule not in OPTAX:
        return None
    name, arguments = OPTAX[rule]
    make: Any = optax
    for part in name.split("."):
        make = getattr(make, part)
    o = twin(rule)()
    there = make(o.lr, **arguments(o))

    @jax.jit(donate_argnums=(0, 1))
    def update(params: Any, state: Any, grads: Any) -> Any:
        changes, state = there.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    grads = jax.numpy.array(g)
    params = jax.numpy.array(p)
    # State that shares the parameter's memory could not be donated.
    state = jax.tree.map(jax.numpy.array, there.init(params))

    def step() -> None:
        nonlocal params, state
        params, state = update(params, state, grads)
        params.block_until_ready()

    return Peer(step, lambda: np.asarray(params))


#: By name: how to make a rule, and the packages whose versions count.
LIBRARIES: dict[str, tuple[Make, list[str]]] = {
    "limit": (limit, []),
    "zdlfast": (zdlfast_rule, ["zdlfast"]),
    "torch, fused": (torch_fused, ["torch"]),
    "torch, foreach": (torch_foreach, ["torch"]),
    "numba": (numba, ["numba"]),
    "JAX, optax": (optax, ["jax", "optax"]),
    "NumPy": (numpy_by_the_book, ["numpy"]),
}


def serve(name: str, threads: str) -> None:
    """Time the steps of one library."""

    def prepare(command: dict[str, Any]) -> tuple[dict[str, Run], dict[str, Any]]:
        rule, elements = command["rule"], command["elements"]
        p, g = arrays(elements, "float32")
        every = max(1, elements // SHOWN)
        before = p[::every].tolist()
        peer = LIBRARIES[name][0](rule, p, g, int(threads))
        if peer is None:
            return {}, {"has": False}
        for _ in range(CHECKED_STEPS):
            peer.before()
            peer.step()
        answer = {"has": True, "before": before, "after": peer.weights()[::every].tolist()}
        return {"step": Run(peer.step, peer.before)}, answer

    worker.serve(prepare, int(threads))
