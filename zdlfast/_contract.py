"""What ``update(params, grads)`` promises, for every rule alike.

An update has four parts: `Optimizer._plan` looks at everything and changes nothing,
`Optimizer._run` changes parameters and state arrays, then the state is stored and the step
is counted. What can be checked is checked in the first part, and the second one takes back
what it did if NumPy raises after all: an update happens whole or not at all.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

#: The state of all parameters: None before the first update, then a container like params.
State = dict[Any, Any] | list[Any] | None
Params = Mapping[Any, Any] | list[Any]
Grads = Mapping[Any, Any] | Sequence[Any]

# What an option has to stay below; none may be negative.
POSITIVE = math.inf
FRACTION = 1.0


@dataclass(slots=True)
class Entry:
    """One parameter of one update, with all that its rule reads and writes."""

    key: Any
    value: Any  # as it lies in params
    param: Any  # as the rule takes it: an array that is changed in place, or a number
    grad: Any
    state: tuple[Any, ...]

    @property
    def replaces(self) -> bool:
        """Whether the result has to be stored in params, because it is no array there."""
        return not isinstance(self.value, np.ndarray)

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
    _options: ClassVar[dict[str, float]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        # Here and not in properties: this way reading an option costs nothing extra.
        if name in self._options:
            value = _option(name, value, self._options[name])
        elif name == self._counter:
            value = _count(name, value)
        object.__setattr__(self, name, value)

    def update(self, params: Params, grads: Grads) -> None:
        """Take one step: change every parameter by its gradient.

        Parameters
        ----------
        params : mapping or list
            Parameters by name (book 1) or by position (book 2). Arrays are changed in
            place, whatever their memory layout; numbers are replaced in the container.
        grads : mapping or sequence
            A gradient for every key of `params`, of a shape that broadcasts to the
            parameter's. Further gradients are ignored.

        Raises
        ------
        KeyError, IndexError
            A parameter has no gradient.
        ValueError
            A shape does not fit the parameter's, or an array is read-only.
        TypeError
            A container, parameter or gradient is of no usable type, or the parameter's
            dtype cannot hold the result.

        Notes
        -----
        An update that raises has changed nothing: no parameter, no state, no step count.
        A parameter that is met for the first time starts with state of zeros.
        """
        entries, containers = self._plan(params, grads)
        self._run(params, entries, self._scalars())
        for i, container in enumerate(containers):
            for entry in entries:
                _store(container, entry.key, entry.state[i])
            setattr(self, self._slots[i], container)
        if self._counter:
            setattr(self, self._counter, getattr(self, self._counter) + 1)

    def _scalars(self) -> tuple[float, ...]:
        """The numbers that the rule takes in the coming step: Python floats."""
        raise NotImplementedError

    @staticmethod
    def _rule(p: Any, g: Any, *state_and_scalars: Any) -> tuple[Any, ...]:
        """The new parameter and the new state: in place for arrays, new for numbers."""
        raise NotImplementedError

    def _plan(self, params: Any, grads: Any) -> tuple[list[Entry], list[Any]]:
        """Check everything; return the work and the containers that hold the state."""
        is_mapping = hasattr(params, "keys")
        if not is_mapping and not isinstance(params, list):
            raise TypeError(f"params must be a mapping or a list, got {type(params).__name__}")
        if not hasattr(grads, "__getitem__"):
            raise TypeError(f"grads must be a mapping or a list, got {type(grads).__name__}")
        containers = [getattr(self, name) for name in self._slots]
        if any(container is None for container in containers):
            containers = [{} if is_mapping else [] for _ in containers]
        for name, container in zip(self._slots, containers, strict=True):
            if hasattr(container, "keys") != is_mapping:
                raise TypeError(
                    f"params is a {type(params).__name__}, but the state {name} is a "
                    f"{type(container).__name__}: use one optimizer for each kind of container"
                )
        keys = list(params.keys()) if is_mapping else range(len(params))
        return [self._entry(key, params, grads, containers) for key in keys], containers

    def _entry(self, key: Any, params: Any, grads: Any, containers: list[Any]) -> Entry:
        """Check one parameter and what belongs to it."""
        name = f"params[{key!r}]"
        value = params[key]
        param = _usable(name, value)
        if not isinstance(value, np.ndarray) and not hasattr(params, "__setitem__"):
            raise TypeError(
                f"{name} is no array, so its new value has to be stored, "
                f"but a {type(params).__name__} takes no new values"
            )
        try:
            grad = grads[key]
        except LookupError as error:
            kind = IndexError if isinstance(error, IndexError) else KeyError
            raise kind(f"{name} has no gradient: grads[{key!r}] is missing") from None
        if isinstance(grad, list):
            raise TypeError(f"grads[{key!r}] must be an array or a number, got list")
        grad = _usable(f"grads[{key!r}]", grad)
        _check_shapes(name, param, f"grads[{key!r}]", grad)
        _check_target(name, param, grad)
        state = []
        for slot, container in zip(self._slots, containers, strict=True):
            if key in container if isinstance(container, dict) else key < len(container):
                slot_value = container[key]
                if np.shape(slot_value) != np.shape(param):
                    raise ValueError(
                        f"{name} has shape {np.shape(param)}, but its state {slot}[{key!r}] "
                        f"has shape {np.shape(slot_value)}"
                    )
            else:
                slot_value = _zeros_like(param)
            _check_target(f"{slot}[{key!r}]", slot_value, grad)
            state.append(slot_value)
        return Entry(key, value, param, grad, tuple(state))

    def _run(self, params: Any, entries: list[Entry], scalars: tuple[float, ...]) -> None:
        """Apply the rule to every entry, in order; take everything back if NumPy raises."""
        copies = _copies(entries) if _may_raise(entries) else []
        done = []
        try:
            for entry in entries:
                done.append(entry)
                result, *state = self._rule(entry.param, entry.grad, *entry.state, *scalars)
                if entry.replaces or result is not entry.param:
                    params[entry.key] = result
                entry.state = tuple(state)
        except BaseException:
            for array, copy in copies:
                array[...] = copy
            for entry in done:
                if entry.replaces:
                    params[entry.key] = entry.value
            raise

    def __repr__(self) -> str:
        options = [f"{name}={getattr(self, name)!r}" for name in self._options]
        return f"{type(self).__name__}({', '.join(options)})"


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
        number = math.inf
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


def _usable(name: str, value: Any) -> Any:
    """`value` as a rule takes it; a TypeError if it is neither an array nor a number."""
    if isinstance(value, list):
        value = np.array(value)
        value = value.astype(np.result_type(value.dtype, 0.0)) if value.dtype != object else value
    elif not isinstance(value, np.ndarray | np.generic | numbers.Number):
        raise TypeError(f"{name} must be an array or a number, got {type(value).__name__}")
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufcO":
            raise TypeError(f"{name} must hold numbers, got dtype {value.dtype}")
        # A memmap is an array in everything but its type, which would make it slow.
        return value.view(np.ndarray) if type(value) is np.memmap else value
    if np.asarray(value).dtype.kind not in "biufc":
        raise TypeError(f"{name} must be an array or a number, got {value!r}")
    return value


def _check_shapes(name: str, param: Any, grad_name: str, grad: Any) -> None:
    shape, grad_shape = np.shape(param), np.shape(grad)
    if shape == grad_shape:
        return
    try:
        fits = np.broadcast_shapes(shape, grad_shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{grad_name} has shape {grad_shape}, which does not fit {name} of shape {shape}"
        )


def _check_target(name: str, target: Any, grad: Any) -> None:
    """Whether an in-place result of `grad` may be written to the array `target`."""
    if not isinstance(target, np.ndarray):
        return
    if not target.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array that can be updated in place")
    grad_dtype = grad.dtype if hasattr(grad, "dtype") else np.result_type(grad)
    if target.dtype == grad_dtype and target.dtype.kind == "f":
        return
    if not np.can_cast(np.result_type(target.dtype, grad_dtype, 0.0), target.dtype, "same_kind"):
        raise TypeError(
            f"{name} has dtype {target.dtype}, which cannot hold an update by a gradient of "
            f"dtype {grad_dtype}"
        )


def _zeros_like(param: Any) -> np.ndarray:
    if isinstance(param, np.ndarray):
        return np.zeros_like(param)
    return np.zeros((), np.result_type(param, 0.0))


def _store(container: Any, key: Any, value: Any) -> None:
    if isinstance(container, list) and key == len(container):
        container.append(value)
    else:
        container[key] = value


def _may_raise(entries: list[Entry]) -> bool:
    """Whether NumPy may refuse an update although all that can be checked was checked."""
    return "raise" in np.geterr().values() or any(
        type(array) is not np.ndarray or array.dtype == object
        for entry in entries
        for array in entry.arrays
    )


def _copies(entries: list[Entry]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each array that the entries change, with a copy of it."""
    return [
        (array, array.copy())
        for entry in entries
        for array in (entry.param, *entry.state)
        if isinstance(array, np.ndarray)
    ]
