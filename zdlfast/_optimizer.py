"""The base of every optimizer: what ``update(params, grads)`` promises, for every rule alike.

An update has two parts. The first looks at everything and changes nothing; what is wrong is
told there. The second changes parameters, state and the step count, and what it did is rolled
back if it is interrupted or if NumPy raises after all: an update happens whole or not at all.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, SupportsIndex, Unpack

import numpy as np
from numpy.typing import NDArray

from zdlfast import _entries, _gradients, _state
from zdlfast import _validation as validation
from zdlfast._groups import Step
from zdlfast._options import CHECKS, OPTIONS, Nonfinite, Options, Rounding, StateFormat
from zdlfast._overrides import Overrides
from zdlfast._rules import RULES, UNBOUNDED

if TYPE_CHECKING:
    from zdlfast._engine import Locked as Locked
    from zdlfast._engine import Rollback as Rollback
else:
    try:
        from zdlfast._engine import Locked, Rollback
    # As in __init__.py. Without the compiled extension plain NumPy works all the same.
    except (ImportError, ValueError, AttributeError):
        from zdlfast._plain import Locked, Rollback

#: The state of all parameters: None before the first update, then a container like params.
State = dict[Any, Any] | list[Any] | None
#: What is updated: an array in place, a number by a new one in the container.
Parameter = NDArray[Any] | float | np.floating[Any]
#: None: this parameter is left alone.
Gradient = NDArray[Any] | float | np.number[Any] | None
Params = Mapping[Any, Parameter] | list[NDArray[Any]] | list[float] | list[Parameter]
Grads = Mapping[Any, Gradient] | Sequence[Gradient]


@dataclass(frozen=True, slots=True)
class LastUpdate:
    """What an update did.

    Attributes
    ----------
    applied : bool
        False if it was skipped, because of a gradient that is not finite.
    lr : float
        The learning rate that was used, where `overrides` has no other one.
    norm : float or None
        The norm of all gradients, as they were given; None without ``clip_norm``.
    clip_rate : float
        What they were multiplied by: 1.0 if they were not clipped.
    nonfinite : key or None
        The first key whose gradient holds NaN or infinity; None if there is none, or if neither
        ``clip_norm`` nor ``nonfinite`` asked for it.
    """

    applied: bool
    lr: float
    norm: float | None = None
    clip_rate: float = 1.0
    nonfinite: Any = None


class Optimizer(Locked):
    """The base of every optimizer: a rule, applied to each parameter, and the options of all.

    Use it to annotate what takes any optimizer. A class with a rule of its own is best written
    beside those of `zdlfast.reference`: it names its options with their bounds in ``_options``,
    the attributes that hold state in ``_slots``, the one that counts steps in ``_counter``; it
    gives the numbers of the coming step in ``_scalars`` and the formula for one parameter in
    ``_rule``.

    Parameters
    ----------
    weight_decay : float, default 0.0
        Adds ``weight_decay * p`` to the gradient, as the derivative of
        ``weight_decay / 2 * sum(p**2)`` in the loss does (L2, coupled).
    decoupled : bool, default False
        Whether weight decay multiplies the parameter by ``1 - lr * weight_decay`` before the step
        instead, out of the gradient's sight.
    maximize : bool, default False
        Whether to go up the gradient.
    clip_norm : float or None, default None
        What the norm of all gradients together must not exceed: else each is multiplied by
        ``clip_norm / (norm + 1e-6)``. What is frozen does not count.
    clip_value : float or None, default None
        What no element of a gradient must exceed, after `clip_norm`, in either direction.
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.
    flush_subnormals : bool, default False
        Whether state below the smallest normal number becomes zero. Where gradients are zero for
        long, such as those of a dead ReLU, state decays towards zero, and arithmetic with
        subnormal numbers takes many times as long on most CPUs.
    state : {"8bit", "bfloat16"} or None, default None
        How state is kept: in 8 bits an element and one scale for 32, in 16 bits, or in the dtype
        of its parameter. It may be changed at any time: the next update encodes what there is.
        That of arrays of float32, float64 and bfloat16 is encoded, an `EncodedState` each, and
        nothing else. Both formats have the range of float32.
    state_min_size : int, default 4096
        The least number of elements of a parameter whose state is encoded.
    state_rounding : {"nearest", "stochastic"}
        How state in 8 bits is rounded, and parameters of bfloat16. State in bfloat16 is always
        rounded by chance: to the nearest, running means would stand still that change by less than
        half of the last bit.
    state_seed : int, default 0
        What chance begins with. It depends on this, the step, the slot and the element's place,
        and on nothing else: the same training has the same bits.
    overrides : mapping or None, default None
        Options of some parameters: ``{"b*": {"weight_decay": 0.0}, "embed*": {"frozen": True}}``.
        A key is a name, a pattern of names as of files, an index, a range of indices, or any
        other key of the parameters; of two that match, the later one wins. A value is a
        mapping of the rule's own options, and of ``weight_decay``, ``decoupled``, ``maximize``,
        ``clip_value``, ``flush_subnormals``, ``state``, ``state_min_size``, ``state_rounding`` and
        ``frozen``, which leaves a parameter and its state alone.

    Attributes
    ----------
    last : LastUpdate or None
        What the last update did; None before the first one.
    updates : int
        The number of updates done, which a schedule of ``lr`` is asked with.
    state_nbytes : int
        The bytes that all state takes.
    """

    _options: ClassVar[dict[str, float]] = {}
    _common_options: ClassVar[tuple[str, ...]] = OPTIONS
    _slots: tuple[str, ...] = ()
    _counter: ClassVar[str | None] = None
    _numbers: ClassVar[dict[str, tuple[str, ...]]] = {}
    _own_decay: ClassVar[bool] = False
    _flags: ClassVar[dict[str, tuple[str, ...]]] = {}
    _positive: ClassVar[tuple[str, ...]] = ()
    _exact: ClassVar[tuple[str, ...]] = ()

    lr: Any  # a Rate

    # What a rule does not set otherwise. All are live, as every attribute here.
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False
    clip_norm: float | None = None
    clip_value: float | None = None
    nonfinite: Nonfinite = "propagate"
    flush_subnormals: bool = False
    state: StateFormat | None = None
    state_min_size: int = 4096
    state_rounding: Rounding = "nearest"
    state_seed: int = 0
    overrides: Overrides | None = None

    # Whether it averages what an update takes, which is no gradient then: None is no value, and
    # nothing is broadcast.
    _averages: ClassVar[bool] = False
    _last_update = LastUpdate

    def __init__(self, **options: Unpack[Options]) -> None:
        for name in options:
            if name not in OPTIONS:
                validation.refuse_keyword(type(self), name)
        for name, value in options.items():
            setattr(self, name, value)

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if rule is not None:
            row = RULES[rule]
            cls._options, cls._slots = row.options, row.slots
            cls._counter, cls._numbers = row.counter, row.numbers
            cls._own_decay, cls._flags = row.own_decay, row.flags
            cls._positive, cls._exact = row.positive, row.exact

    def _check_arguments(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        validation.check_arguments(type(self), values, keywords)

    def __setattr__(self, name: str, value: Any) -> None:
        # Here and not in properties: this way reading an option costs nothing extra.
        if name in self._options:
            value = validation.own_option(name, name, value, self._options[name])
        elif name in self._flags:
            self._set_flag(name, validation.flag(name, value))
            return
        elif name == self._counter:
            value = validation.whole_number(name, value)
        elif name in CHECKS:
            value = CHECKS[name](name, value)
        elif name == "overrides":
            value = None if value is None else Overrides(value, type(self))
        elif name not in self._slots and name not in self._numbers:
            # A class of one's own has attributes of its own.
            own = type(self).__module__.partition(".")[0] != "zdlfast"
            if not (own or name.startswith("_") or hasattr(type(self), name)):
                validation.refuse_attribute(self, name)
        object.__setattr__(self, name, value)
        if name in OPTIONS:
            self._options_changed()

    def _set_flag(self, name: str, value: bool) -> None:
        self._check_flag(name, value)
        added = self._flags[name]
        if added:
            attributes = vars(self)
            kept = tuple(slot for slot in self._slots if slot not in added)
            attributes["_slots"] = kept + added if value else kept
            for slot in added:
                if value:
                    attributes.setdefault(slot, None)
                else:
                    attributes.pop(slot, None)
        object.__setattr__(self, name, value)
        self._flag_changed()

    def _check_flag(self, name: str, value: bool) -> None:
        """Raise if there is state already, which would have other slots with this value."""
        has_state = any(vars(self).get(slot) is not None for slot in self._slots)
        if has_state and self._flags[name] and value != getattr(self, name):
            raise ValueError(
                f"{name} cannot become {value}: there is state, which was made with {not value}"
            )

    if not TYPE_CHECKING:  # for a type checker every attribute would be there

        def __getattr__(self, name: str) -> NoReturn:
            validation.refuse_attribute(self, name)

    def update(self, params: Params, grads: Grads) -> bool | None:
        """Take one step: change every parameter by its gradient.

        Parameters
        ----------
        params : mapping or list
            Parameters by name (book 1) or by position (book 2). Arrays are changed in
            place, whatever their memory layout; numbers are replaced in the container.
        grads : mapping or sequence
            A gradient for every key of `params`, of a shape that broadcasts to the
            parameter's. None leaves the parameter and its state as they are. Further
            gradients are ignored.

        Returns
        -------
        False or None
            False if the update was skipped because of a gradient with NaN or infinity, which
            ``nonfinite="skip"`` asks for: nothing has changed then, the step count included.

        Raises
        ------
        KeyError, IndexError
            A parameter has no gradient.
        ValueError
            A shape does not fit the parameter's, or an array is read-only.
        TypeError
            A container, parameter or gradient is of no usable type, or the parameter's
            dtype cannot hold the result.
        FloatingPointError
            A gradient holds NaN or infinity, and ``nonfinite="raise"`` was given. By default
            they go where NumPy lets them go.
        RuntimeError
            This thread is in the middle of a use of this optimizer; or another one was when the
            process was forked, so that half of an update is missing here.

        Notes
        -----
        An update that raises has changed nothing: no parameter, no state, no step count.
        (Plain NumPy alone, `zdlfast.reference`, does not take back what was done when it is
        interrupted or runs out of memory between two operations.)
        A parameter that is met for the first time starts with state of zeros.
        A gradient is taken as it is given: nothing is averaged over a batch.
        While another thread uses this optimizer, an update waits.
        """
        return self._locked(True, self._update, params, grads)

    def _update(
        self,
        params: Any,
        grads: Any,
        agree: Callable[[], object] | None = None,
        reading: _gradients.Reading | None = None,
    ) -> bool | None:
        """Do an update, under the lock.

        Parameters
        ----------
        agree : callable, optional
            Is called when all is known to go well, for others to say the same: what it raises
            ends the update before anything has changed.
        reading : Reading, optional
            What was found in all gradients, if these are only a part of them.
        """
        self._check_ready()
        containers, keys, values, gradients, state = validation.looked_up(self, params, grads)
        step = Step(self, keys)
        entries, frozen = [], {}
        for place, (key, value, grad) in enumerate(zip(keys, values, gradients, strict=True)):
            held, group = tuple(slot[place] for slot in state), step.group(key)
            if grad is not None and not group.frozen:
                entries.append(
                    _entries.make_entry(place, key, value, grad, held, group, self._slots, params)
                )
            elif isinstance(params, list):
                # Its state keeps the place of those behind it.
                frozen[place] = [_entries.frozen_state(value) if h is None else h for h in held]
        if reading is None:
            reading = _gradients.read(self, ((entry.key, entry.grad) for entry in entries))
        if self._refuses(reading, step.lr):
            if agree is not None:
                agree()
            return False
        rate = _gradients.clip_rate(self, reading.norm)
        step.scale(rate)
        done = LastUpdate(True, step.lr, reading.norm, rate, *reading.nonfinite)
        with Rollback() as rollback:
            watched = agree is not None or self.nonfinite != "propagate"
            copies = watched or _entries.may_raise(entries)
            _entries.run(self._rule, entries, params, rollback, copies)
            rollback.finish(self._store, containers, params, entries, frozen, done, agree)
        return None

    def _store(
        self,
        containers: list[Any],
        params: Any,
        entries: list[_entries.Entry],
        frozen: Any,
        done: LastUpdate,
        agree: Callable[[], object] | None,
    ) -> None:
        """Store the state that is new, and count the step."""
        stored = []
        for i, container in enumerate(containers):
            new = {entry.key: entry.state[i] for entry in entries
                   if entry.state[i] is not entry.held[i]}  # fmt: skip
            new.update((place, state[i]) for place, state in frozen.items())
            if container is None:
                container = [] if isinstance(params, list) else {}
            elif new:
                container = copy.copy(container)
            if isinstance(container, list):
                for place in sorted(new):
                    container[place : place + 1] = [new[place]]
            else:
                container.update(new)
            stored.append((self._slots[i], container))
        stored += zip(self._numbers, self._next_numbers(), strict=True)
        stored += [("updates", self.updates + 1), ("_last", done)]
        before = [(name, getattr(self, name)) for name, _ in stored]
        try:
            for name, value in stored:
                object.__setattr__(self, name, value)
            if agree is not None:
                agree()
        except BaseException:  # of a property in a class of the user's own, or of another rank
            for name, value in before:
                with contextlib.suppress(Exception):
                    object.__setattr__(self, name, value)
            raise

    def _refuses(self, reading: _gradients.Reading, lr: float) -> bool:
        """Whether the update is to be skipped because of a gradient that is not finite."""
        if not reading.nonfinite or self.nonfinite == "propagate":
            return False
        (key,) = reading.nonfinite
        if self.nonfinite == "raise":
            raise FloatingPointError(
                f"grads[{key!r}] holds NaN or infinity, expected finite numbers"
            )
        self._last = LastUpdate(False, lr, reading.norm, 1.0, key)
        return True

    def _lr_now(self, lr: Any = None) -> Any:
        """The learning rate of the coming step: this one, or the optimizer's."""
        lr = getattr(self, "lr", None) if lr is None else lr
        if not callable(lr):
            return lr
        done = self.updates
        return validation.option(f"lr({done})", lr(done), UNBOUNDED)

    @property
    def last(self) -> LastUpdate | None:
        last: LastUpdate | None = self._last
        return last

    @property
    def updates(self) -> int:
        return self._updates if self._counter is None else getattr(self, self._counter)

    @updates.setter
    def updates(self, number: int) -> None:
        name = self._counter or "_updates"
        object.__setattr__(self, name, validation.whole_number("updates", number))

    @property
    def state_nbytes(self) -> int:
        return self._locked(False, _state.nbytes, self)

    def _scalars(self) -> tuple[float, ...]:
        """The numbers that the rule takes in the coming step: Python floats."""
        raise NotImplementedError

    def _next_numbers(self) -> tuple[float, ...]:
        """The further state after the coming step, in the order of ``_numbers``."""
        return ()

    @staticmethod
    def _rule(p: Any, g: Any, *state_and_scalars: Any) -> tuple[Any, ...]:
        """The new parameter and the new state: in place for arrays, new for numbers."""
        raise NotImplementedError

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Everything that training needs to go on: plain arrays, numbers and strings.

        Parameters
        ----------
        copy : bool
            Whether arrays are copies; else they are those of the optimizer, which the next
            update changes.

        Returns
        -------
        dict
            ``format``, a number; ``class``, the name; ``options`` by name; the step count by its
            name, if there is one; ``state``, arrays by slot and by key, or None before the first
            update.
        """
        return self._locked(False, _state.collect, self, copy)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            All of it is checked before anything is changed. Arrays are copied.

        Raises
        ------
        TypeError, ValueError
            It is of another class or a newer format; keys are missing or too many; an option or
            an array is not as it has to be, or does not fit the state that this optimizer has.
        """
        self._locked(True, _state.restore, self, state)

    def _was_loaded(self) -> None:
        """State has come from elsewhere."""

    def _flag_changed(self) -> None:
        """One of `_flags` was set."""

    def _check_ready(self) -> None:
        """Raise if the optimizer is not in a state in which it can be updated."""

    def _options_changed(self) -> None:
        """One that every rule takes was set."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # The oldest protocols know no classes like this one.
        return super().__reduce_ex__(max(int(protocol), 2))

    def __getstate__(self) -> Any:
        # For pickle and copy, which go on when the lock is released: of an optimizer that another
        # thread is changing, what they make would be torn.
        return self._locked(False, _state.snapshot, self, super().__getstate__)

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        # The book's own classes have no eps; pickles of them come here by the drop-in.
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if name in self._options and parameter.default is not parameter.empty:
                setattr(self, name, parameter.default)
        attributes = attributes or {}
        # What says which slots there are comes before them.
        flags = {name: attributes[name] for name in self._flags if name in attributes}
        for name, value in (flags | attributes).items():
            if name in self._options or name in OPTIONS or name in self._flags:
                setattr(self, name, value)
            else:
                vars(self)[name] = value
        for name, value in (slots or {}).items():
            object.__setattr__(self, name, value)
        self._was_loaded()

    def __repr__(self) -> str:
        options = [f"{name}={getattr(self, name)!r}" for name in self._options]
        for name in (*self._flags, *OPTIONS):
            value = getattr(self, name)
            if value != getattr(type(self), name):
                options.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(options)})"
