"""What an adapter is: it brings zdlfast's steps to code that knows no zdlfast."""

import ast
import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping
from itertools import takewhile
from operator import attrgetter
from types import ModuleType
from typing import Any

from zdlfast.adapters._imports import unwatch, watch
from zdlfast.adapters._replaced import Replaced
from zdlfast.adapters._report import Counter
from zdlfast.adapters._steps import Patch


class Adapter:
    """What all adapters have in common; each has its own way to `install` itself.

    Attributes
    ----------
    name : str
        What users call the framework: ``zdlfast.patch(name)``.
    module : str
        The module that has its optimizers.
    """

    name: str
    module: str

    @property
    def shown(self) -> str:
        """The module that users know, of which the one with the optimizers may be a part."""
        return ".".join(takewhile(lambda part: part[0] != "_", self.module.split(".")))

    @property
    def is_importable(self) -> bool:
        """Whether another process finds what this adapter is made of."""
        return True

    def check(self) -> None:
        """Raise if there is nothing to patch."""

    def install(self, reference: bool, counter: Counter | None) -> None:
        """Patch, now or when the module is imported; again, if these options are others.

        Parameters
        ----------
        reference : bool
            Take the rules in plain NumPy instead of the kernels.
        counter : Counter or None
            What counts the steps.
        """
        raise NotImplementedError

    def remove(self) -> None:
        """Undo all that `install` did."""
        raise NotImplementedError


class MethodAdapter(Adapter):
    """Replaces methods of a framework's classes, which stay the framework's.

    Parameters
    ----------
    name : str
        What users call the framework: ``zdlfast.patch(name)``.
    package : str
        What pip calls it.
    module : str
        The module that has its optimizers, or that has imported them.
    versions : tuple of str
        The first and the last version that is known, with as many numbers as matter.
    methods : mapping of str to callable
        What to replace, as ``"Class.method"`` in that module, and by what: a function that gets
        a `Patch`, the optimizer and the method's arguments.
    formulas : mapping of str to str, optional
        The framework's own code that is replaced, or that is not run any more: each with its
        `fingerprint`. A class whose code is another one keeps it.
    """

    def __init__(
        self,
        name: str,
        package: str,
        module: str,
        versions: tuple[str, str],
        methods: Mapping[str, Callable[..., Any]],
        formulas: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.package = package
        self.module = module
        self.versions = versions
        self.methods = methods
        self.formulas = formulas or {}
        self._replaced = Replaced()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (
            self.name,
            self.package,
            self.module,
            self.versions,
            self.methods,
            self.formulas,
        )

    @property
    def is_importable(self) -> bool:
        # In a child, the main module comes after the patch.
        return all(function.__module__ != "__main__" for function in self.methods.values())

    def check(self) -> None:
        top = self.module.partition(".")[0]
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            raise ModuleNotFoundError(
                f"zdlfast.patch({self.name!r}) is for {self.package}, which is not installed "
                f"here: python -m pip install {self.package}",
                name=top,
            )

    def install(self, reference: bool, counter: Counter | None) -> None:
        if not reference:
            importlib.import_module("zdlfast.optimizers")  # raises now if there are no kernels
        self.remove()
        watch(self.module, functools.partial(self._replace, reference, counter))

    def remove(self) -> None:
        unwatch(self.module)
        self._replaced.restore()

    def _replace(self, reference: bool, counter: Counter | None, module: ModuleType) -> None:
        self._replaced.restore()  # of a module that was loaded again
        problem = self._unknown(module)
        if problem:
            text = f"{problem}: its optimizers are left as they are, and zdlfast does nothing"
            warnings.warn(text, RuntimeWarning, stacklevel=3)
            return
        for path, function in self.methods.items():
            owner, _, name = path.rpartition(".")
            cls = attrgetter(owner)(module)
            own = getattr(cls, name)
            method = _method(function, Patch(module, own, reference))
            if counter is not None:
                method = counter.counted(method, f"{self.name} ")
            self._replaced.set(cls, name, method)

    def _unknown(self, module: ModuleType) -> str | None:
        """What is not as this adapter knows it."""
        top = sys.modules[self.module.partition(".")[0]]
        version = str(getattr(top, "__version__", "of no version"))
        first, last = map(_numbers, self.versions)
        found = _numbers(version)
        if not (first <= found[: len(first)] and found[: len(last)] <= last):
            known = " to ".join(dict.fromkeys(self.versions))
            return f"zdlfast knows {self.package} {known}, this is {version}"
        for path, expected in self.formulas.items():
            if fingerprint(attrgetter(path)(module)) != expected:
                return (
                    f"{path} of this {self.package} {version} is not the code that zdlfast knows"
                )
        return None


def _method(function: Callable[..., Any], patch: Patch) -> Callable[..., Any]:
    @functools.wraps(patch.own)
    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        return function(patch, self, *args, **kwargs)

    return method


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, up to the first part that is none."""
    parts = takewhile(
        lambda part: part is not None, map(re.compile(r"\d+").match, version.split("."))
    )
    return tuple(int(part[0]) for part in parts if part)


def fingerprint(code: Any) -> str | None:
    """A number for what a function or property computes, whatever its comments and its layout.

    Parameters
    ----------
    code : function or property
        It is read from its source file.

    Returns
    -------
    str or None
        None if it has no source.
    """
    try:
        source = inspect.getsource(getattr(code, "fget", code))
    except (OSError, TypeError):
        return None
    tree = ast.parse(textwrap.dedent(source))
    (definition,) = tree.body
    if isinstance(definition, ast.FunctionDef) and ast.get_docstring(definition) is not None:
        del definition.body[0]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]
