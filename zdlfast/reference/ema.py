"""The exponential moving average of parameters in plain NumPy."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, SupportsIndex

import numpy as np

from zdlfast import _state
from zdlfast import _validation as validation
from zdlfast._optimizer import Locked, Optimizer, Params, Rollback
from zdlfast._rules import FRACTION
from zdlfast._saved_options import packed, unpacked

#: A number, or a function of the number of updates done.
Decay = float | Callable[[int], float]


class Averaging(Optimizer):
    """What `EMA` runs: its parameters are the averages, its gradients what they follow."""

    _options: ClassVar[dict[str, float]] = {"decay": FRACTION}
    _counter: ClassVar[str | None] = "iter"
    _averages: ClassVar[bool] = True

    def __init__(self) -> None:
        self.decay = 0.0
        self.iter = 0
        self.nonfinite = "propagate"

    def _update(self, params: Any, grads: Any, *further: Any) -> bool | None:
        check("params", grads, params)  # a parameter is not spread over its average
        return super()._update(params, grads, *further)

    def _scalars(self) -> tuple[float, ...]:
        return (1 - self.decay,)

    @staticmethod
    def _rule(p: Any, g: Any, rate: float) -> tuple[Any, ...]:
        p += rate * (g - p)
        return (p,)


class EMA(Locked):
    """The exponential moving average of parameters, which is often better than the last ones.

    ::

        average += (1 - decay) * (parameter - average)

    Parameters
    ----------
    params : mapping or list
        Parameters by name or by position: arrays or numbers. The averages begin as copies of them.
    decay : float or callable, default 0.999
        The share of an average that survives an update, in [0, 1); or a function of the number
        of updates done, such as a schedule of `zdlfast.schedules`. May be assigned between
        updates.

    Attributes
    ----------
    params : dict or list
        The averages, each of its parameter's shape and dtype.
    iter : int
        The number of updates so far.

    Notes
    -----
    Parameters are handed over at every call and not remembered, as by the optimizers. A parameter
    that is met for the first time begins an average of its own. An update or an exchange that
    raises has changed nothing.

    With a decay of 0.999 an average reaches over some 1,000 updates: until then it holds a good
    part of the first parameters.

    References
    ----------
    Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992. Tarvainen,
    Valpola, "Mean teachers are better role models", arXiv:1703.01780.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.array([1.0])}
    >>> ema = EMA(params, decay=0.75)
    >>> params["W"] += 4.0
    >>> ema.update(params)
    >>> ema.params["W"]
    array([2.])
    >>> with ema.averaged(params):
    ...     print(params["W"])
    [2.]
    >>> params["W"]
    array([5.])
    """

    _kind: ClassVar[type[Averaging]] = Averaging

    params: dict[Any, Any] | list[Any]

    def __init__(self, params: Params, decay: Decay = 0.999) -> None:
        self._averaging = self._kind()
        self.decay = decay
        self._swapped = False
        self.params = _copies(params)

    def _check_arguments(self, values: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        """Python's own error says what there is to say."""

    def __setattr__(self, name: str, value: Any) -> None:
        # What is mistyped would be set without a word.
        if name not in ("decay", "iter", "params") and not name.startswith("_"):
            raise AttributeError(
                f"EMA has no attribute {name!r}; it has decay, iter and params",
                name=name,
                obj=self,
            )
        super().__setattr__(name, value)

    @property
    def decay(self) -> Decay:
        return self._decay

    @decay.setter
    def decay(self, value: Decay) -> None:
        if not callable(value):
            value = self._averaging.decay = validation.option("decay", value, FRACTION)
        self._decay = value

    @property
    def iter(self) -> int:
        return self._averaging.iter

    def update(self, params: Params) -> None:
        """Let every average follow its parameter.

        Parameters
        ----------
        params : mapping or list
            As they were given to the constructor, and any further ones.

        Raises
        ------
        KeyError, IndexError
            A parameter with an average is missing.
        TypeError, ValueError
            A parameter is of no usable type, or not of its average's shape.
        RuntimeError
            The averages are exchanged with the parameters: see `swap`.
        """
        self._locked(True, self._update, params)

    def _update(self, params: Any) -> None:
        if self._swapped:
            raise RuntimeError(
                "the averages are in the place of the parameters: call swap(params) once more "
                "before the next update"
            )
        if callable(self._decay):
            self._averaging.decay = self._decay(self.iter)
        if hasattr(params, "__len__") and len(params) > len(self.params):
            self._add_and_update(params)
        else:
            self._averaging.update(self.params, params)

    def _add_and_update(self, params: Any) -> None:
        """Begin the averages of further parameters."""
        check("params", params, self.params)
        held: Any = self.params
        if isinstance(held, list):
            new = [_copy(key, params[key]) for key in range(len(held), len(params))]
            averages: Any = held + new
        else:
            added = [key for key in params.keys() if key not in held]  # noqa: SIM118 - any mapping
            averages = {**held, **{key: _copy(key, params[key]) for key in added}}
        with Rollback() as rollback:
            rollback.add(vars(self), "params", held)
            self.params = averages
            rollback.finish(self._averaging.update, averages, params)

    def swap(self, params: Params) -> None:
        """Exchange the averages and the parameters, in place.

        Afterwards a network that holds the parameters computes with the averages. Called once
        more, it brings the parameters back, which has to be done before the next update.

        Parameters
        ----------
        params : mapping or list
            What the averages are of. Arrays are changed in place, numbers are replaced.

        Raises
        ------
        KeyError, IndexError
            A parameter with an average is missing.
        TypeError, ValueError
            A parameter is not of its average's shape and dtype, or is read-only.

        See Also
        --------
        averaged
        """
        self._locked(True, self._swap, params)

    def _swap(self, params: Any) -> None:
        averages = self.params
        check("params", params, averages, to_exchange=True)
        kept = _copies(averages)
        # What is undone is undone backwards: an average gives its parameter back, and then is
        # itself again. All averages come first, because two keys may share a parameter.
        with Rollback() as rollback:
            for target, new, old in ((averages, params, kept), (params, kept, averages)):
                for key in _keys(averages):
                    container, place = _place(target, key)
                    rollback.add(container, place, old[key])
                    container[place] = new[key]
            rollback.finish(vars(self).update, {"_swapped": not self._swapped})

    @contextlib.contextmanager
    def averaged(self, params: Params) -> Iterator[None]:
        """Exchange the averages and the parameters during a ``with`` block, to evaluate.

        Parameters
        ----------
        params : mapping or list
            What the averages are of.
        """
        self.swap(params)
        try:
            yield
        finally:
            self.swap(params)

    def state_dict(self) -> dict[str, Any]:
        """Everything that averaging needs to go on: plain arrays, numbers and strings.

        Returns
        -------
        dict
            ``format``, a number; ``class``; ``options``, with the decay: a number, what
            `zdlfast.schedules.to_dict` makes of a schedule, or the name of another function;
            ``iter``; ``swapped``; ``params``, copies of the averages.
        """
        return self._locked(False, self._collect)

    def _collect(self) -> dict[str, Any]:
        return {
            "format": _state.FORMAT,
            "class": "EMA",
            "options": {"decay": packed("decay", self._decay)},
            "iter": self.iter,
            "swapped": self._swapped,
            "params": _copies(self.params),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            All of it is checked before anything is changed. Arrays are copied. If its decay was
            a function other than a schedule, which cannot be saved, the decay stays the function
            that it is here.

        Raises
        ------
        TypeError, ValueError
            Keys are missing or too many; something is not as it has to be, or the averages do not
            fit those that are here.
        """
        self._locked(True, self._restore, state)

    def _restore(self, state: Any) -> None:
        _state.compare_keys("the state", state, ["format", "class", "options", *_STATE])
        _state.check_format(state["format"])
        if state["class"] != "EMA":
            raise ValueError(f"this is the state of {state['class']!r}, expected 'EMA'")
        _state.compare_keys("the dict of options", state["options"], ["decay"])
        decay = unpacked("decay", state["options"]["decay"], self._decay)
        swapped, averages = state["swapped"], _copies(state["params"])
        averaging = self._kind()
        if not callable(decay):
            decay = averaging.decay = validation.option("decay", decay, FRACTION)
        averaging.iter = state["iter"]
        if not isinstance(swapped, bool):
            raise TypeError(f"the state swapped must be True or False, got {swapped!r}")
        check("the state params", averages, self.params, to_exchange=True)
        if len(averages) > len(self.params):
            raise ValueError("the state params has more keys than there are averages")
        values = {"_averaging": averaging, "_decay": decay, "_swapped": swapped}
        vars(self).update(values, params=averages)  # at once, whatever signals arrive

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # The oldest protocols know no classes like this one.
        return super().__reduce_ex__(max(int(protocol), 2))

    def __getstate__(self) -> dict[str, Any]:
        return self._locked(False, self._snapshot)

    def _snapshot(self) -> dict[str, Any]:
        return {**self._collect(), "options": {"decay": self._decay}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._averaging = self._kind()
        self._averaging.iter = state["iter"]
        self.decay = state["options"]["decay"]
        self._swapped, self.params = state["swapped"], state["params"]

    def __repr__(self) -> str:
        return f"EMA(decay={self._decay!r})"


_STATE = ("iter", "swapped", "params")


def _keys(container: Any) -> list[Any]:
    return list(range(len(container)) if isinstance(container, list) else container.keys())


def _place(container: Any, key: Any) -> tuple[Any, Any]:
    """Where a value is written: an array in place, a number in its container."""
    value = container[key]
    return (value, ...) if validation.is_array(value) else (container, key)


def _copies(params: Any) -> dict[Any, Any] | list[Any]:
    if isinstance(params, list):
        return [_copy(key, value) for key, value in enumerate(params)]
    if not hasattr(params, "keys"):
        raise TypeError(f"params must be a mapping or a list, got {type(params).__name__}")
    return {key: _copy(key, params[key]) for key in params.keys()}  # noqa: SIM118 - any mapping


def _copy(key: Any, value: Any) -> Any:
    """A first average: the value of its parameter, in the layout of its parameter's memory."""
    name = f"params[{key!r}]"
    if not validation.is_array(value):
        if isinstance(value, bool) or not isinstance(value, np.inexact | complex | float | int):
            raise TypeError(f"{name} must be an array or a number, got {type(value).__name__}")
        return value
    if value.dtype.kind not in "fcO":
        raise TypeError(f"{name} must be an array of floats, got one of dtype {value.dtype}")
    if not isinstance(value, np.ndarray):
        return value.copy()  # by its own means: it may refuse to become an array of NumPy's
    if isinstance(value, np.memmap):
        value = value.view(np.ndarray)
    return value.astype(value.dtype.newbyteorder("="), order="K", copy=True)


def check(what: str, params: Any, averages: Any, *, to_exchange: bool = False) -> None:
    """Raise the error of parameters that do not go with their averages."""
    if not isinstance(params, list) if isinstance(averages, list) else not hasattr(params, "keys"):
        raise TypeError(
            f"{what} is a {type(params).__name__}, but the averages are in a "
            f"{type(averages).__name__}"
        )
    for key in _keys(averages):
        name, average = f"{what}[{key!r}]", averages[key]
        try:
            value = params[key]
        except LookupError:
            kind = IndexError if isinstance(params, list) else KeyError
            raise kind(f"{name} is missing, but it has an average") from None
        if value is None:
            raise TypeError(f"{name} must be an array or a number, got None")
        if validation.shape_of(value) != validation.shape_of(average):
            raise ValueError(
                f"{name} has shape {validation.shape_of(value)}, but its average has shape "
                f"{validation.shape_of(average)}"
            )
        if to_exchange:
            _check_exchange(name, value, average)


def _check_exchange(name: str, value: Any, average: Any) -> None:
    if validation.is_array(value) != validation.is_array(average):
        raise TypeError(
            f"{name} is a {type(value).__name__}, but its average is a {type(average).__name__}"
        )
    if not validation.is_array(value):
        _copy(name, value)
        return
    dtype, expected = value.dtype.newbyteorder("="), average.dtype.newbyteorder("=")
    if dtype != expected:
        raise TypeError(f"{name} has dtype {dtype}, but its average has {expected}")
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        raise ValueError(f"{name} is read-only, expected an array that can be changed in place")
