from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from typing_extensions import disjoint_base

def available() -> list[str]: ...
def use(simd: str) -> None: ...
def in_use() -> str | None: ...
def compiler() -> str: ...
def extent(array: np.ndarray[Any, Any]) -> tuple[int, int]: ...

_Result = TypeVar("_Result")

def in_turn(
    optimizer: object, writes: bool, work: Callable[..., _Result], *args: Any
) -> _Result: ...
def attempt(work: Callable[[], tuple[Any, ...] | None], undo: list[tuple[Any, ...]]) -> None: ...

@disjoint_base
class Kernel:
    def __init__(
        self,
        rule: str,
        options: tuple[str, ...],
        slots: tuple[str, ...],
        counter: str | None = None,
    ) -> None: ...
    def takes(self, param: object, grad: object, state: tuple[Any, ...]) -> bool: ...
    def update(self, optimizer: object, params: object, grads: object) -> bool: ...
    def step(
        self,
        optimizer: object,
        params: object,
        grads: object,
        s0: object = None,
        s1: object = None,
    ) -> bool: ...
