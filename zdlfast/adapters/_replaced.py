"""Attributes that are exchanged, and put back as they were."""

from types import ModuleType
from typing import Any

_ABSENT = object()


class Replaced:
    """Attributes of classes and modules that have other values for a while."""

    def __init__(self) -> None:
        self._before: list[tuple[type | ModuleType, str, Any, Any]] = []

    def set(self, owner: type | ModuleType, name: str, value: Any) -> None:
        """Give an attribute another value, until `restore`."""
        self._before.append((owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def restore(self) -> None:
        """Put back what was there; what others have exchanged since then stays theirs."""
        while self._before:
            owner, name, before, value = self._before.pop()
            if vars(owner).get(name) is not value:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
