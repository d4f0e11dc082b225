"""Learning rates that change: functions of the number of updates done.

::

    from zdlfast.schedules import Cosine

    schedule = Cosine(0.001, steps=10_000, warmup=500)
    schedule(0), schedule(500), schedule(10_000)      # 0.0, 0.001, 0.0

A schedule is a value: it cannot be changed, two with the same arguments are equal, it prints as
the call that makes it, and it is saved by its name and its arguments. It remembers nothing
between two calls, so that a training may be resumed anywhere.

Each is as torch's or optax's of the same name, with two differences. It stays where it ends, at
any number of updates. And `Cosine`, `Step` and the others have their warm-up built in: for
``warmup`` updates, a straight line from ``start_lr`` up to ``lr``.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from math import cos, pi, sqrt
from typing import Any

from zdlfast._schedule import Schedule, WithWarmup, nested, shown

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSqrt",
    "Join",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "Step",
    "from_dict",
    "to_dict",
]


@dataclass(frozen=True)
class Constant(WithWarmup):
    """The same rate all the time, after a warm-up if there is one.

    Parameters
    ----------
    lr : float
        The rate.
    warmup : int, default 0
        How many updates a straight line from `start_lr` to `lr` takes. Keyword only.
    start_lr : float, default 0.0
        The rate of the first update, if there is a warm-up. Keyword only.

    Notes
    -----
    optax has it as ``constant_schedule``. (torch's ``ConstantLR`` is something else: a factor
    for some time.)

    Examples
    --------
    >>> schedule = Constant(0.1, warmup=4)
    >>> [schedule(done) for done in range(6)]
    [0.0, 0.025, 0.05, 0.07500000000000001, 0.1, 0.1]
    """

    lr: float
    _: KW_ONLY
    warmup: int = 0
    start_lr: float = 0.0

    def _warm_rate(self, done: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Step(WithWarmup):
    """A rate that is multiplied by `gamma` every `step_size` updates.

    ::

        lr * gamma ** (done // step_size)

    Parameters
    ----------
    lr : float
        The first rate.
    step_size : int
        How many updates have the same rate.
    gamma : float, default 0.1
        The factor, above 0.
    warmup : int, default 0
        How many updates a straight line from `start_lr` to `lr` takes. The steps are counted
        from its end. Keyword only.
    start_lr : float, default 0.0
        The rate of the first update, if there is a warm-up. Keyword only.

    Notes
    -----
    torch has it as ``StepLR``.

    Examples
    --------
    >>> schedule = Step(1.0, step_size=2, gamma=0.5)
    >>> [schedule(done) for done in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    lr: float
    step_size: int
    gamma: float = 0.1
    _: KW_ONLY
    warmup: int = 0
    start_lr: float = 0.0

    def _warm_rate(self, done: int) -> float:
        return float(self.lr * self.gamma ** (done // self.step_size))


@dataclass(frozen=True)
class Exponential(WithWarmup):
    """A rate that is multiplied by `gamma` at every update.

    ::

        lr * gamma**done

    Parameters
    ----------
    lr : float
        The first rate.
    gamma : float
        The factor, above 0.
    warmup : int, default 0
        How many updates a straight line from `start_lr` to `lr` takes. ``done`` is counted
        from its end. Keyword only.
    start_lr : float, default 0.0
        The rate of the first update, if there is a warm-up. Keyword only.

    Notes
    -----
    torch has it as ``ExponentialLR``, optax as ``exponential_decay``.

    Examples
    --------
    >>> schedule = Exponential(1.0, 0.5)
    >>> [schedule(done) for done in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    lr: float
    gamma: float
    _: KW_ONLY
    warmup: int = 0
    start_lr: float = 0.0

    def _warm_rate(self, done: int) -> float:
        return float(self.lr * self.gamma**done)


@dataclass(frozen=True)
class Cosine(WithWarmup):
    """A rate that falls along half a cosine.

    ::

        end_lr + (lr - end_lr) * (1 + cos(pi * done / steps)) / 2

    Parameters
    ----------
    lr : float
        The highest rate.
    steps : int
        After how many updates the end is reached, the warm-up included.
    end_lr : float, default 0.0
        The rate from there on.
    warmup : int, default 0
        How many updates a straight line from `start_lr` to `lr` takes, less than `steps`. The
        cosine has the others. Keyword only.
    start_lr : float, default 0.0
        The rate of the first update, if there is a warm-up. Keyword only.

    Notes
    -----
    optax has it as ``cosine_decay_schedule`` and ``warmup_cosine_decay_schedule``, torch as
    ``CosineAnnealingLR``, which rises again after its end.

    References
    ----------
    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts",
    arXiv:1608.03983.

    Examples
    --------
    >>> schedule = Cosine(1.0, steps=4)
    >>> [round(schedule(done), 3) for done in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    lr: float
    steps: int
    end_lr: float = 0.0
    _: KW_ONLY
    warmup: int = 0
    start_lr: float = 0.0

    def _warm_rate(self, done: int) -> float:
        progress = min(done / (self.steps - self.warmup), 1.0)
        return self.end_lr + (self.lr - self.end_lr) * (1.0 + cos(pi * progress)) / 2.0


@dataclass(frozen=True)
class Polynomial(WithWarmup):
    """A rate that falls as a power: along a straight line, if the power is 1.

    ::

        end_lr + (lr - end_lr) * (1 - done / steps) ** power

    Parameters
    ----------
    lr : float
        The highest rate.
    steps : int
        After how many updates the end is reached, the warm-up included.
    power : float, default 1.0
        Above 0. The rate falls fast first if it is above 1.
    end_lr : float, default 0.0
        The rate from there on.
    warmup : int, default 0
        How many updates a straight line from `start_lr` to `lr` takes, less than `steps`.
        Keyword only.
    start_lr : float, default 0.0
        The rate of the first update, if there is a warm-up. Keyword only.

    Notes
    -----
    optax has it as ``polynomial_schedule``, torch as ``PolynomialLR`` (which ends at 0).

    Examples
    --------
    >>> schedule = Polynomial(1.0, steps=4)
    >>> [schedule(done) for done in range(6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    lr: float
    steps: int
    power: float = 1.0
    end_lr: float = 0.0
    _: KW_ONLY
    warmup: int = 0
    start_lr: float = 0.0

    def _warm_rate(self, done: int) -> float:
        left = max(1.0 - done / (self.steps - self.warmup), 0.0)
        return float(self.end_lr + (self.lr - self.end_lr) * left**self.power)


@dataclass(frozen=True)
class InverseSqrt(WithWarmup):
    """A rate that falls with the root of the number of updates, and never ends.

    ::

        lr * sqrt(timescale / (timescale + done))

    Parameters
    ----------
    lr : float
        The highest rate.
    timescale : int
        After three times as many updates the rate is half as high.
    warmup : int, default 0
        How many updates a straight line from `start_lr` to `lr` takes. ``done`` is counted
        from its end. Keyword only.
    start_lr : float, default 0.0
        The rate of the first update, if there is a warm-up. Keyword only.

    Notes
    -----
    With ``timescale`` equal to ``warmup``, this is the schedule of the first Transformers:
    proportional to ``min(done**-0.5, done * warmup**-1.5)``.

    References
    ----------
    Vaswani et al., "Attention is all you need", arXiv:1706.03762, section 5.3.

    Examples
    --------
    >>> schedule = InverseSqrt(1.0, timescale=100)
    >>> schedule(0), schedule(300), schedule(9900)
    (1.0, 0.5, 0.1)
    """

    lr: float
    timescale: int
    _: KW_ONLY
    warmup: int = 0
    start_lr: float = 0.0

    def _warm_rate(self, done: int) -> float:
        return self.lr * sqrt(self.timescale / (self.timescale + done))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A rate that rises to its highest value and falls far below its first one.

    Both along half a cosine: from ``lr / div_factor`` up to `lr`, and from there down to
    ``lr / div_factor / final_div_factor``. The rise is its warm-up.

    Parameters
    ----------
    lr : float
        The highest rate.
    steps : int
        How many updates there are. The last one has the lowest rate.
    pct_start : float, default 0.3
        The share of the updates in which the rate rises, in (0, 1): more than one update.
        Keyword only.
    div_factor : float, default 25.0
        How much higher the highest rate is than the first one, above 0. Keyword only.
    final_div_factor : float, default 1e4
        How much higher the first rate is than the last one, above 0. Keyword only.

    Notes
    -----
    torch has it as ``OneCycleLR``, which changes the momentum too, unless it is told not to.
    (``cosine_onecycle_schedule`` of optax has its phases one update later.)

    References
    ----------
    Smith, Topin, "Super-convergence: very fast training of neural networks using large
    learning rates", arXiv:1708.07120.

    Examples
    --------
    >>> schedule = OneCycle(1.0, steps=11, pct_start=0.5)
    >>> [round(schedule(done), 3) for done in (0, 4, 5, 10, 11)]
    [0.04, 0.971, 0.98, 0.0, 0.0]
    """

    lr: float
    steps: int
    _: KW_ONLY
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pct_start * self.steps <= 1.0:
            raise ValueError(
                f"pct_start * steps must be > 1, so that there is a rise, got {self.pct_start} * "
                f"{self.steps}"
            )

    def _rate(self, done: int) -> float:
        start_lr = self.lr / self.div_factor
        # As torch has them: numbers of updates, the first one with a fraction.
        top, last = self.pct_start * self.steps - 1.0, self.steps - 1
        if done <= top:
            return _cosine(start_lr, self.lr, done / top)
        progress = min((done - top) / (last - top), 1.0)
        return _cosine(self.lr, start_lr / self.final_div_factor, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) / 2.0 * (1.0 + cos(pi * progress))


@dataclass(frozen=True)
class Join(Schedule):
    """Several schedules, one after the other.

    Parameters
    ----------
    schedules : sequence of Schedule
        Each one counts its updates from 0. A `Join` cannot be among them: give all of its
        schedules.
    boundaries : sequence of int
        After how many updates each but the first one begins, in rising order.

    Notes
    -----
    optax has it as ``join_schedules``, torch as ``SequentialLR``.

    Examples
    --------
    >>> schedule = Join([Constant(1.0), Polynomial(0.5, steps=2)], [3])
    >>> [schedule(done) for done in range(6)]
    [1.0, 1.0, 1.0, 0.5, 0.25, 0.0]
    """

    schedules: Sequence[Schedule]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"boundaries must be one fewer than the {len(self.schedules)} schedules, got "
                f"{len(self.boundaries)}"
            )

    def _rate(self, done: int) -> float:
        place = bisect_right(self.boundaries, done)
        begin = self.boundaries[place - 1] if place > 0 else 0
        return self.schedules[place]._rate(done - begin)


# ---------------------------------------------------------------- as plain values

_CLASSES: dict[str, type[Schedule]] = {
    kind.__name__: kind
    for kind in (Constant, Step, Exponential, Cosine, Polynomial, InverseSqrt, OneCycle, Join)
}


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """A schedule as a dict of strings, numbers and lists, which JSON can hold.

    Parameters
    ----------
    schedule : Schedule
        One of this module.

    Returns
    -------
    dict
        ``schedule``, the name, and every argument.

    Raises
    ------
    TypeError
        It is none of this module: a function of one's own has no name that could be found again.

    Examples
    --------
    >>> to_dict(Exponential(0.1, 0.9))
    {'schedule': 'Exponential', 'lr': 0.1, 'gamma': 0.9, 'warmup': 0, 'start_lr': 0.0}
    """
    name = type(schedule).__name__
    if _CLASSES.get(name) is not type(schedule):
        raise TypeError(f"only schedules of zdlfast.schedules can be saved, got {schedule!r}")
    arguments = {option.name: getattr(schedule, option.name) for option in fields(schedule)}
    if isinstance(schedule, Join):
        arguments["schedules"] = [to_dict(part) for part in schedule.schedules]
        arguments["boundaries"] = list(schedule.boundaries)
    return {"schedule": name, **arguments}


def from_dict(content: Mapping[str, Any]) -> Schedule:
    """The schedule that `to_dict` made a dict of.

    Parameters
    ----------
    content : mapping
        Wherever it comes from: all of it is checked.

    Raises
    ------
    TypeError, ValueError
        It has another name or other arguments than a schedule of this module.

    Examples
    --------
    >>> from_dict(to_dict(Exponential(0.1, 0.9)))
    Exponential(lr=0.1, gamma=0.9, warmup=0, start_lr=0.0)
    """
    arguments, kind = _checked_names(content)
    if kind is Join:
        parts = arguments["schedules"]
        if not isinstance(parts, list | tuple):
            raise TypeError(f"schedules must be a list, got {shown(parts)}")
        # The name is looked at first: so nothing is nested deeper than this.
        if any(isinstance(part, Mapping) and part.get("schedule") == "Join" for part in parts):
            raise nested()
        arguments["schedules"] = [from_dict(part) for part in parts]
    return kind(**arguments)


def _checked_names(content: Any) -> tuple[dict[str, Any], type[Schedule]]:
    if not isinstance(content, Mapping):
        raise TypeError(f"a schedule must be a dict, got {shown(content)}")
    name = content.get("schedule")
    kind = _CLASSES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"the schedule must be one of {list(_CLASSES)}, got {shown(name)}")
    expected = [option.name for option in fields(kind)]
    arguments = {key: value for key, value in content.items() if key != "schedule"}
    if arguments.keys() != set(expected):
        found = shown(list(arguments))
        raise ValueError(f"the arguments of {name} must be {expected}, got {found}")
    return arguments, kind
