"""Adapters: zdlfast's steps for code that knows no zdlfast.

Each module here is one framework: ``book``, ``sklearn``, ``dezero``. `MethodAdapter` is what to
write another one with.
"""

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module

from zdlfast.adapters._adapter import Adapter, MethodAdapter, fingerprint
from zdlfast.adapters._children import hand_nothing_on, hand_on
from zdlfast.adapters._report import Counter
from zdlfast.adapters._steps import Patch, are_numbers, dtypes_of, fits

__all__ = [
    "FRAMEWORKS",
    "MethodAdapter",
    "Patch",
    "are_numbers",
    "dtypes_of",
    "fingerprint",
    "fits",
    "patch",
    "patched",
    "unpatch",
]

#: The frameworks that zdlfast knows; for each there is a module of its name here.
FRAMEWORKS = ("book", "sklearn", "dezero")

# Those that are patched, by name, and whether with `zdlfast.reference`.
_patched: dict[str, tuple[Adapter, bool]] = {}


def patch(framework: str | Adapter = "book", *, reference: bool = False) -> None:
    """Let a framework's optimizers take their steps by zdlfast, with the same results.

    Child processes of multiprocessing and joblib are patched too.

    Parameters
    ----------
    framework : {"book", "sklearn", "dezero"} or adapter
        Whose optimizers:

        - ``"book"``: every later import of ``common.optimizer`` gives zdlfast's classes. Call it
          before the book's modules are imported. ``common`` itself stays the book's, and so do
          the names in ``common.optimizer`` that zdlfast does not have.
        - ``"sklearn"``: the solvers "adam" and "sgd" of ``MLPClassifier`` and ``MLPRegressor``.
        - ``"dezero"``: the optimizers of ``dezero.optimizers``.

        The latter two may be imported before or after; their classes stay what they are, and
        objects that exist already gain too.
    reference : bool, default False
        Take the same rules in plain NumPy, `zdlfast.reference`, to compare.

    Raises
    ------
    ModuleNotFoundError
        The framework is not installed.

    Warns
    -----
    RuntimeWarning
        ``common.optimizer`` was imported already: what other modules took from it stays. Or the
        framework is of a version that zdlfast does not know: it is left as it is.

    Examples
    --------
    >>> import zdlfast
    >>> zdlfast.patch()
    >>> from common.optimizer import Adam
    >>> Adam is zdlfast.Adam
    True
    >>> zdlfast.unpatch()
    """
    adapter = _adapter(framework)
    adapter.check()
    _install(adapter, reference)


def unpatch(framework: str | Adapter = "book") -> None:
    """Undo `patch`: leave everything as it would be without it.

    (Classes that were imported from the book's module while it was patched are still zdlfast's.)

    Parameters
    ----------
    framework : {"book", "sklearn", "dezero"} or adapter
        As `patch` took it. If it is not patched, nothing happens.
    """
    adapter, _ = _patched.pop(_adapter(framework).name, (None, False))
    if adapter is not None:
        adapter.remove()
        _hand_on()


@contextmanager
def patched(framework: str | Adapter = "book", *, reference: bool = False) -> Iterator[None]:
    """Patch a framework in a ``with`` block, and leave it as it was before.

    Parameters
    ----------
    framework : {"book", "sklearn", "dezero"} or adapter
        As `patch` takes it.
    reference : bool, default False
        As `patch` takes it.
    """
    before = _patched.get(_adapter(framework).name)
    patch(framework, reference=reference)
    try:
        yield
    finally:
        if before is None:
            unpatch(framework)
        else:
            _install(*before)


def patch_all(
    frameworks: Iterable[tuple[str | bytes, bool]], counter: Counter | None = None
) -> list[Adapter]:
    """Patch each of these frameworks as soon as it is imported, whether it is installed or not.

    Parameters
    ----------
    frameworks : iterable of tuple
        Names, and whether to take the rules in plain NumPy. Instead of a name, bytes are an
        adapter that was pickled.
    counter : Counter, optional
        What counts the steps.

    Returns
    -------
    list of Adapter
        Theirs.
    """
    adapters = []
    for framework, reference in frameworks:
        if isinstance(framework, str):
            adapters.append(_adapter(framework))
        else:
            adapters.append(pickle.loads(framework))
        _install(adapters[-1], reference, counter)
    return adapters


def _adapter(framework: str | Adapter) -> Adapter:
    if isinstance(framework, Adapter):
        return framework
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {FRAMEWORKS}, got {framework!r}")
    found: Adapter = import_module(f"{__name__}.{framework}").adapter
    return found


def _install(adapter: Adapter, reference: bool, counter: Counter | None = None) -> None:
    adapter.install(reference, counter)
    _patched[adapter.name] = adapter, reference
    _hand_on()


def _hand_on() -> None:
    """Have children patched as this process is now."""
    if not _patched:
        hand_nothing_on()
        return
    frameworks: list[tuple[str | bytes, bool]] = []
    for name, (adapter, reference) in _patched.items():
        if name in FRAMEWORKS:
            frameworks.append((name, reference))
        elif adapter.is_importable:
            frameworks.append((pickle.dumps(adapter), reference))
    hand_on(patch_all, frameworks=frameworks)
