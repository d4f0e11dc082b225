"""The base of every schedule, and what is checked of its arguments."""

import numbers
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise
from math import inf
from operator import index
from typing import Any

# Whole numbers up to here are floats without rounding; no training is as long.
LONGEST = 2**53


@dataclass(frozen=True)
class Schedule:
    """The base of every schedule: a function of the number of updates done."""

    def __post_init__(self) -> None:
        for option in fields(self):
            if option.name in _CHECKS:  # a class of one's own has options of its own
                value = _CHECKS[option.name](option.name, getattr(self, option.name))
                object.__setattr__(self, option.name, value)

    def __call__(self, done: int) -> float:
        """Return the rate of the coming update.

        Parameters
        ----------
        done : int
            How many updates were done: 0 before the first one.
        """
        count = index(done)
        if count < 0:
            raise ValueError(f"the number of updates done must be >= 0, got {done}")
        try:
            rate = self._rate(min(count, LONGEST))
        except OverflowError:
            rate = inf
        if rate == inf:
            raise OverflowError(f"{self!r} is too large for a float after {done} updates")
        return rate

    def _rate(self, done: int) -> float:
        raise NotImplementedError


class WithWarmup(Schedule):
    """A schedule that has its warm-up built in."""

    lr: float
    warmup: int
    start_lr: float

    def __post_init__(self) -> None:
        super().__post_init__()
        steps = getattr(self, "steps", inf)
        if self.warmup >= steps:
            raise ValueError(f"warmup must be < steps, which is {steps}, got {self.warmup}")

    def _rate(self, done: int) -> float:
        if done < self.warmup:
            return self.start_lr + (self.lr - self.start_lr) * (done / self.warmup)
        return self._warm_rate(done - self.warmup)

    def _warm_rate(self, done: int) -> float:
        """The rate, counted from the end of the warm-up."""
        raise NotImplementedError


def _number(name: str, value: Any) -> float:
    # A flag is an int to Python; as a rate it is a mistake.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return inf


def _from_0(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0.0 <= number < inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {shown(value)}")
    return number


def _above_0(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0.0 < number < inf:
        raise ValueError(f"{name} must be > 0 and finite, got {shown(value)}")
    return number


def _share(name: str, value: Any) -> float:
    number = _number(name, value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name} must be in (0, 1), got {shown(value)}")
    return number


def _whole_from_0(name: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {shown(value)}")
    number = int(value)
    if not least <= number <= LONGEST:
        raise ValueError(f"{name} must be in [{least}, 2**53], got {shown(value)}")
    return number


def _whole_from_1(name: str, value: Any) -> int:
    return _whole_from_0(name, value, 1)


def _schedules(name: str, value: Any) -> tuple[Schedule, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise TypeError(f"{name} must be a list of schedules, got {shown(value)}")
    for part in value:
        if not isinstance(part, Schedule):
            raise TypeError(f"{name} must be schedules of zdlfast.schedules, got {shown(part)}")
        if hasattr(part, "schedules"):
            raise nested()
    return tuple(value)


def nested() -> ValueError:
    """The error of a schedule that is joined of joined ones."""
    return ValueError("schedules must hold no Join: give all of its schedules and boundaries")


def _boundaries(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be a list of whole numbers, got {shown(value)}")
    found = tuple(_whole_from_1(f"{name}[{i}]", number) for i, number in enumerate(value))
    if any(earlier >= later for earlier, later in pairwise(found)):
        raise ValueError(f"{name} must rise, got {shown(value)}")
    return found


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return "a number of very many digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "lr": _from_0,
    "start_lr": _from_0,
    "end_lr": _from_0,
    "gamma": _above_0,
    "power": _above_0,
    "pct_start": _share,
    "div_factor": _above_0,
    "final_div_factor": _above_0,
    "steps": _whole_from_1,
    "step_size": _whole_from_1,
    "timescale": _whole_from_1,
    "warmup": _whole_from_0,
    "schedules": _schedules,
    "boundaries": _boundaries,
}
