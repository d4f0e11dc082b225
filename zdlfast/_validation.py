"""What is checked before anything changes, and how it is told.

Everything here raises errors of the book's types, which name the key or the option, the value
that was given and what was expected.
"""

import inspect
import numbers
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from zdlfast._bfloat16 import computed, holds_bfloat16
from zdlfast._encoded import EncodedState, decoded
from zdlfast._rules import FRACTION, UNBOUNDED

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

# ---------------------------------------------------------------- options and attributes

# What other libraries call it, and what it is called here.
_NAMES = {
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "alpha": "lr",
    "epsilon": "eps",
    "rho": "decay_rate",
    "beta_1": "beta1",
    "beta_2": "beta2",
    "mu": "momentum",
    "maximise": "maximize",
    "clipnorm": "clip_norm",
    "global_clipnorm": "clip_norm",
    "max_norm": "clip_norm",
    "clipvalue": "clip_value",
}
_HINTS = {
    "param_groups": "give overrides= for options of some parameters",
    "params": "pass params to update(params, grads)",
    "step": "call update(params, grads)",
    "zero_grad": "gradients are not accumulated here, so there is nothing to clear",
}
# Where a name means something else, or another class is meant.
_HINTS_OF = {
    ("RMSprop", "alpha"): "torch's alpha is decay_rate here; the learning rate is lr",
    ("SGD", "momentum"): "use zdlfast.Momentum",
    ("SGD", "nesterov"): "use zdlfast.Nesterov",
    ("Momentum", "nesterov"): "use zdlfast.Nesterov",
    ("Adam", "amsgrad"): "use zdlfast.AMSGrad",
}


def hint(optimizer: "Optimizer | type[Optimizer]", name: str) -> str:
    """What may have been meant by a name that an optimizer has not got."""
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    own = (*optimizer._options, *optimizer._flags)
    known = (*own, *cls._common_options)
    for base in cls.__mro__:
        if (base.__name__, name) in _HINTS_OF:
            return f": {_HINTS_OF[base.__name__, name]}"
    if name in _HINTS:
        return f": {_HINTS[name]}"
    if name == "betas" and "beta1" in own:
        return ": give beta1= and beta2="
    if name == "iterations":
        return f": the number of updates is {optimizer._counter or 'updates'}"
    if _NAMES.get(name) in known:
        return f": here it is {_NAMES[name]}"
    from difflib import get_close_matches

    for meant in get_close_matches(name, known, 1, 0.8):
        return f": here it is {meant}"
    return f"; its options are {', '.join(own)}; all take {', '.join(cls._common_options)}"


def check_arguments(
    cls: "type[Optimizer]", values: tuple[Any, ...], keywords: Iterable[str]
) -> None:
    """Whether a class takes these arguments; Python's own errors have no hint."""
    known = inspect.signature(cls.__init__).parameters
    is_first = [*known][1:2] == ["lr"]
    if is_first and values and "lr" in keywords and not isinstance(values[0], numbers.Real):
        raise TypeError(f"{cls.__name__} takes options, got {_shown(values[0])}")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in keywords:
        if name not in known:
            refuse_keyword(cls, name)


def refuse_keyword(cls: "type[Optimizer]", name: str) -> NoReturn:
    raise TypeError(f"{cls.__name__} has no option {name!r}{hint(cls, name)}")


def refuse_attribute(optimizer: "Optimizer", name: str) -> NoReturn:
    kind = type(optimizer).__name__
    raise AttributeError(
        f"{kind} has no attribute {name!r}{hint(optimizer, name)}", name=name, obj=optimizer
    )


def option(name: str, value: Any, below: float) -> float:
    """`value` as a Python float, if it is a number in ``[0, below)``."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    # A flag is an int to Python; as a rate it is a mistake.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        betas = ": give beta1= and beta2=" if name == "beta1" and isinstance(value, tuple) else ""
        raise TypeError(f"{name} must be a number, got {_shown(value)}{betas}")
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got a number too large for a float") from None
    if not 0.0 <= number < below:
        expected = "in [0, 1)" if below == FRACTION else ">= 0 and finite"
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def own_option(what: str, name: str, value: Any, below: float) -> Any:
    """An option of one rule, which is told as `what`: a number, or a schedule of `lr`."""
    if name == "lr" and callable(value) and not isinstance(value, type):
        return value
    return option(what, value, below)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {_brief(value)}")
    return bool(value)


def limit(name: str, value: Any) -> float | None:
    """What something must not exceed; None for no limit."""
    if value is None:
        return None
    number = option(name, value, UNBOUNDED)
    if number == 0.0:
        raise ValueError(f"{name} must be > 0, or None for no limit, got {value!r}")
    return number


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{name} must be one of {choices}, got {_brief(value)}")
    return value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"


def _shown(value: Any) -> str:
    """A value that is no number: itself if it is short, else what it is."""
    short = value is None or isinstance(value, str | bytes | bool | complex)
    if isinstance(value, tuple) and all(isinstance(part, numbers.Real) for part in value):
        return _brief(value)
    if short or (isinstance(value, np.ndarray) and value.size <= 4):
        text = repr(value)
        if len(text) <= 60:
            return text
    kind = type(value).__name__
    return f"a {kind}: parameters are passed to update(params, grads)"


def whole_number(name: str, value: Any) -> int:
    """A count: a whole number from 0 on."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"{name} must fit into a float, got a larger number") from None
    if value < 0:
        raise ValueError(f"{name} must be >= 0, got {value!r}")
    return int(value)


