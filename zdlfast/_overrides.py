"""Options of some parameters that differ from those of the others."""

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zdlfast import _validation as validation
from zdlfast._options import CHECKS

if TYPE_CHECKING:
    from zdlfast._optimizer import Optimizer

#: Which parameters: a name or a pattern of names as of files, an index, a range of indices, or
#: any other key.
Pattern = Any
#: Those of one parameter, by name.
Options = dict[str, Any]

# What concerns all parameters together cannot differ.
_OF_ONE_PARAMETER = (
    "weight_decay",
    "decoupled",
    "maximize",
    "clip_value",
    "flush_subnormals",
    "state",
    "state_min_size",
    "state_rounding",
)
_FROZEN = "frozen"


class Overrides(Mapping[Pattern, Mapping[str, Any]]):
    """What was given as ``overrides``, checked; it cannot be changed.

    Parameters
    ----------
    given : mapping
        Options by pattern. Later patterns win.
    optimizer : Optimizer or type
        Whose options these are.

    Raises
    ------
    TypeError, ValueError
        It is no mapping of mappings, an option does not exist, cannot differ from one parameter
        to another, or has a value that it cannot have.
    """

    def __init__(self, given: Any, optimizer: "type[Optimizer]") -> None:
        if not isinstance(given, Mapping):
            raise TypeError(
                f"overrides must be a mapping of patterns to options, got {type(given).__name__}"
            )
        self._given: dict[Pattern, Options] = {}
        for pattern, options in given.items():
            where = f"overrides[{pattern!r}]"
            if not isinstance(options, Mapping):
                raise TypeError(
                    f"{where} must be a mapping of options to values, got {type(options).__name__}"
                )
            self._given[pattern] = {
                name: _checked(where, name, value, optimizer) for name, value in options.items()
            }
        self._unmatched = set(self._given)
        #: The options of each parameter that was met, by its key: a place in `groups`.
        self.group_of: dict[Any, int] = {}
        #: The different combinations of options; the first has none.
        self.groups: list[Options] = [{}]

    def __getitem__(self, pattern: Pattern) -> Mapping[str, Any]:
        return MappingProxyType(self._given[pattern])

    def __iter__(self) -> Iterator[Pattern]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def __repr__(self) -> str:
        return repr(self._given)

    def __reduce__(self) -> Any:
        # As a plain dict, which the optimizer that it is given to checks again.
        return dict, (self._given,)

    def resolve(self, keys: Iterable[Any]) -> None:
        """Find the options of parameters that were not met yet.

        Raises
        ------
        ValueError
            A pattern matches none of them, nor one that was met before.
        """
        keys = list(keys)
        if not keys:
            return
        met = {
            key: [pattern for pattern in self._given if _matches(pattern, key)]
            for key in keys
            if key not in self.group_of
        }
        unmatched = self._unmatched.difference(*met.values())
        if unmatched:
            pattern = next(pattern for pattern in self._given if pattern in unmatched)
            shown = ", ".join(map(repr, keys[:5])) + (", ..." if len(keys) > 5 else "")
            raise ValueError(
                f"overrides[{pattern!r}] matches no parameter, expected some of: {shown}"
            )
        self._unmatched = unmatched
        for key, patterns in met.items():
            options: Options = {}
            for pattern in patterns:
                options |= self._given[pattern]
            if options not in self.groups:
                self.groups.append(options)
            self.group_of[key] = self.groups.index(options)


def _matches(pattern: Pattern, key: Any) -> bool:
    if isinstance(pattern, str):
        return isinstance(key, str) and fnmatchcase(key, pattern)
    if isinstance(pattern, range):
        return isinstance(key, int) and key in pattern
    return type(pattern) is type(key) and bool(pattern == key)


def _checked(where: str, name: Any, value: Any, cls: "type[Optimizer]") -> Any:
    what = f"{where}[{name!r}]"
    if name == _FROZEN:
        return validation.flag(what, value)
    if name in cls._options:
        depends = [number for number, on in cls._numbers.items() if name in on]
        if depends:
            raise ValueError(
                f"{what} cannot differ from one parameter to another: {depends[0]} of "
                f"{cls.__name__} depends on it"
            )
        return validation.own_option(what, name, value, cls._options[name])
    if name in _OF_ONE_PARAMETER:
        return CHECKS[name](what, value)
    if name in CHECKS or name == "overrides":
        raise ValueError(f"{what} concerns all parameters together: set it of the optimizer")
    known = ", ".join([_FROZEN, *cls._options, *_OF_ONE_PARAMETER])
    raise ValueError(f"{what} is no option of {cls.__name__}, expected one of: {known}")
