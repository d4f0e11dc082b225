"""What an update is about, as ranks compare it before it begins."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zdlfast import _validation as validation
from zdlfast._bfloat16 import holds_bfloat16
from zdlfast._encoded import EncodedState
from zdlfast._options import OPTIONS
from zdlfast._saved_options import packed
from zdlfast.mpi._ranks import hash_of

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

_FLOAT: np.dtype[Any] = np.dtype(float)
# As tuples, and not united: that is made anew at each look.
_ARRAYS = (np.ndarray, np.generic)
_NUMBERS = (float, int)


class Fact(NamedTuple):
    """One parameter and its gradient, as far as all ranks have it in common."""

    key: Any
    param: np.dtype[Any] | str  # the type of what is no array
    shape: tuple[int, ...]
    grad: np.dtype[Any] | str | None  # None: it is left alone
    grad_shape: tuple[int, ...]
    dtype: np.dtype[Any]  # that the gradient is sent in
    frozen: bool

    @property
    def is_sent(self) -> bool:
        return self.grad is not None and not self.frozen

    def lines(self) -> list[tuple[str, str]]:
        frozen = ", frozen" if self.frozen else ""
        grad = "None" if self.grad is None else f"{self.grad} of shape {self.grad_shape}"
        return [
            (f"params[{self.key!r}]", f"{self.param} of shape {self.shape}{frozen}"),
            (f"grads[{self.key!r}]", grad),
        ]


@dataclass(frozen=True, slots=True)
class Look:
    """All parameters of an update, each with its gradient."""

    by_key: bool  # a mapping, or a list
    keys: list[Any]
    values: list[Any]
    gradients: list[Any]
    facts: list[Fact]


def look(optimizer: "Optimizer", params: Any, grads: Any) -> Look:
    """Look at the containers of an update, and at what is in them."""
    by_key = hasattr(params, "keys")
    if not by_key and not isinstance(params, list):
        raise TypeError(f"params must be a mapping or a list, got {type(params).__name__}")
    keys, values, gradients = validation.lookup(params, grads)
    frozen = _frozen(optimizer, keys)
    facts = [
        _fact(key, value, grad, is_frozen)
        for key, value, grad, is_frozen in zip(keys, values, gradients, frozen, strict=True)
    ]
    return Look(by_key, keys, values, gradients, facts)


def _frozen(optimizer: "Optimizer", keys: list[Any]) -> list[bool]:
    overrides = optimizer.overrides
    if overrides is None:
        return [False] * len(keys)
    overrides.resolve(keys)
    groups = [options.get("frozen", False) for options in overrides.groups]
    return [groups[overrides.group_of[key]] for key in keys]


def _fact(key: Any, value: Any, grad: Any, frozen: bool) -> Fact:
    for what, array in (("params", value), ("grads", grad)):
        if holds_bfloat16(array):
            raise TypeError(
                f"{what}[{key!r}] is an array of bfloat16, expected one of NumPy's own dtypes"
            )
    kind: np.dtype[Any] | str | None = None
    dtype, shape = _FLOAT, ()
    if grad is not None and not frozen:
        if isinstance(grad, _ARRAYS):
            kind, shape = grad.dtype, grad.shape
            dtype = kind if kind.isnative else kind.newbyteorder("=")
        elif isinstance(grad, _NUMBERS):
            kind = type(grad).__name__
        if kind is None or dtype.kind not in "biufc" or isinstance(grad, np.ma.MaskedArray):
            raise TypeError(
                f"grads[{key!r}] must be an array of NumPy's or a number, got "
                f"{type(grad).__name__}"
            )
        if dtype.kind in "biu":
            dtype = _FLOAT  # a mean of whole numbers is none
    param = value.dtype if hasattr(value, "dtype") else type(value).__name__
    return Fact(key, param, validation.shape_of(value), kind, shape, dtype, frozen)


def settings_of(optimizer: "Optimizer") -> list[tuple[str, str]]:
    """The options of an optimizer and the numbers in its state."""
    lines = [("the optimizer", type(optimizer).__name__)]
    for name in (*optimizer._options, *optimizer._flags, *OPTIONS):
        # Of a schedule, its value: two functions are never equal.
        value = optimizer._lr_now() if name == "lr" else packed(name, getattr(optimizer, name))
        lines.append((name, repr(value)))
    lines.append((optimizer._counter or "updates", repr(optimizer.updates)))
    lines += [(name, repr(getattr(optimizer, name))) for name in optimizer._numbers]
    return lines


def values_of(optimizer: "Optimizer", found: Look, known: Any) -> list[tuple[str, str]]:
    """A hash of each parameter that is not known yet, and of its state."""
    lines = []
    for place, (key, value) in enumerate(zip(found.keys, found.values, strict=True)):
        if key in known:
            continue
        lines.append((f"the values of params[{key!r}]", _hash(value)))
        for slot in optimizer._slots:
            held = getattr(optimizer, slot)
            if isinstance(held, list):
                state = held[place] if place < len(held) else None
            else:
                state = held.get(key) if held is not None else None
            if state is not None:
                lines.append((f"the values of {slot}[{key!r}]", _hash(state)))
    return lines


def _hash(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return hash_of(value)
    if isinstance(value, EncodedState):
        return " ".join([repr(value), *map(hash_of, value.arrays())])
    return repr(value)
