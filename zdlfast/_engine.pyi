from collections.abc import Callable
from typing import Any, Self, TypeVar

from typing_extensions import disjoint_base

from zdlfast._optimizer import Grads, LastUpdate, Params

def available() -> list[str]: ...
def use(simd: str) -> None: ...
def in_use() -> str | None: ...
def compiler() -> str: ...

_Result = TypeVar("_Result")

@disjoint_base
class Locked:
    _last: Any
    _updates: int
    def _locked(self, writes: bool, work: Callable[..., _Result], *args: Any) -> _Result: ...

@disjoint_base
class Rollback:
    def add(self, container: Any, key: Any, value: Any) -> None: ...
    def finish(self, function: Callable[..., object], *args: Any) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, error: object, trace: object) -> None: ...

@disjoint_base
class Kernel:
    options: tuple[str, ...]
    slots: tuple[str, ...]
    numbers: tuple[str, ...]
    counter: str | None
    def __init__(
        self,
        rule: str,
        options: tuple[str, ...],
        slots: tuple[str, ...],
        counter: str | None = None,
        numbers: tuple[str, ...] = (),
    ) -> None: ...

@disjoint_base
class OnKernels(Locked):
    def _was_loaded(self) -> None: ...
    def _options_changed(self) -> None: ...
    @property
    def last(self) -> LastUpdate | None: ...
    def update(self, params: Params, grads: Grads) -> bool | None: ...

@disjoint_base
class Batch:
    def __init__(
        self,
        optimizer: OnKernels,
        by_key: bool,
        containers: list[Any],
        keys: list[Any],
        params: list[Any],
        grads: list[Any],
        state: list[list[Any]],
    ) -> None: ...
    def refused(self) -> bool: ...
    def lr(self) -> float | None: ...
    def clip_rate(self) -> float: ...
    def odd(
        self, everything: bool = False
    ) -> list[tuple[int, Any, Any, Any, tuple[Any, ...]]]: ...
    def order_counts(self) -> bool: ...
    def finish(self, odd: list[Any]) -> None: ...
