"""The entries of an update as NumPy takes them, one after the other."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zdlfast import _validation as validation
from zdlfast._bfloat16 import holds_bfloat16, is_bfloat16
from zdlfast._encoded import EncodedState, decoded

if TYPE_CHECKING:
    from zdlfast._engine import Rollback
    from zdlfast._groups import Group

# As tuples, and not united: that is made anew at each look, and takes a multiple of the time.
_NUMBER = (float, int)
_FLOAT = np.dtype(float)


@dataclass(slots=True)
class Entry:
    """One parameter of one update, with all that its rule reads and writes."""

    place: int  # among the entries of the update
    key: Any
    value: Any  # as it lies in params
    param: Any  # as the rule takes it: an array that is changed in place, or a number
    grad: Any
    held: tuple[Any, ...]  # the state before; None where there is none yet
    state: tuple[Any, ...]
    plain: bool  # whether these are arrays of one float dtype and one shape
    coded: bool  # whether any of these has to be decoded for a rule
    group: "Group"

    @property
    def is_numeric(self) -> bool:
        """Whether all operands are exact arrays of numbers, or such in few bits."""
        return all(
            type(value) is np.ndarray and value.dtype != object
            for value in (self.value, self.param, self.grad, *self.state)
            if not isinstance(value, EncodedState)
        )


def make_entry(
    place: int,
    key: Any,
    value: Any,
    grad: Any,
    held: tuple[Any, ...],
    group: "Group",
    slots: tuple[str, ...],
    params: Any,
) -> Entry:
    """Check one parameter and what belongs to it."""
    param = value
    plain = coded = False
    dtype, shape = None, ()  # of state that needs no further look
    if isinstance(value, _NUMBER) and isinstance(grad, _NUMBER):
        dtype = _FLOAT
        if not (isinstance(value, float) and isinstance(grad, float)):
            param = validation.fitting(f"params[{key!r}]", value)
            grad = validation.fitting(f"grads[{key!r}]", grad)
    elif validation.is_plain(value) and validation.is_like(grad, value.dtype, value.shape):
        plain, dtype, shape = True, value.dtype, value.shape
    else:
        param, grad = validation.param_and_grad(key, value, grad)
        if validation.is_plain(param):
            dtype, shape = param.dtype, param.shape  # what takes the gradient, as state has to
        coded = holds_bfloat16(param) or holds_bfloat16(grad)
    if not (isinstance(value, np.ndarray) or hasattr(params, "__setitem__")):
        raise TypeError(
            f"params[{key!r}] is no array, so its new value has to be stored, but a "
            f"{type(params).__name__} takes no new values"
        )
    state = []
    encoding = group.encoding
    for i, array in enumerate(held):
        if array is None:
            if encoding.takes(slots[i], param):
                state.append(encoding.fresh(slots[i], param))
                plain, coded = False, True
            else:
                state.append(zeros_like(param))
            continue
        if not (validation.is_like(array, dtype, shape) and array.flags.writeable):
            validation.check_state(f"{slots[i]}[{key!r}]", array, param, grad)
            plain, coded = False, coded or holds_bfloat16(array)
        if encoding.format is not None or isinstance(array, EncodedState):
            array = encoding.converted(slots[i], array, param)
            if isinstance(array, EncodedState):
                plain, coded = False, True
        state.append(array)
    return Entry(place, key, value, param, grad, held, tuple(state), plain, coded, group)


def zeros_like(param: Any) -> Any:
    """Fresh state: zeros in the memory layout of a parameter."""
    if isinstance(param, list):
        return np.zeros(np.shape(param), np.result_type(np.array(param), 0.0))
    if not isinstance(param, np.ndarray):
        if not validation.is_array(param):
            return np.zeros((), np.result_type(param, 0.0))
        # By its own means alone: it may refuse to become an array of NumPy's.
        zeros = param.copy()
        zeros[...] = 0.0
        return zeros
    # In the machine's own byte order, as every result of NumPy is.
    dtype = param.dtype if param.dtype.isnative else param.dtype.newbyteorder("=")
    return np.zeros_like(param, dtype)


def frozen_state(param: Any) -> Any:
    """State of a parameter in a list that is left alone: it keeps the place of those behind it."""
    try:
        zeros = zeros_like(param)
    except (TypeError, ValueError):
        return np.zeros(())  # what is no array of numbers is not updated, ever
    dtype = validation.dtype_of(zeros)
    is_state = dtype.kind in "fcO" or is_bfloat16(dtype)
    return zeros if is_state else np.zeros(np.shape(zeros))


def run(
    rule: Callable[..., tuple[Any, ...]],
    entries: list[Entry],
    params: Any,
    rollback: "Rollback",
    copies: bool,
) -> None:
    """Update parameters and state by NumPy, in order.

    Parameters
    ----------
    rule : callable
        The formula: in place for arrays, with new results for numbers.
    entries : list of Entry
        Each with its group. Their ``state`` becomes the new one.
    params : mapping or list
        Where new numbers are stored.
    rollback : Rollback
        Gets what would undo it all.
    copies : bool
        Whether arrays are to be taken back too: they are copied for that.
    """
    if copies:
        for entry in entries:
            for array in (entry.param, *entry.state):
                if validation.is_array(array):
                    rollback.add(array, ..., array.copy())
                elif isinstance(array, EncodedState):
                    for part in array.arrays():
                        rollback.add(part, ..., part.copy())
    for entry in entries:
        operands = (entry.param, entry.grad, *entry.state)
        if entry.coded:
            operands = tuple(map(decoded, operands))
        if type(entry.param) is np.ndarray and entry.param.ndim == 0:
            result, *state = _apply_0d(entry.group, rule, *operands)
        else:
            result, *state = entry.group.apply(rule, *operands)
        if entry.coded:
            result, *state = _encoded(entry, result, *state)
        entry.state = tuple(state)
        # Numbers are replaced, and so is what an array's own operators made a new one of.
        if result is not entry.param or (
            entry.param is not entry.value and not isinstance(entry.value, np.ndarray)
        ):
            rollback.add(params, entry.key, entry.value)
            params[entry.key] = result


def _apply_0d(
    group: "Group", rule: Callable[..., tuple[Any, ...]], param: Any, grad: Any, *state: Any
) -> list[Any]:
    """Apply the rule to a 0-d array, through views of one element.

    NumPy 1 promotes 0-d arrays as numbers, and both NumPys make numbers of their results.
    """
    p, g, *views = [
        value.reshape(1) if isinstance(value, np.ndarray) else value
        for value in (param, grad, *state)
    ]
    return [
        held if new is view else np.reshape(new, ())
        for new, view, held in zip(
            group.apply(rule, p, g, *views), (p, *views), (param, *state), strict=True
        )
    ]


def _encoded(entry: Entry, *results: Any) -> list[Any]:
    """The new parameter and state; what has fewer bits than a rule computes in, in place."""
    group, new = entry.group, list(results)
    for place, held in enumerate((entry.param, *entry.state)):
        if isinstance(held, EncodedState) or holds_bfloat16(held):
            group.encoding.store(group.step, place, held, new[place])
            new[place] = held
    return new


def may_raise(entries: list[Entry]) -> bool:
    """Whether NumPy may raise although all that can be checked was checked.

    Arrays of one float dtype fail only where floating-point errors raise. Python's numbers
    overflow with an error, objects and subclasses of arrays can do anything, and so can a
    container that new values are stored in.
    """
    return (
        not all(entry.plain or entry.is_numeric for entry in entries)
        or not {"raise", "call", "log"}.isdisjoint(np.geterr().values())
        or any(action == "error" for action, *_ in warnings.filters)
    )
