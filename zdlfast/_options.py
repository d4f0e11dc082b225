"""The options that every rule takes: their types, and how a value is checked."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from zdlfast import _validation as validation
from zdlfast._rules import UNBOUNDED

if TYPE_CHECKING:
    from zdlfast._overrides import Pattern

#: What may change during a training: a number, or a function that returns it for the number of
#: updates done, such as those of `zdlfast.schedules`.
Rate = float | Callable[[int], float]

#: What to do about gradients that hold NaN or infinity.
Nonfinite = Literal["propagate", "raise", "skip"]

#: How state is kept: in 8 bits an element, in 16, or in the parameter's own dtype.
StateFormat = Literal["8bit", "bfloat16"]

#: How state in 8 bits is rounded, and parameters of bfloat16.
Rounding = Literal["nearest", "stochastic"]


class Options(TypedDict, total=False):
    """`zdlfast.Optimizer` says what each one does."""

    weight_decay: float
    decoupled: bool
    maximize: bool
    clip_norm: float | None
    clip_value: float | None
    nonfinite: Nonfinite
    flush_subnormals: bool
    state: StateFormat | None
    state_min_size: int
    state_rounding: Rounding
    state_seed: int
    overrides: "Mapping[Pattern, Mapping[str, Any]] | None"


def _weight_decay(name: str, value: Any) -> float:
    return validation.option(name, value, UNBOUNDED)


def _nonfinite(name: str, value: Any) -> str:
    return validation.choice(name, value, get_args(Nonfinite))


def _state(name: str, value: Any) -> str | None:
    return None if value is None else validation.choice(name, value, get_args(StateFormat))


def _rounding(name: str, value: Any) -> str:
    return validation.choice(name, value, get_args(Rounding))


#: By name; `overrides` is not among them, because it depends on the rule.
CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "weight_decay": _weight_decay,
    "decoupled": validation.flag,
    "maximize": validation.flag,
    "clip_norm": validation.limit,
    "clip_value": validation.limit,
    "nonfinite": _nonfinite,
    "flush_subnormals": validation.flag,
    "state": _state,
    "state_min_size": validation.whole_number,
    "state_rounding": _rounding,
    "state_seed": validation.whole_number,
}
#: The names of all.
OPTIONS = (*CHECKS, "overrides")
