"""An optimizer's state as a dict: what `state_dict` and `load_state_dict` do."""

from collections.abc import Callable, Mapping
from copy import copy
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from zdlfast._bfloat16 import is_bfloat16
from zdlfast._encoded import EncodedState
from zdlfast._options import OPTIONS
from zdlfast._saved_options import packed, unpacked
from zdlfast._validation import is_array

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

#: Of the dict and of the files. A larger one is of a newer zdlfast. 1 is of zdlfast 0.1, which had
#: no options of all rules but ``nonfinite``, and counted updates only where the rule does; 2 of
#: zdlfast 0.2, which had no state in few bits.
FORMAT = 3

# The options of all rules that older formats had.
_OPTIONS_OF = {
    1: ("nonfinite",),
    2: tuple(name for name in OPTIONS if not name.startswith("state")),
    3: OPTIONS,
}


def collect(optimizer: "Optimizer", copies: bool) -> dict[str, Any]:
    """What `Optimizer.state_dict` returns, under the optimizer's lock."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "class": type(optimizer).__name__,
        "options": {
            name: packed(name, getattr(optimizer, name))
            for name in (*optimizer._options, *optimizer._flags, *OPTIONS)
        },
    }
    for name in (_counter(optimizer), *optimizer._numbers):
        content[name] = getattr(optimizer, name)
    state: dict[str, Any] = {}
    for slot in optimizer._slots:
        held = getattr(optimizer, slot)
        if isinstance(held, dict):
            held = {key: _taken(value, copies) for key, value in held.items()}
        elif held is not None:
            held = [_taken(value, copies) for value in held]
        state[slot] = held
    content["state"] = state
    return content


def _taken(value: Any, copies: bool) -> Any:
    """An array of state as the dict has it; what is encoded is a dict of its parts."""
    if isinstance(value, EncodedState):
        return (value.copy() if copies else value).to_dict()
    return np.array(value) if copies else np.asarray(value)


def restore(optimizer: "Optimizer", content: Any, copies: bool = True) -> None:
    """What `Optimizer.load_state_dict` does, under the optimizer's lock."""
    name = type(optimizer).__name__
    expected = f"expected what state_dict() of {name} returned"
    if not isinstance(content, Mapping):
        raise TypeError(f"the state must be a dict, got {type(content).__name__}: {expected}")
    if "param_groups" in content:
        raise ValueError(f"this is the state of an optimizer of torch, {expected}")
    if "format" not in content:
        raise ValueError(f"the state has no format: it is {_what_else(content)}, {expected}")
    check_format(content["format"])
    if content.get("class") != name:
        raise ValueError(f"this is the state of {content.get('class')!r}, expected {name!r}")
    counter, numbers = _counter(optimizer), optimizer._numbers
    options = _OPTIONS_OF[content["format"]]
    if content["format"] == 1:
        content = {counter: 0, **content}
    compare_keys("the state", content, ["format", "class", "options", counter, *numbers, "state"])
    compare_keys(
        "the dict of options",
        content["options"],
        [*optimizer._options, *optimizer._flags, *options],
    )
    # A copy of the optimizer checks what is assigned to it.
    checked = type(optimizer).__new__(type(optimizer))
    for option in OPTIONS:
        setattr(checked, option, getattr(type(optimizer), option))
    for option, value in content["options"].items():
        setattr(checked, option, unpacked(option, value, getattr(optimizer, option)))
    for flag in optimizer._flags:
        optimizer._check_flag(flag, getattr(checked, flag))
    setattr(checked, counter, content[counter])
    for attribute in numbers:
        setattr(checked, attribute, _number(attribute, content[attribute]))
    compare_keys("the dict of arrays", content["state"], checked._slots)
    slots = {slot: _container(slot, content["state"][slot], copies) for slot in checked._slots}
    _check_slots_agree(slots)
    for slot, container in slots.items():
        _check_signs(slot, container, slot not in optimizer._positive)
        _check_same(slot, container, getattr(optimizer, slot, None))
        setattr(checked, slot, container)
    # At once, whatever signals arrive.
    vars(optimizer).update(vars(checked))
    optimizer._updates = checked._updates
    optimizer._was_loaded()


def snapshot(optimizer: "Optimizer", getstate: Callable[[], Any]) -> Any:
    """What pickle and copy take of an optimizer, with arrays that no update changes any more."""
    state = getstate()
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    attributes = dict(attributes or {})
    if optimizer._counter is None:
        slots = {**(slots or {}), "_updates": optimizer.updates}
    copies: dict[int, Any] = {}
    for slot in optimizer._slots:
        held = attributes.get(slot)
        if isinstance(held, dict | list):
            attributes[slot] = held = copy(held)
            for key, value in _by_key(held).items():
                # Under two keys it stays one.
                encoded = isinstance(value, EncodedState)
                if (encoded or is_array(value)) and id(value) not in copies:
                    is_numpy = isinstance(value, np.ndarray)
                    copies[id(value)] = value.copy(order="K") if is_numpy else value.copy()
                held[key] = copies.get(id(value), value)
    return attributes if slots is None else (attributes, slots)