# ---------------------------------------------------------------- containers


def looked_up(
    optimizer: "Optimizer", params: Any, grads: Any
) -> tuple[list[Any], list[Any], list[Any], list[Any], list[list[Any]]]:
    """All that an update is about, each thing taken out of its container once.

    Returns
    -------
    containers : list
        The state by slot: dicts or lists, or None before the first update.
    keys, values, gradients : list
        One for each parameter.
    state : list of list
        The same by slot; None where there is none yet.
    """
    found = _containers(optimizer, params)
    keys, values, gradients = lookup(params, grads)
    return found, keys, values, gradients, [_state_of(container, keys) for container in found]


def with_state(optimizer: "Optimizer", params: Any) -> list[tuple[Any, ...]]:
    """Key, parameter and state of all that an optimizer has state of, and of what else there is.

    Raises KeyError or IndexError if a parameter is missing.
    """
    containers = _containers(optimizer, params)
    keys = list(range(len(params)) if isinstance(params, list) else params.keys())
    for container in containers[:1]:
        known = range(len(container)) if isinstance(container, list) else container or ()
        for key in known:
            if key not in keys:
                kind = IndexError if isinstance(params, list) else KeyError
                raise kind(f"params has no {key!r}, of which this optimizer has state")
    state = [_state_of(container, keys) for container in containers]
    return list(zip(keys, (params[key] for key in keys), *state, strict=True))


def _containers(optimizer: "Optimizer", params: Any) -> list[Any]:
    """The state of an optimizer by slot, of a kind with `params`; None if there is none yet."""
    is_mapping = hasattr(params, "keys")
    if not is_mapping and not isinstance(params, list):
        raise TypeError(f"params must be a mapping or a list, got {type(params).__name__}")
    found = [getattr(optimizer, slot) for slot in optimizer._slots]
    for slot, container in zip(optimizer._slots, found, strict=True):
        if not isinstance(container, dict | list | None):
            raise TypeError(
                f"the state {slot} must be a dict, a list or None, got {type(container).__name__}"
            )
        if container is not None and isinstance(container, list) == is_mapping:
            raise TypeError(
                f"params is a {type(params).__name__}, but the state {slot} is a "
                f"{type(container).__name__}: use one optimizer for each kind of container"
            )
    missing = [container for container in found if container is None]
    return [None] * len(found) if missing else found


