"""The base of every optimizer: what ``update(params, grads)`` promises, for every rule alike.

An update has two parts. The first looks at everything and changes nothing; what is wrong is
told there. The second changes parameters, state and the step count, and what it did is rolled
back if it is interrupted or if NumPy raises after all: an update happens whole or not at all.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, SupportsIndex, get_args

import numpy as np
from numpy.typing import NDArray

from zdlfast import _entries, _state
from zdlfast import _validation as validation
from zdlfast._rules import RULES

if TYPE_CHECKING:
    from zdlfast._engine import Locked, Rollback
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

#: What to do about gradients that hold NaN or infinity.
Nonfinite = Literal["propagate", "raise", "skip"]
_NONFINITE: tuple[str, ...] = get_args(Nonfinite)


class Optimizer(Locked):
    """The base of every optimizer: a rule, applied to each parameter.

    Use it to annotate what takes any optimizer. A class with a rule of its own is best written
    beside those of `zdlfast.reference`: it names its options with their bounds in ``_options``,
    the attributes that hold state in ``_slots``, the one that counts steps in ``_counter``; it
    gives the numbers of the coming step in ``_scalars`` and the formula for one parameter in
    ``_rule``.

    Attributes
    ----------
    nonfinite : {"propagate", "raise", "skip"}
        What to do if a gradient holds NaN or infinity: see `update`.
    """

    _options: ClassVar[dict[str, float]] = {}
    _slots: ClassVar[tuple[str, ...]] = ()
    _counter: ClassVar[str | None] = None
    _numbers: ClassVar[tuple[str, ...]] = ()
    nonfinite: Nonfinite = "propagate"

    def __init_subclass__(cls, rule: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if rule is not None:
            row = RULES[rule]
            cls._options, cls._slots = row.options, row.slots
            cls._counter, cls._numbers = row.counter, row.numbers

    def _check_keywords(self, keywords: dict[str, Any]) -> None:
        validation.check_keywords(type(self), keywords)

    def __setattr__(self, name: str, value: Any) -> None:
        # Here and not in properties: this way reading an option costs nothing extra.
        if name in self._options:
            value = validation.option(name, value, self._options[name])
        elif name == self._counter:
            value = validation.whole_number(name, value)
        elif name == "nonfinite":
            if not (isinstance(value, str) and value in _NONFINITE):
                raise ValueError(f"nonfinite must be one of {_NONFINITE}, got {value!r}")
        elif name not in self._slots and name not in self._numbers:
            # A class of one's own has attributes of its own.
            own = type(self).__module__.partition(".")[0] != "zdlfast"
            if not (own or name.startswith("_") or hasattr(type(self), name)):
                validation.refuse_attribute(self, name)
        object.__setattr__(self, name, value)

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

    def _update(self, params: Any, grads: Any) -> bool | None:
        containers, keys, values, gradients, state = validation.looked_up(self, params, grads)
        entries, frozen = [], {}
        for place, (key, value, grad) in enumerate(zip(keys, values, gradients, strict=True)):
            held = tuple(slot[place] for slot in state)
            if grad is not None:
                entries.append(
                    _entries.make_entry(place, key, value, grad, held, self._slots, params)
                )
            elif isinstance(params, list):
                # Its state keeps the place of those behind it.
                frozen[place] = [_entries.zeros_like(value) if h is None else h for h in held]
        if self._refuses((entry.key, entry.grad) for entry in entries):
            return False
        with Rollback() as rollback:
            copies = self.nonfinite != "propagate" or _entries.may_raise(entries)
            _entries.run(self._rule, self._scalars(), entries, params, rollback, copies)
            rollback.finish(self._store, containers, params, entries, frozen)
        return None

    def _store(
        self, containers: list[Any], params: Any, entries: list[_entries.Entry], frozen: Any
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
        if self._counter is not None:
            stored.append((self._counter, getattr(self, self._counter) + 1))
        stored.extend(zip(self._numbers, self._next_numbers(), strict=True))
        for name, value in stored:
            object.__setattr__(self, name, value)

    def _refuses(self, gradients: Any) -> bool:
        """Whether the update is to be skipped because of a gradient that is not finite."""
        if self.nonfinite != "propagate":
            for key, grad in gradients:
                if not validation.is_finite(grad):
                    if self.nonfinite == "skip":
                        return True
                    raise FloatingPointError(
                        f"grads[{key!r}] holds NaN or infinity, expected finite numbers"
                    )
        return False

    def _scalars(self) -> tuple[float, ...]:
        """The numbers that the rule takes in the coming step: Python floats."""
        raise NotImplementedError

    def _next_numbers(self) -> tuple[float, ...]:
        """What the numbers among the state are after the coming step."""
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

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # The oldest protocols know no classes like this one.
        return super().__reduce_ex__(max(int(protocol), 2))

    def __getstate__(self) -> Any:
        # For pickle and copy, which go on when the lock is released: of an optimizer that another
        # thread is changing, what they make would be torn.
        return self._locked(False, _state.snapshot, self, super().__getstate__)

    def __setstate__(self, state: Any) -> None:
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        # The book's own classes have no eps and no nonfinite; pickles of them come here by the
        # drop-in.
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            known = name in self._options or name == "nonfinite"
            if known and parameter.default is not parameter.empty:
                setattr(self, name, parameter.default)
        for name, value in (attributes or {}).items():
            if name in self._options:
                setattr(self, name, value)
            else:
                vars(self)[name] = value
        for name, value in (slots or {}).items():
            object.__setattr__(self, name, value)
        self._was_loaded()

    def __repr__(self) -> str:
        options = [f"{name}={getattr(self, name)!r}" for name in self._options]
        if self.nonfinite != "propagate":
            options.append(f"nonfinite={self.nonfinite!r}")
        return f"{type(self).__name__}({', '.join(options)})"
