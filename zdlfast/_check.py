"""``python -m zdlfast --check``: the bits and the speed of zdlfast on this machine."""

import platform
from time import perf_counter

import numpy as np

import zdlfast
import zdlfast._engine as _engine
from zdlfast import reference
from zdlfast._optimizer import Optimizer
from zdlfast._rules import PUBLIC, Rule

DTYPES = (np.float32, np.float64)
# Around the widths of instructions and blocks, and one that threads share.
SIZES = (1, 7, 65, 1001, 131_001)
TIMED_SIZE = 100_000
TIMED_ROUNDS = 30


def main() -> int:
    """Print how zdlfast was built, whether its bits are NumPy's, and how fast it is.

    Returns
    -------
    int
        The exit status: 1 if a bit differs.
    """
    info = zdlfast.build_info()
    print(f"zdlfast {info['version']}, NumPy {np.__version__}, Python {platform.python_version()}")
    print(f"  instruction set  {info['simd']}")
    print(f"  threads          {info['threads']}")
    print(f"  compiler         {info['compiler']}")

    simds = _engine.available()
    print("\nThe same bits as plain NumPy, on each instruction set of this CPU?")
    width = max(map(len, PUBLIC))
    print("  " + " ".join(f"{word:<9}" for word in (" " * width, "", *simds)).rstrip())
    equal = True
    for rule in PUBLIC.values():
        for dtype in DTYPES:
            different = differing(rule, dtype)
            equal = equal and not different
            words = [
                rule.name.ljust(width),
                dtype.__name__,
                *("NO" if s in different else "yes" for s in simds),
            ]
            print("  " + " ".join(f"{word:<9}" for word in words).rstrip())

    print(f"\nOne update of {TIMED_SIZE:,} parameters by Adam, in milliseconds")
    print("            zdlfast    NumPy")
    for dtype in DTYPES:
        fast, numpy = times(dtype)
        print(
            f"  {dtype.__name__}   {fast * 1e3:7.3f}  {numpy * 1e3:7.3f}"
            f"    {numpy / fast:.1f} times as fast"
        )

    if equal:
        print("\nEvery bit is equal: training gives the same numbers as with NumPy.")
    else:
        print("\nNOT EQUAL: where it says NO, zdlfast computes something else than NumPy here.")
    return 0 if equal else 1


def differing(rule: Rule, dtype: type[np.floating]) -> list[str]:
    """The instruction sets on which an optimizer leaves other bits than its twin in NumPy.

    Parameters
    ----------
    rule : Rule
        Its two classes are compared.
    dtype : type
        That of the arrays.

    Returns
    -------
    list of str
        Names of instruction sets: none if all is well.
    """
    rng = np.random.default_rng(0)
    # Gradients of all magnitudes, small enough for their squares to stay finite.
    params, *grads = (
        {size: (scale * rng.standard_normal(size)).astype(dtype) for size in SIZES}
        for scale in (1.0, 1e-12, 1.0, 1e12)
    )

    def trained(optimizer: Optimizer) -> list[bytes]:
        own = {size: array.copy() for size, array in params.items()}
        for gradients in grads:
            optimizer.update(own, gradients)
        slots = (getattr(optimizer, slot) for slot in rule.slots)
        return [array.tobytes() for slot in (own, *slots) for array in slot.values()]

    expected = trained(rule.twin())
    before = _engine.in_use()
    different = []
    try:
        for simd in _engine.available():
            _engine.use(simd)
            if trained(rule.fast()) != expected:
                different.append(simd)
    finally:
        if before is not None:
            _engine.use(before)
    return different


def times(dtype: type[np.floating]) -> tuple[float, float]:
    """Seconds of one update by zdlfast's Adam and by its twin: medians, taken in turns."""
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal(TIMED_SIZE).astype(dtype)}
    grads = {"W": rng.standard_normal(TIMED_SIZE).astype(dtype)}
    optimizers: tuple[Optimizer, Optimizer] = zdlfast.Adam(), reference.Adam()
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(TIMED_ROUNDS):
        for optimizer, taken in zip(optimizers, seconds, strict=True):
            start = perf_counter()
            optimizer.update(params, grads)
            taken.append(perf_counter() - start)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))
