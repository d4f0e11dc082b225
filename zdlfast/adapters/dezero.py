"""DeZero, the framework of the third book: the optimizers of ``dezero.optimizers``.

A parameter of DeZero is an object that holds its array and its gradient, and its optimizers keep
state by the ``id`` of that object. So dicts of arrays by id are what zdlfast takes here.
"""

from typing import Any

from zdlfast.adapters._adapter import MethodAdapter
from zdlfast.adapters._steps import Patch, are_numbers, dtypes_of, fits

# For each class: the rule; its options and its state, each by zdlfast's name and by DeZero's.
_RULES: dict[str, tuple[str, dict[str, str], dict[str, str]]] = {
    "SGD": ("SGD", {"lr": "lr"}, {}),
    "MomentumSGD": ("Momentum", {"lr": "lr", "momentum": "momentum"}, {"v": "vs"}),
    "AdaGrad": ("AdaGrad", {"lr": "lr", "eps": "eps"}, {"h": "hs"}),
    "AdaDelta": ("AdaDelta", {"decay_rate": "rho", "eps": "eps"}, {"h": "msg", "d": "msdx"}),
    "Adam": (
        "Adam",
        {"lr": "alpha", "beta1": "beta1", "beta2": "beta2", "eps": "eps"},
        {"m": "ms", "v": "vs"},
    ),
}


def update(patch: Patch, optimizer: Any) -> None:
    """``Optimizer.update``: hooks, then a step of every parameter that has a gradient."""
    params = [param for param in optimizer.target.params() if param.grad is not None]
    for hook in optimizer.hooks:
        hook(params)
    # DeZero does not look again, and crashes on what its FreezeParam has frozen.
    params = [param for param in params if param.grad is not None]
    if not step(patch, optimizer, params):
        for param in params:
            optimizer.update_one(param)


def step(patch: Patch, optimizer: Any, params: list[Any]) -> bool:
    """Take a step of all these parameters, or say no."""
    cls = type(optimizer)
    rule, options, slots = _RULES.get(cls.__name__, ("", {}, {}))
    if not rule or cls is not getattr(patch.module.optimizers, cls.__name__):
        return False
    arrays = {id(param): param.data for param in params}
    grads = {id(param): param.grad.data for param in params}
    dtypes = dtypes_of(arrays.values(), grads.values())
    given = {ours: getattr(optimizer, theirs) for ours, theirs in options.items()}
    # A parameter that two layers share is there twice, and takes two steps.
    if len(arrays) < len(params) or not dtypes or not are_numbers(given.values(), dtypes):
        return False
    if rule == "Adam":
        given["iter"] = optimizer.t - 1  # it has counted the step already
    own = patch.counterpart(optimizer, rule, **given)
    if own is None:
        return False
    for ours, theirs in slots.items():
        held = getattr(optimizer, theirs)
        if not all(fits(held[key], array) for key, array in arrays.items() if key in held):
            return False
        setattr(own, ours, held)
    own.update(arrays, grads)
    for ours, theirs in slots.items():
        setattr(optimizer, theirs, getattr(own, ours))
    return True


adapter = MethodAdapter(
    name="dezero",
    package="dezero",
    module="dezero",
    versions=("0.0.11", "0.0.13"),
    methods={"optimizers.Optimizer.update": update},
    formulas={
        "optimizers.Optimizer.update": "0ef63afd3e70b1ad",
        "optimizers.SGD.update_one": "f7fd99995abdb33e",
        "optimizers.MomentumSGD.update_one": "c3ccb5bcede1d27d",
        "optimizers.AdaGrad.update_one": "f851aff5901ad7c2",
        "optimizers.AdaDelta.update_one": "81aa86606e39b0dd",
        "optimizers.Adam.update_one": "f3e8f401030b93f7",
        "optimizers.Adam.update": "c454f055af4493c3",
        "optimizers.Adam.lr": "e814f6383ecdfbd0",
    },
)
