"""What ``update(params, grads)`` promises, for every rule alike.

An update has two parts: `Optimizer._update` looks at everything and changes nothing, then
`Optimizer._step` changes parameters, state and the step count. What can be checked is checked
in the first part, and what the second one did is taken back if it is interrupted or if NumPy
raises after all: an update happens whole or not at all.
"""

import copy
import math
import numbers
import warnings
from _operator import setitem
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from zdlfast import _state
from zdlfast._engine import attempt, extent, in_turn

#: The state of all parameters: None before the first update, then a container like params.
State = dict[Any, Any] | list[Any] | None
#: What is updated: an array in place, a number by a new one in the container.
Parameter = NDArray[Any] | float | np.floating[Any]
Gradient = NDArray[Any] | float | np.number[Any]
Params = Mapping[Any, Parameter] | list[NDArray[Any]] | list[float] | list[Parameter]
Grads = Mapping[Any, Gradient] | Sequence[Gradient]

#: A function of C and its arguments, for `attempt`.
Call = tuple[Any, ...]

#: What to do about gradients that hold NaN or infinity.
Nonfinite = Literal["propagate", "raise", "skip"]
_NONFINITE: tuple[str, ...] = get_args(Nonfinite)

# A line of the cache, and the size of an array from which on its place in one counts: bytes.
_LINE = 64
_ALIGN_FROM = 4096

# What an option has to stay below; none may be negative.
UNBOUNDED = math.inf
FRACTION = 1.0


@dataclass(slots=True)
class Entry:
    """One parameter of one update, with all that its rule reads and writes."""

    key: Any
    value: Any  # as it lies in params
    param: Any  # as the rule takes it: an array that is changed in place, or a number
    grad: Any
    state: tuple[Any, ...]
    plain: bool  # whether these are arrays of one float dtype and one shape

    @property
    def replaces(self) -> bool:
        """Whether the result has to be stored in params, because it is no array there."""
        return not isinstance(self.value, np.ndarray)

    @property
    def is_numeric(self) -> bool:
        """Whether all operands are exact arrays of numbers."""
        return all(
            type(value) is np.ndarray and value.dtype != object
            for value in (self.value, self.param, self.grad, *self.state)
        )

    @property
    def arrays(self) -> list[np.ndarray]:
        values = (self.param, self.grad, *self.state)
        return [value for value in values if isinstance(value, np.ndarray)]


