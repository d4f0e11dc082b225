"""Nothing leaks: neither references nor memory, in updates that work and in those that fail."""

import gc
import sys
import tracemalloc

import numpy as np
import pytest

import zdlfast

UPDATES = 10_000


def cases(rng):
    values = rng.standard_normal((4, 70))
    return {
        "dict": ({"W": values[0], "b": values[1]}, {"W": values[2], "b": values[3]}, None),
        "list": ([values[0], values[1]], [values[2], values[3]], None),
        "strided": ({"W": values[0][::2]}, {"W": values[1][::2]}, None),
        "number": ({"x": 1.0}, {"x": 0.5}, None),
        "by NumPy": ({"W": values[0].astype(np.float16)}, {"W": values[1]}, None),
        "no gradient": ({"W": values[0], "b": values[1]}, {"W": values[2]}, KeyError),
        "wrong shape": (
            {"W": values[0], "b": values[1]},
            {"W": values[2], "b": np.ones(3)},
            ValueError,
        ),
        "wrong type": ({"W": values[0]}, {"W": "text"}, TypeError),
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
                assert type(raised) is error  # noqa: PT017 - thousands of times

    # Caches fill up first, of the interpreter's and of tracing itself.
    tracemalloc.start()
    update(1000)
    gc.collect()
    counts = [sys.getrefcount(thing) for thing in objects]
    before = tracemalloc.get_traced_memory()[0]
    update(UPDATES if error is None else UPDATES // 10)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    now = [sys.getrefcount(thing) for thing in objects]
    # A parameter that is a number is another one now.
    assert all(
        a == b or isinstance(x, float) for a, b, x in zip(now, counts, objects, strict=True)
    )
    assert grown < 5_000


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
