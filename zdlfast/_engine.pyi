from collections.abc import Callable, Set
from typing import Any, Self, TypeVar

from numpy.typing import NDArray
from typing_extensions import disjoint_base

from zdlfast._gradients import Reading
from zdlfast._groups import Group
from zdlfast._optimizer import Grads, LastUpdate, Params

STATE_PLACES: tuple[int, int, int]

def available() -> list[str]: ...
def use(simd: str) -> None: ...
def in_use() -> str | None: ...
def compiler() -> str: ...
def get_tuning() -> dict[str, float]: ...
def set_tuning(values: dict[str, float]) -> None: ...
def square_sums(values: NDArray[Any], sums: NDArray[Any]) -> None: ...

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
    rule: str
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
        own_decay: bool = False,
    ) -> None: ...

@disjoint_base
class Groups: ...

@disjoint_base
class OnKernels(Locked):
    def _use(self, kernel: Kernel) -> None: ...
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
    def refused(self, reading: Reading | None = None) -> bool: ...
    def by_kernels(
        self, agree: Callable[[], object] | None = None, reading: Reading | None = None
    ) -> bool | None: ...
    def odd(
        self, everything: bool = False
    ) -> list[tuple[int, Any, Any, Any, tuple[Any, ...], Group]]: ...
    def order_counts(self) -> bool: ...
    def finish(self, odd: list[Any], agree: Callable[[], object] | None = None) -> None: ...

@disjoint_base
class Plan:
    def __init__(
        self,
        kernel: Kernel,
        options: tuple[Any, ...],
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        maximize: bool = False,
        own_decay: bool = False,
        wide: Kernel | None = None,
        keeping: Any = None,
    ) -> None: ...

@disjoint_base
class Planned: ...

@disjoint_base
class TensorBatch: ...

@disjoint_base
class TensorSteps:
    def __init__(
        self,
        exchange: Any,
        types: tuple[type, type],
        plan: Callable[[dict[str, Any]], Plan | None],
        changed: Callable[[list[Any]], object],
        threads: Callable[[], int],
    ) -> None: ...
    def take(
        self,
        groups: list[dict[str, Any]],
        state: Any,
        made: dict[Any, dict[str, Any]] | None = None,
        left_out: Set[int] = ...,
    ) -> tuple[list[tuple[dict[str, Any], Any]], list[tuple[dict[str, Any], Any]]] | None: ...
