"""Options in a state dict: numbers, strings, lists and dicts, of which JSON can hold all."""

from collections.abc import Mapping
from typing import Any

# What only schedules need is imported where there is one: an import of zdlfast is to be short.

_FUNCTION = "function"


def packed(name: str, value: Any) -> Any:
    """An option as it is saved: a schedule by its name, overrides as pairs."""
    if name == "overrides" and value is not None:
        return [
            [_packed_pattern(pattern), {key: packed(key, one) for key, one in options.items()}]
            for pattern, options in value.items()
        ]
    if callable(value):
        from zdlfast import schedules

        if isinstance(value, schedules.Schedule):
            return schedules.to_dict(value)
        return {_FUNCTION: getattr(value, "__qualname__", type(value).__name__)}
    return value


def unpacked(name: str, value: Any, present: Any) -> Any:
    """The option that was saved.

    Parameters
    ----------
    value : object
        What `packed` returned.
    present : object
        The option as it is now, from which functions are taken that could not be saved.
    """
    if name == "overrides" and value is not None:
        pairs = [(_pattern(pattern), options) for pattern, options in _pairs(value)]
        return {
            pattern: {
                key: unpacked(key, one, (present or {}).get(pattern, {}).get(key))
                for key, one in options.items()
            }
            for pattern, options in pairs
        }
    if isinstance(value, Mapping) and _FUNCTION in value:
        if not callable(present):
            raise ValueError(
                f"{name} was a function, {value[_FUNCTION]!r}, which cannot be saved: "
                f"set {name} to it before load_state_dict, or give it to load as {name}="
            )
        return present
    if isinstance(value, Mapping):
        from zdlfast import schedules

        return schedules.from_dict(value)
    return value


def _packed_pattern(pattern: Any) -> Any:
    if isinstance(pattern, range):
        return {"range": [pattern.start, pattern.stop, pattern.step]}
    if isinstance(pattern, tuple):
        return [_packed_pattern(part) for part in pattern]
    return pattern


def _pattern(packed: Any) -> Any:
    if isinstance(packed, Mapping):
        ends = packed.get("range")
        if not isinstance(ends, list) or len(ends) != 3 or any(type(n) is not int for n in ends):
            raise ValueError(f"overrides has the pattern {packed!r}, expected a range")
        return range(*ends)
    return tuple(map(_pattern, packed)) if isinstance(packed, list) else packed


def _pairs(value: Any) -> list[Any]:
    pairs = isinstance(value, list) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], Mapping)
        for pair in value
    )
    if not pairs:
        raise TypeError(f"overrides must be pairs of a pattern and its options, got {value!r}")
    return list(value)