def nbytes(optimizer: "Optimizer") -> int:
    """The bytes that the state of all parameters takes, in all slots."""
    return sum(
        int(getattr(value, "nbytes", 0))
        for slot in optimizer._slots
        for value in _by_key(getattr(optimizer, slot) or {}).values()
    )


def check_format(version: Any) -> None:
    """Raise the error of a state that this version cannot read."""
    if type(version) is not int or version < 1:
        raise ValueError(f"the state has format {version!r}, expected a number from 1 on")
    if version > FORMAT:
        raise ValueError(
            f"the state has format {version}, which is newer than this zdlfast reads ({FORMAT})"
        )


def _counter(optimizer: "Optimizer") -> str:
    return optimizer._counter or "updates"


def compare_keys(what: str, found: Any, expected: Any) -> None:
    if not isinstance(found, Mapping):
        raise TypeError(f"{what} must be a dict, got {type(found).__name__}")
    for key in expected:
        if key not in found:
            raise ValueError(f"{what} has no {key!r}, expected {list(expected)}")
    for key in found:
        if key not in expected:
            raise ValueError(f"{what} has an unknown key {key!r}, expected {list(expected)}")


def _number(name: str, given: Any) -> float:
    if not isinstance(given, float):
        raise TypeError(f"the state {name} must be a float, got {given!r}")
    return float(given)


def _container(
    slot: str, given: Any, copies: bool
) -> dict[Any, np.ndarray | EncodedState] | list[np.ndarray | EncodedState] | None:
    """One slot's arrays in a container of our own, checked."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {key: _array(f"{slot}[{key!r}]", value, copies) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [_array(f"{slot}[{i}]", value, copies) for i, value in enumerate(given)]
    raise TypeError(f"the state {slot} must be a dict, a list or None, got {type(given).__name__}")


def _array(name: str, value: Any, copies: bool) -> np.ndarray | EncodedState:
    if isinstance(value, Mapping):
        return EncodedState.from_dict(name, value)
    if not isinstance(value, np.ndarray | np.generic) or not (
        value.dtype.kind in "fcO" or is_bfloat16(value.dtype)
    ):
        what = value.dtype if hasattr(value, "dtype") else type(value).__name__
        raise TypeError(f"the state {name} must be an array of floats, got {what}")
    return np.array(value) if copies else np.asarray(value)


def _what_else(content: Mapping[Any, Any]) -> str:
    """What a mapping that is no state is, for a message."""
    if not content:
        return "an empty dict"
    of_arrays = all(hasattr(value, "shape") for value in content.values())
    what = "a dict of arrays, such as a model's parameters," if of_arrays else "a dict"
    keys = ", ".join(map(repr, islice(content, 3)))
    return f"{what} with the keys {keys}{', ...' if len(content) > 3 else ''}"


def _by_key(container: Any) -> dict[Any, Any]:
    return container if isinstance(container, dict) else dict(enumerate(container))


def _check_slots_agree(slots: dict[str, Any]) -> None:
    """All slots have the same keys, with arrays of the same shape."""
    (first, held), *others = slots.items() if slots else [("", None)]
    for slot, container in others:
        if type(container) is not type(held):
            raise ValueError(f"the state {first} and the state {slot} are no containers of a kind")
        if held is None:
            continue
        shapes = {key: array.shape for key, array in _by_key(container).items()}
        for key, array in _by_key(held).items():
            shape = shapes.pop(key, None)
            if shape != array.shape:
                raise ValueError(
                    f"the state {first}[{key!r}] has shape {array.shape}, but {slot}[{key!r}] has "
                    f"{shape}"
                )
        if shapes:
            raise ValueError(f"the state {slot} has more keys than the state {first}")


def _check_signs(slot: str, container: Any, signed: bool) -> None:
    """What is encoded has signs if the slot's values may have them."""
    for key, value in _by_key(container or {}).items():
        if isinstance(value, EncodedState) and value.signed != signed:
            raise ValueError(
                f"the state {slot}[{key!r}] is encoded with signed={value.signed}, expected "
                f"{signed}"
            )


def _check_same(slot: str, container: Any, present: Any) -> None:
    """What is loaded fits what is there: containers, keys, shapes and dtypes."""
    if present is None or container is None:
        return
    if isinstance(container, dict) != isinstance(present, dict):
        raise ValueError(
            f"the state {slot} is a {type(container).__name__}, but this optimizer has a "
            f"{type(present).__name__}"
        )
    new, old = _by_key(container), _by_key(present)
    for key in [*old, *new]:
        if (key in old) != (key in new):
            where = "in it" if key in old else "in this optimizer"
            raise ValueError(f"the state {slot} differs: there is no key {key!r} {where}")
    for key in new:
        present = old[key] if isinstance(old[key], EncodedState) else np.asarray(old[key])
        for what in ("shape", "dtype"):
            given, expected = getattr(new[key], what), getattr(present, what)
            if given != expected:
                raise ValueError(
                    f"the state {slot}[{key!r}] has {what} {given}, but this optimizer's has "
                    f"{expected}"
                )