class Optimizer:
    """The base of every optimizer: a rule, applied to each parameter.

    A subclass names the attributes that hold state in ``_slots``, the one that counts steps
    in ``_counter`` and its options with their bounds in ``_options``. It gives the numbers of
    the coming step in ``_scalars`` and the formula for one parameter in ``_rule``.
    """

    _slots: ClassVar[tuple[str, ...]] = ()
    _counter: ClassVar[str | None] = None
    _always_copies: ClassVar[bool] = False
    _widens: ClassVar[bool] = False  # whether a gradient of a wider dtype widens the state
    _options: ClassVar[dict[str, float]] = {}
    nonfinite: Nonfinite = "propagate"

    def __setattr__(self, name: str, value: Any) -> None:
        # Here and not in properties: this way reading an option costs nothing extra.
        if name in self._options:
            value = _option(name, value, self._options[name])
        elif name == self._counter:
            value = _count(name, value)
        elif name == "nonfinite" and not (isinstance(value, str) and value in _NONFINITE):
            raise ValueError(f"nonfinite must be one of {_NONFINITE}, got {value!r}")
        object.__setattr__(self, name, value)

    def update(self, params: Params, grads: Grads) -> bool | None:
        """Take one step: change every parameter by its gradient.

        Parameters
        ----------
        params : mapping or list
            Parameters by name (book 1) or by position (book 2). Arrays are changed in
            place, whatever their memory layout; numbers are replaced in the container.
        grads : mapping or sequence
            A gradient for every key of `params`, of a shape that broadcasts to the
            parameter's. Further gradients are ignored.

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
        While another thread uses this optimizer, an update waits.
        """
        return in_turn(self, True, self._update, params, grads)

    def _update(self, params: Any, grads: Any) -> bool | None:
        containers = self._containers(params)
        keys, values, gradients = _fetched(params, grads)
        if self._update_usual(keys, values, gradients, containers):
            return None
        entries = [
            self._entry(key, value, gradient, params, containers)
            for key, value, gradient in zip(keys, values, gradients, strict=True)
        ]
        if self.nonfinite != "propagate":
            for entry in entries:
                if not _is_finite(entry.grad):
                    if self.nonfinite == "skip":
                        return False
                    raise FloatingPointError(
                        f"grads[{entry.key!r}] holds NaN or infinity, expected finite numbers"
                    )
        undo: list[Call] = []
        attempt(lambda: self._step(params, entries, containers, undo), undo)
        return None

    def _update_usual(
        self, keys: Sequence[Any], values: list[Any], grads: list[Any], containers: list[Any]
    ) -> bool:
        """Do the whole update if nothing in it needs to be looked at."""
        return False

    def _scalars(self) -> tuple[float, ...]:
        """The numbers that the rule takes in the coming step: Python floats."""
        raise NotImplementedError

    @staticmethod
    def _rule(p: Any, g: Any, *state_and_scalars: Any) -> tuple[Any, ...]:
        """The new parameter and the new state: in place for arrays, new for numbers."""
        raise NotImplementedError

    def _containers(self, params: Any) -> list[Any]:
        """The containers of state, of a kind with that of the parameters."""
        is_mapping = hasattr(params, "keys")
        if not is_mapping and not isinstance(params, list):
            raise TypeError(f"params must be a mapping or a list, got {type(params).__name__}")
        containers = [getattr(self, name) for name in self._slots]
        for name, container in zip(self._slots, containers, strict=True):
            if not isinstance(container, dict | list | None):
                raise TypeError(
                    f"the state {name} must be a dict, a list or None, got "
                    f"{type(container).__name__}"
                )
        if any(container is None for container in containers):
            containers = [{} if is_mapping else [] for _ in containers]
        for name, container in zip(self._slots, containers, strict=True):
            if isinstance(container, list) == is_mapping:
                raise TypeError(
                    f"params is a {type(params).__name__}, but the state {name} is a "
                    f"{type(container).__name__}: use one optimizer for each kind of container"
                )
        return containers

    def _entry(self, key: Any, value: Any, grad: Any, params: Any, containers: list[Any]) -> Entry:
        """Check one parameter and what belongs to it."""
        param = value
        plain = _is_plain(value) and _is_like(grad, value)
        if not plain:
            param, grad = _checked(key, value, grad)
            if not isinstance(value, np.ndarray) and not hasattr(params, "__setitem__"):
                raise TypeError(
                    f"params[{key!r}] is no array, so its new value has to be stored, but a "
                    f"{type(params).__name__} takes no new values"
                )
        state = []
        for slot, container in zip(self._slots, containers, strict=True):
            if not _has(container, key):
                held = zeros_like(param)
            else:
                held = container[key]
                if not (plain and _is_like(held, value) and held.flags.writeable):
                    _check_state(f"{slot}[{key!r}]", held, param, grad, self._widens)
                    plain = False
            state.append(held)
        return Entry(key, value, param, grad, tuple(state), plain)

    def _split(self, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """The entries that NumPy has to update, in order, and those that kernels can."""
        return entries, []

    def _finish(self, entries: list[Entry]) -> Call | None:
        """The call that updates the entries that kernels can, and counts the step."""
        if self._counter is None:
            return None
        return object.__setattr__, self, self._counter, getattr(self, self._counter) + 1

    def _step(
        self, params: Any, entries: list[Entry], containers: list[Any], undo: list[Call]
    ) -> Call | None:
        """Do all of an update but the call that it returns; how to undo it goes to `undo`."""
        scalars = self._scalars()
        by_numpy, by_kernel = self._split(entries)
        if self._always_copies or _may_raise(by_numpy):
            undo.extend((setitem, array, ..., before) for array, before in _copies(by_numpy))
        for entry in by_numpy:
            if type(entry.param) is np.ndarray and entry.param.ndim == 0:
                self._step_0d(entry, scalars)
                continue
            result, *state = self._rule(entry.param, entry.grad, *entry.state, *scalars)
            entry.state = tuple(state)
            if not entry.plain and (entry.replaces or result is not entry.param):
                undo.append((setitem, params, entry.key, entry.value))
                params[entry.key] = result
        for i, (slot, container) in enumerate(zip(self._slots, containers, strict=True)):
            undo.append((object.__setattr__, self, slot, getattr(self, slot)))
            setattr(self, slot, _stored(container, [(e.key, e.state[i]) for e in entries]))
        return self._finish(by_kernel)

    def _step_0d(self, entry: Entry, scalars: tuple[float, ...]) -> None:
        """Apply the rule to a 0-d array, through views of one element.

        NumPy 1 promotes 0-d arrays as numbers, and both NumPys make numbers of their results.
        """
        operands = [
            value.reshape(1) if isinstance(value, np.ndarray) else value
            for value in (entry.param, entry.grad, *entry.state)
        ]
        _, *state = self._rule(*operands, *scalars)
        entry.state = tuple(
            held if new is operand else np.reshape(new, ())
            for new, operand, held in zip(state, operands[2:], entry.state, strict=True)
        )

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
        return in_turn(self, False, _state.collect, self, copy)

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
        in_turn(self, True, _state.restore, self, state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # As without this method, but in turn: of an optimizer that another thread is changing, a
        # copy would be torn.
        return in_turn(self, False, _deep_copy, self, memo)

    def __repr__(self) -> str:
        options = [f"{name}={getattr(self, name)!r}" for name in self._options]
        if self.nonfinite != "propagate":
            options.append(f"nonfinite={self.nonfinite!r}")
        return f"{type(self).__name__}({', '.join(options)})"


def _deep_copy(optimizer: Optimizer, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` does for objects without a method of their own."""
    reduced = optimizer.__reduce_ex__(4)
    if isinstance(reduced, str):
        return optimizer
    return copy._reconstruct(optimizer, memo, *reduced)  # type: ignore[attr-defined]


def _option(name: str, value: Any, below: float) -> float:
    """`value` as a Python float, if it is a number in ``[0, below)``."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    # A flag is an int to Python; as a rate it is a mistake.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got a number too large for a float") from None
    if not 0.0 <= number < below:
        expected = "in [0, 1)" if below == FRACTION else ">= 0 and finite"
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return int(value)


def _fetched(params: Any, grads: Any) -> tuple[Sequence[Any], list[Any], list[Any]]:
    """Keys, parameters and gradients, each taken out of its container once."""
    if not hasattr(grads, "__getitem__"):
        raise TypeError(f"grads must be a mapping or a list, got {type(grads).__name__}")
    keys = range(len(params)) if isinstance(params, list) else list(params.keys())
    values, gradients = [], []
    for key in keys:
        values.append(params[key])
        try:
            gradients.append(grads[key])
        except LookupError as error:
            kind = IndexError if isinstance(error, IndexError) else KeyError
            raise kind(f"params[{key!r}] has no gradient: grads[{key!r}] is missing") from None
        except TypeError as error:
            raise TypeError(f"grads[{key!r}] cannot be looked up: {error}") from None
    return keys, values, gradients


def _has(container: Any, key: Any) -> bool:
    return key < len(container) if isinstance(container, list) else key in container


def _stored(container: Any, pairs: list[tuple[Any, Any]]) -> Any:
    """A container of state with these arrays: another one if it has not got them already."""
    if all(_has(container, key) and container[key] is array for key, array in pairs):
        return container
    container = copy.copy(container)
    if isinstance(container, list):
        container[: len(pairs)] = [array for _, array in pairs]
    else:
        container.update(pairs)
    return container


def _is_finite(grad: Any) -> bool:
    """Whether a gradient holds neither NaN nor infinity; objects are taken to be finite."""
    if isinstance(grad, int) or (isinstance(grad, np.ndarray) and grad.dtype.hasobject):
        return True
    finite = np.isfinite(grad)
    # What is masked is not there.
    return bool(np.all(np.ma.filled(finite, True)))


def _is_plain(param: Any) -> bool:
    """Whether a parameter is an array with nothing special about it."""
    return type(param) is np.ndarray and param.dtype.kind == "f" and param.flags.writeable


def _is_like(array: Any, param: np.ndarray) -> bool:
    return type(array) is np.ndarray and array.dtype is param.dtype and array.shape == param.shape


def _checked(key: Any, value: Any, grad: Any) -> tuple[Any, Any]:
    """A parameter and its gradient, both as a rule takes them."""
    if isinstance(value, float | int) and isinstance(grad, float | int):
        return value, grad
    name, grad_name = f"params[{key!r}]", f"grads[{key!r}]"
    if isinstance(value, list):
        try:
            value = np.array(value)
            value = value.astype(np.result_type(value, 0.0), copy=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} is a list that is no array of numbers: {error}") from None
    param, grad = _usable(name, value), _usable(grad_name, grad)
    shape, grad_shape = np.shape(param), np.shape(grad)
    try:
        fits = np.broadcast_shapes(shape, grad_shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{grad_name} has shape {grad_shape}, which does not fit {name} of shape {shape}"
        )
    _check_target(name, param, grad)
    return param, grad


def _usable(name: str, value: Any) -> Any:
    """`value` as a rule takes it: a number, or an array of numbers or objects."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufcO":
            raise TypeError(f"{name} must hold numbers, got an array of dtype {value.dtype}")
        # A memmap is an array in everything but its type, which would make it slow.
        return value.view(np.ndarray) if type(value) is np.memmap else value
    if not isinstance(value, np.generic | complex | float | int):
        raise TypeError(f"{name} must be an array or a number, got {type(value).__name__}")
    if np.result_type(value).kind not in "biufc":
        raise TypeError(f"{name} must be an array or a number, got {value!r}")
    return value


def _check_state(name: str, held: Any, param: Any, grad: Any, widens: bool) -> None:
    held = _usable(f"the state {name}", held)
    if np.shape(held) != np.shape(param):
        raise ValueError(
            f"the state {name} has shape {np.shape(held)}, but its parameter has shape "
            f"{np.shape(param)}"
        )
    # Another dtype is that of another training: to go on would lose digits without a word.
    # (A NumPy scalar is replaced, and may become one of a wider dtype.)
    if not isinstance(param, np.generic):
        fresh = param.dtype if isinstance(param, np.ndarray) else np.result_type(param, 0.0)
        dtype, expected = np.asarray(held).dtype.newbyteorder("="), fresh.newbyteorder("=")
        wider = dtype.kind == expected.kind and np.can_cast(expected, dtype)
        if dtype != expected and not (widens and wider):
            raise TypeError(
                f"the state {name} has dtype {dtype}, but its parameter has {expected}"
            )
    _check_target(name, held, grad)
    _check_target(f"the parameter of the state {name}", param, held)


def _check_target(name: str, target: Any, operand: Any) -> None:
    """Whether a result that `operand` goes into may be written to the array `target`."""
    if not isinstance(target, np.ndarray):
        return
    if not target.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array that can be updated in place")
    if target.dtype.kind == "f" and isinstance(operand, float | int):
        return
    dtype = operand.dtype if isinstance(operand, np.ndarray) else np.result_type(operand)
    if target.dtype.kind == dtype.kind == "f":
        return
    if not np.can_cast(np.result_type(target.dtype, dtype, 0.0), target.dtype, "same_kind"):
        raise TypeError(
            f"{name} has dtype {target.dtype}, which cannot hold an update by values of dtype "
            f"{dtype}"
        )


def zeros_like(param: Any) -> np.ndarray:
    """Fresh state: zeros in the memory layout of a parameter."""
    if not isinstance(param, np.ndarray):
        return np.zeros((), np.result_type(param, 0.0))
    # In the machine's own byte order, as every result of NumPy is.
    dtype = param.dtype if param.dtype.isnative else param.dtype.newbyteorder("=")
    zeros = np.zeros_like(param, dtype)
    if type(zeros) is not np.ndarray or dtype.hasobject or zeros.nbytes < _ALIGN_FROM:
        return zeros
    # Where wide accesses to the parameter stay within a line, those to its state do too.
    past = (extent(param)[0] - extent(zeros)[0]) % _LINE
    if past and past % dtype.itemsize == 0:
        memory = np.zeros(zeros.nbytes + _LINE, np.uint8)
        past = (extent(param)[0] - extent(memory)[0]) % _LINE
        zeros = np.ndarray(zeros.shape, dtype, memory, past, zeros.strides)
        zeros.flags.writeable = True  # which NumPy makes it not if memory is short
    return zeros


def _may_raise(entries: list[Entry]) -> bool:
    """Whether an update may fail although all that can be checked was checked.

    Arrays of one float dtype fail only where floating-point errors raise. Python's numbers
    overflow with an error, objects and subclasses of arrays can do anything, and so can a
    container that new values are stored in.
    """
    return (
        not {"raise", "call", "log"}.isdisjoint(np.geterr().values())
        or any(action == "error" for action, *_ in warnings.filters)
        or not all(entry.plain or entry.is_numeric for entry in entries)
    )


def _copies(entries: list[Entry]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each array that the entries change, with a copy of it."""
    return [
        (array, array.copy())
        for entry in entries
        for array in (entry.param, *entry.state)
        if isinstance(array, np.ndarray)
    ]
