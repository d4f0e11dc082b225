"""Nothing leaks: neither references nor memory, in updates that work and in those that fail."""

import ctypes
import gc
import sys

import numpy as np
import pytest

import zdlfast

pytestmark = pytest.mark.each_kind

UPDATES, ROUNDS = 200, 5  # updates in a round


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Each collection looks at what is made here, and not at all that the tests before left."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Malloc(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated():
    """Python's blocks, and the bytes of C where the library tells them."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, TypeError, OSError):
        return sys.getallocatedblocks(), 0
    mallinfo.restype = Malloc
    info = mallinfo()
    return sys.getallocatedblocks(), info.uordblks + info.hblkhd


def cases(rng):
    # Keys that nobody else has: others, and other threads, hold a "W" of their own.
    values = rng.standard_normal((4, 70))
    return {
        "dict": (
            {"its W": values[0], "its b": values[1]},
            {"its W": values[2], "its b": values[3]},
            None,
        ),
        "list": ([values[0], values[1]], [values[2], values[3]], None),
        "strided": ({"its W": values[0][::2]}, {"its W": values[1][::2]}, None),
        "number": ({"its x": 1.0}, {"its x": 0.5}, None),
        "by NumPy": ({"its W": values[0].astype(np.float16)}, {"its W": values[1]}, None),
        "no gradient": ({"its W": values[0], "its b": values[1]}, {"its W": values[2]}, KeyError),
        "wrong shape": (
            {"its W": values[0], "its b": values[1]},
            {"its W": values[2], "its b": np.ones(3)},
            ValueError,
        ),
        "wrong type": ({"its W": values[0]}, {"its W": "text"}, TypeError),
    }


@pytest.mark.parametrize("case", list(cases(np.random.default_rng(0))))
def test_updates_leak_nothing(rule, rng, case):
    params, grads, error = cases(rng)[case]
    optimizer = rule.fast()
    keys = params if isinstance(params, dict) else range(len(params))
    objects = [
        *(params[key] for key in keys),
        *(grads if isinstance(grads, list) else grads.values()),
    ]
    objects += [key for key in keys if isinstance(key, str)]

    def update(times):
        for _ in range(times):
            try:
                optimizer.update(params, grads)
            except (KeyError, ValueError, TypeError) as raised:
                assert type(raised) is error  # noqa: PT017 - many times

    # A leak grows in every round; caches of the interpreter grow now and then.
    update(UPDATES)
    gc.collect()
    counts = [sys.getrefcount(thing) for thing in objects]
    rounds = []
    for _ in range(ROUNDS):
        gc.collect()
        before = allocated()
        update(UPDATES)
        gc.collect()
        rounds.append([now - then for now, then in zip(allocated(), before, strict=True)])
    now = [sys.getrefcount(thing) for thing in objects]
    # A parameter that is a number is another one now.
    assert all(
        a == b or isinstance(x, float) for a, b, x in zip(now, counts, objects, strict=True)
    )
    blocks, memory = (min(grown) for grown in zip(*rounds, strict=True))
    assert blocks < 100
    assert memory < UPDATES  # not one byte an update


def test_state_is_let_go(rule):
    optimizer = rule.fast()
    optimizer.update({"W": np.ones(5)}, {"W": np.ones(5)})
    held = [getattr(optimizer, slot)["W"] for slot in rule.slots]
    before = [sys.getrefcount(array) for array in held]
    del optimizer
    gc.collect()
    assert [sys.getrefcount(array) for array in held] == [count - 1 for count in before]


def test_a_kernel_lets_go_of_the_optimizer():
    optimizer = zdlfast.Adam()
    before = sys.getrefcount(optimizer)
    for _ in range(1000):
        optimizer.update({"W": np.ones(5)}, {"W": np.ones(5)})
    assert sys.getrefcount(optimizer) == before
