"""Shared memory: what the NumPy twin gives, key after key, operation after operation."""

import numpy as np
import pytest
from table import assert_same_run

pytestmark = pytest.mark.each_kind


def train_both(rule, make, steps=3):
    """`make` gives (params, grads) afresh, sharing memory in the same way each time."""
    (ours, our_grads), (theirs, their_grads) = make(), make()
    fast, numpy = rule.fast(lr=0.1), rule.numpy(lr=0.1)
    for _ in range(steps):
        fast.update(ours, our_grads)
        numpy.update(theirs, their_grads)
    assert_same_run(fast, numpy, ours, theirs)


def wave(n, dtype=np.float64):
    return np.sin(np.arange(1, n + 1)).astype(dtype)


def tied(dtype):
    W = wave(100, dtype)
    return {"a": W, "b": W}, {"a": wave(100, dtype), "b": wave(100, dtype)[::-1].copy()}


def tied_transposed(dtype):
    W = wave(120, dtype).reshape(10, 12)
    return (
        {"in": W, "out": W.T},
        {"in": wave(120, dtype).reshape(10, 12), "out": wave(120, dtype).reshape(12, 10)},
    )


def views_that_overlap(dtype):
    buffer = wave(1000, dtype)
    params = {"a": buffer[:600], "b": buffer[400:], "c": buffer[::2], "d": buffer[::-3]}
    return params, {k: wave(p.size, dtype) for k, p in params.items()}


def gradient_is_parameter(dtype):
    W, b = wave(70, dtype), wave(9, dtype)
    return {"W": W, "b": b}, {"W": W, "b": wave(9, dtype)}


def gradient_is_shifted_parameter(dtype):
    buffer = wave(80, dtype)
    return {"W": buffer[:70]}, {"W": buffer[10:]}


def gradient_is_reversed_parameter(dtype):
    buffer = wave(80, dtype)
    return {"W": buffer}, {"W": buffer[::-1]}


def gradient_is_another_parameter(dtype):
    a, b = wave(70, dtype), wave(70, dtype) + 1
    return {"a": a, "b": b}, {"a": b, "b": a}


def interleaved(dtype):
    buffer = wave(200, dtype)
    return {"even": buffer[::2], "odd": buffer[1::2]}, {
        "even": buffer[1::2],
        "odd": wave(100, dtype),
    }


def broadcast_over_itself(dtype):
    buffer = wave(12, dtype)
    W = np.lib.stride_tricks.as_strided(buffer, (3, 12), (0, buffer.itemsize), writeable=True)
    return {"W": W}, {"W": wave(36, dtype).reshape(3, 12)}


SHARED = [
    tied, tied_transposed, views_that_overlap, gradient_is_parameter,
    gradient_is_shifted_parameter, gradient_is_reversed_parameter, gradient_is_another_parameter,
    interleaved, broadcast_over_itself,
]  # fmt: skip


@pytest.mark.parametrize("shared", SHARED, ids=lambda f: f.__name__)
def test_shared_memory_gives_what_numpy_gives(rule, dtype, simd, shared):
    train_both(rule, lambda: shared(dtype))


@pytest.mark.parametrize("shared", SHARED, ids=lambda f: f.__name__)
def test_shared_memory_beside_entries_that_only_numpy_takes(rule, dtype, shared):
    def make():
        params, grads = shared(dtype)
        params = {"first": 1.0, **params, "half": np.ones(3, np.float16)}
        return params, {"first": 0.5, "half": np.ones(3, np.float16), **grads}

    train_both(rule, make)


def test_an_integer_gradient_of_a_tied_parameter_keeps_the_order(rule):
    def make():
        W = wave(50)
        return {"a": W, "b": W[10:]}, {"a": wave(50), "b": np.arange(40)}

    train_both(rule, make)


def test_one_gradient_serves_two_parameters(rule, dtype):
    def make():
        g = wave(50, dtype)
        return {"a": wave(50, dtype), "b": wave(50, dtype)}, {"a": g, "b": g}

    train_both(rule, make)


def test_state_of_a_number_that_is_in_a_parameter_gives_what_numpy_gives(rule):
    results = []
    for cls in (rule.fast, rule.numpy):
        optimizer, params = cls(lr=0.1), {"W": wave(40), "x": 1.0, "b": wave(9)}
        grads = {"W": wave(40), "x": 0.5, "b": wave(9)}
        optimizer.update(params, grads)
        for place, slot in enumerate(rule.slots):
            getattr(optimizer, slot)["x"] = params["W"][place : place + 1].reshape(())
        for _ in range(3):
            optimizer.update(params, grads)
        results.append((optimizer, params))
    (fast, ours), (numpy, theirs) = results
    assert_same_run(fast, numpy, ours, theirs)


def test_state_that_is_shared_between_keys_gives_what_numpy_gives(rule, dtype):
    results = []
    for cls in (rule.fast, rule.numpy):
        optimizer, shared = cls(), {}
        params = {"a": wave(40, dtype), "b": wave(40, dtype)}
        for slot in rule.slots:
            shared[slot] = np.zeros(40, dtype)
            setattr(optimizer, slot, dict.fromkeys(params, shared[slot]))
        for _ in range(3):
            optimizer.update(params, {"a": wave(40, dtype), "b": -wave(40, dtype)})
        for slot in rule.slots:
            assert all(array is shared[slot] for array in getattr(optimizer, slot).values())
        results.append((optimizer, params))
    (fast, ours), (numpy, theirs) = results
    assert_same_run(fast, numpy, ours, theirs)