def lookup(params: Any, grads: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Keys, parameters and gradients, each taken out of its container once."""
    if not hasattr(grads, "__getitem__"):
        raise TypeError(f"grads must be a mapping or a list, got {type(grads).__name__}")
    keys = list(range(len(params)) if isinstance(params, list) else params.keys())
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


def _state_of(container: Any, keys: list[Any]) -> list[Any]:
    """One slot's state by key; None where there is none yet."""
    if container is None:
        return [None] * len(keys)
    if isinstance(container, list):
        return [container[key] if key < len(container) else None for key in keys]
    return [container.get(key) for key in keys]


# ---------------------------------------------------------------- one entry


def is_array(value: Any) -> bool:
    """Whether a value is an array: NumPy's, or another one that its functions take."""
    if isinstance(value, np.ndarray):
        return True
    # To look for what is not there takes long, so a number is told by its type.
    return (
        not isinstance(value, float)
        and hasattr(type(value), "__array_ufunc__")
        and hasattr(value, "shape")
    )


def is_plain(param: Any) -> bool:
    """Whether a parameter is an array with nothing special about it."""
    return type(param) is np.ndarray and param.dtype.kind == "f" and param.flags.writeable


def is_like(array: Any, dtype: np.dtype[Any] | None, shape: tuple[int, ...]) -> bool:
    return type(array) is np.ndarray and array.dtype is dtype and array.shape == shape


def shape_of(value: Any) -> tuple[int, ...]:
    return getattr(value, "shape", ())


def dtype_of(value: Any) -> np.dtype[Any]:
    """The dtype of an array or a number."""
    if hasattr(value, "dtype"):
        dtype: np.dtype[Any] = value.dtype
        return dtype
    return _FLOAT if isinstance(value, float) else np.result_type(value)


_FLOAT = np.dtype(float)


def param_and_grad(key: Any, value: Any, grad: Any) -> tuple[Any, Any]:
    """A parameter and its gradient, both as a rule takes them."""
    name, grad_name = f"params[{key!r}]", f"grads[{key!r}]"
    if isinstance(value, list):
        try:
            value = np.array(value)
            value = value.astype(np.result_type(value, 0.0), copy=False)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} is a list that is no array of numbers: {error}") from None
    param, grad = _usable(name, value), _usable(grad_name, grad)
    shape, grad_shape = shape_of(param), shape_of(grad)
    # The shape of a number is always at the end of another one.
    if shape[max(len(shape) - len(grad_shape), 0) :] != grad_shape:
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
    if isinstance(value, float) or (type(value) is np.ndarray and value.dtype.kind == "f"):
        return value  # as nearly all are
    if is_array(value):
        # A memmap is an array in everything but its type, which would make it slow.
        value = value.view(np.ndarray) if type(value) is np.memmap else value
        if value.dtype.kind not in "biufcO" and not holds_bfloat16(value):
            if value.dtype.name == "bfloat16":
                raise TypeError(
                    f"{name} holds bfloat16 and must be an ndarray in the machine's byte order, "
                    f"got {type(value).__name__} in order {value.dtype.byteorder!r}"
                )
            raise TypeError(f"{name} must hold numbers, got an array of dtype {value.dtype}")
        return value
    if not isinstance(value, np.generic | complex | float | int):
        raise TypeError(f"{name} must be an array or a number, got {type(value).__name__}")
    value = fitting(name, value)
    if dtype_of(value).kind not in "biufc":
        raise TypeError(f"{name} must be an array or a number, got {value!r}")
    return value


def fitting(name: str, value: Any) -> Any:
    """A number that NumPy can hold: whole ones of Python's have any size."""
    if not isinstance(value, int) or -(2**63) <= value < 2**63:
        return value
    try:
        return float(value)
    except OverflowError:
        raise OverflowError(f"{name} is a whole number that is too large for a float") from None


def check_state(name: str, held: Any, param: Any, grad: Any) -> None:
    """Whether state belongs to a parameter, and can take its gradient."""
    if not isinstance(held, EncodedState):
        held = _usable(f"the state {name}", held)
    elif not held.is_whole():
        raise ValueError(
            f"the state {name} has codes or scales that do not fit it: {held.format} of the shape "
            f"{held.shape}"
        )
    if shape_of(held) != shape_of(param):
        raise ValueError(
            f"the state {name} has shape {shape_of(held)}, but its parameter has shape "
            f"{shape_of(param)}"
        )
    # Another dtype is that of another training: to go on would lose digits without a word.
    # (A NumPy scalar is replaced, and may become one of a wider dtype.)
    if not isinstance(param, np.generic):
        fresh = dtype_of(param) if is_array(param) else np.result_type(param, 0.0)
        if isinstance(held, EncodedState):
            fresh = computed(fresh)
        dtype, expected = dtype_of(held).newbyteorder("="), fresh.newbyteorder("=")
        if dtype != expected:
            raise TypeError(
                f"the state {name} has dtype {dtype}, but its parameter has {expected}: if they "
                "belong together, cast the state by astype"
            )
    _check_target(name, held, grad)
    _check_target(f"the parameter of the state {name}", param, held)


def _check_target(name: str, target: Any, operand: Any) -> None:
    """Whether a result that `operand` goes into may be written to the array `target`."""
    if not is_array(target):
        return
    if isinstance(target, np.ndarray) and not target.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array that can be updated in place")
    own, dtype = computed(target.dtype), computed(dtype_of(operand))
    if own.kind == "f" and dtype.kind in "biuf":
        return
    if not np.can_cast(np.result_type(own, dtype, 0.0), own, "same_kind"):
        raise TypeError(
            f"{name} has dtype {target.dtype}, which cannot hold an update by values of dtype "
            f"{dtype}"
        )


def is_finite(grad: Any) -> bool:
    """Whether a gradient holds neither NaN nor infinity; objects are taken to be finite."""
    if isinstance(grad, int) or (is_array(grad) and grad.dtype.hasobject):
        return True
    grad = decoded(grad)
    finite = np.isfinite(grad)
    if isinstance(finite, np.ma.MaskedArray):
        finite = finite.filled(True)  # what is masked is not there
    return bool(np.all(finite))
