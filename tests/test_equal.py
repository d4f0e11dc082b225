"""The promise: every bit of parameters and state equals the NumPy twin's."""

import copy

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, copies

from zdlfast import _engine

# Around every width of 2 to 16 elements and twice and four times as much, and beyond blocks.
SIZES = [*range(71), 127, 128, 129, 511, 512, 513, 1000, 1023, 1025, 4099]
STEPS = 8  # RAdam rectifies from the sixth on


def learning_rate(step):
    return 0.1 / (1 + step)


def values(rng, n, dtype):
    """Of all magnitudes that training meets, zeros of both signs among them."""
    x = rng.standard_normal(n) * 10.0 ** rng.integers(-6, 3, n)
    x[rng.random(n) < 0.05] = 0.0
    x[rng.random(n) < 0.05] *= -1.0
    return x.astype(dtype)


def train_both(rule, params, gradients, simds, **options):
    """Run the same steps through both classes, on each instruction set, and compare every step.

    All start from what is in `params`, and leave there what the last one made of it.
    """
    numpy, start, expected = rule.numpy(**options), copies(params), copies(params)
    steps = []
    for step, grads in enumerate(gradients):
        numpy.lr = learning_rate(step)
        numpy.update(expected, copies(grads))
        steps.append(copy.deepcopy((numpy, expected)))
    before = [copies(grads) for grads in gradients]
    for simd in simds:
        _engine.use(simd)
        fast = rule.fast(**options)
        for key, value in start.items():
            params[key][...] = value
        for step, grads in enumerate(gradients):
            fast.lr = learning_rate(step)
            fast.update(params, grads)
            assert_same_run(fast, steps[step][0], params, steps[step][1], simd)
            for key in grads:
                assert_same_bits(grads[key], before[step][key], f"grads[{key!r}] was changed")


def test_every_size_gives_the_bits_of_numpy(rule, dtype, simds, rng):
    params = {f"W{n}": values(rng, n, dtype) for n in SIZES}
    gradients = [{k: values(rng, p.size, dtype) for k, p in params.items()} for _ in range(STEPS)]
    train_both(rule, params, gradients, simds)
    assert np.abs(params["W70"]).max() > 0


def test_large_arrays_give_the_bits_of_numpy(rule, dtype, simds, rng):
    """tests/test_threads.py has larger ones, with one rule of each kind."""
    n = 100_003
    params = {"W": values(rng, n, dtype)}
    train_both(rule, params, [{"W": values(rng, n, dtype)} for _ in range(2)], simds)


def test_every_start_within_a_cache_line_gives_the_bits_of_numpy(rule, dtype, simds, rng):
    def at(offset, data):
        buffer = np.zeros(data.size + 16, dtype)
        buffer[offset : offset + data.size] = data
        return buffer[offset : offset + data.size]

    params, shifts = {}, {}
    for offset in range(16):
        for n in (1, 17, 70, 1031):
            params[f"{offset}+{n}"] = at(offset, values(rng, n, dtype))
            shifts[f"{offset}+{n}"] = (5 * offset + n) % 16
    gradients = [
        {k: at(shifts[k], values(rng, p.size, dtype)) for k, p in params.items()}
        for _ in range(STEPS)
    ]
    train_both(rule, params, gradients, simds)


def test_all_options_reach_the_kernels(rule, dtype, simds, rng):
    params = {"W": values(rng, 100, dtype)}
    gradients = [{"W": values(rng, 100, dtype)} for _ in range(STEPS)]
    default = {"W": params["W"].copy()}
    train_both(rule, default, gradients, simds)
    train_both(rule, params, gradients, simds, **rule.options)
    if len(rule.options) > 1:
        assert not np.array_equal(params["W"], default["W"])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, of inf and NaN
def test_special_values_give_the_results_of_numpy(rule, dtype, simds):
    info = np.finfo(dtype)
    special = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, info.max, -info.max, info.tiny, -info.tiny,
         info.smallest_subnormal, -info.smallest_subnormal, 1.0, -1.0, info.eps, 1e-20, 1e20],
        dtype,
    )  # fmt: skip
    params = {"W": np.repeat(special, special.size)}
    grads = {"W": np.tile(special, special.size)}
    train_both(rule, params, [grads, {"W": grads["W"][::-1].copy()}, grads], simds)


def test_dead_gradients_leave_the_subnormals_of_numpy(rule, dtype, simds):
    params = {"W": np.full(37, 0.5, dtype)}
    alive = {"W": np.full(37, np.finfo(dtype).tiny * 8, dtype)}
    dead = {"W": np.zeros(37, dtype)}
    train_both(rule, params, [alive] + [dead] * 60, simds)


def test_all_instruction_sets_give_the_same_bits(rule, dtype, rng):
    start = values(rng, 1031, dtype)
    gradients = [values(rng, 1031, dtype) for _ in range(STEPS)]
    results = []
    before = _engine.in_use()
    try:
        for simd in _engine.available():
            _engine.use(simd)
            optimizer, params = rule.fast(), {"W": start.copy()}
            for gradient in gradients:
                optimizer.update(params, {"W": gradient})
            results.append(params["W"])
    finally:
        _engine.use(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("decoupled", [False, True])
def test_the_options_of_every_rule_give_the_bits_of_numpy(rule, dtype, rng, decoupled):
    """tests/test_stages.py has each of them alone, with one rule of each kind."""
    options = {
        "weight_decay": 0.3,
        "decoupled": decoupled,
        "maximize": True,
        "clip_norm": 9.0,
        "clip_value": 0.1,
        "flush_subnormals": True,
        "overrides": {"b": {"weight_decay": 0.0}},
    }
    options = {**rule.options, **options}
    fast, numpy = rule.fast(**options), rule.numpy(**options)
    ours = {"W": rng.standard_normal((70, 33)).astype(dtype), "b": np.ones(17, dtype)}
    theirs = {key: value.copy() for key, value in ours.items()}
    for _ in range(7):
        grads = {key: rng.standard_normal(value.shape) for key, value in ours.items()}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert fast.last == numpy.last
        assert_same_run(fast, numpy, ours, theirs)
