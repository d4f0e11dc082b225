"""What an update does to the parameters that have the same options, in numbers.

::

    g = g_scale * g                 # maximize, clip_norm
    g = clip(g, -clip_value, clip_value)
    g = g + decay * p               # weight_decay
    p = p_decay * p                 # weight_decay, decoupled
    p, state = rule(p, g, state, scalars)
    state = 0 where it is subnormal # flush_subnormals

What changes nothing is left out.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zdlfast._encoded import Encoding, encoding_of
from zdlfast._validation import is_array

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer


@dataclass(slots=True)
class Group:
    """The numbers of one step, for parameters with the same options."""

    step: int
    scalars: tuple[float, ...]
    g_scale: float
    clip_value: float | None
    decay: float
    p_decay: float
    flush: bool
    frozen: bool
    encoding: Encoding

    def apply(
        self, rule: Callable[..., tuple[Any, ...]], p: Any, g: Any, *state: Any
    ) -> tuple[Any, ...]:
        """The new parameter and the new state."""
        if self.g_scale != 1.0:
            g = self.g_scale * g
        if self.clip_value is not None:
            g = _clipped(g, self.clip_value)
        if self.decay != 0.0:
            g = g + self.decay * p
        if self.p_decay != 1.0:
            p *= self.p_decay
        results = rule(p, g, *state, *self.scalars)
        if not self.flush:
            return results
        p, *new = results
        return p, *map(_flushed, new)


def _clipped(g: Any, limit: float) -> Any:
    # A number stays Python's, and NaN stays NaN.
    if isinstance(g, float | int):
        return min(max(g, -limit), limit)
    return np.clip(g, -limit, limit)


def _flushed(value: Any) -> Any:
    if isinstance(value, float):
        return type(value)(0.0) if abs(value) < sys.float_info.min else value
    if not is_array(value):
        tiny = abs(value) < np.finfo(value.dtype).smallest_normal
        return value.dtype.type(0) if tiny else value
    if value.dtype.kind in "fc":
        value[np.abs(value) < np.finfo(value.dtype).smallest_normal] = 0.0
    return value


class With:
    """An optimizer as it would be with some other options."""

    def __init__(self, optimizer: "Optimizer", options: dict[str, Any]) -> None:
        self._optimizer = optimizer
        self.__dict__.update(options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


class Step:
    """The numbers of the coming step, for all parameters.

    Parameters
    ----------
    optimizer : Optimizer
        Whose step it is.
    keys : iterable
        Those of the parameters.
    """

    def __init__(self, optimizer: "Optimizer", keys: Iterable[Any]) -> None:
        self.lr = optimizer._lr_now()
        overrides = optimizer.overrides
        if overrides is None:
            self._group_of: dict[Any, int] | None = None
            self._groups = [_make_group(optimizer, {}, self.lr)]
        else:
            overrides.resolve(keys)
            self._group_of = overrides.group_of
            self._groups = [
                _make_group(optimizer, options, self.lr) for options in overrides.groups
            ]

    def group(self, key: Any) -> Group:
        """That of a parameter."""
        return self._groups[self._group_of[key] if self._group_of is not None else 0]

    def scale(self, rate: float) -> None:
        """Multiply all gradients by this, too."""
        for group in self._groups:
            group.g_scale *= rate


def _make_group(optimizer: "Optimizer", options: dict[str, Any], lr: Any) -> Group:
    given: Any = optimizer
    if options or lr != getattr(optimizer, "lr", None):
        given = With(optimizer, {"lr": lr, **options})
        lr = given.lr = optimizer._lr_now(given.lr)
    decay = given.weight_decay
    decoupled = given.decoupled and decay != 0.0
    factor = decoupled and not optimizer._own_decay
    return Group(
        step=optimizer.updates + 1,
        scalars=type(optimizer)._scalars(given),
        g_scale=-1.0 if given.maximize else 1.0,
        clip_value=given.clip_value,
        decay=0.0 if decoupled else decay,
        p_decay=1.0 - lr * decay if factor else 1.0,
        flush=given.flush_subnormals,
        frozen=options.get("frozen", False),
        encoding=encoding_of(given),
    )
