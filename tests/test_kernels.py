"""The kernels by themselves, called through their table as the engine calls them."""

import ctypes
import itertools
import math
from fractions import Fraction
from pathlib import Path

import golden
import numpy as np
import pytest
from table import OPTIONS, assert_same_bits

from zdlfast import _engine, _rules

FOLDER = Path(_engine.__file__).parent
SCALED = 4
# Around the widths of all instructions, and what a loop leaves over.
N = 67
DTYPES = (np.float32, np.float64)
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0]


@pytest.fixture(params=_engine.available())
def kernels(request):
    """All that one instruction set's module hands over."""
    (path,) = (
        f for f in FOLDER.glob(f"_kernels_{request.param}.*") if f.suffix in (".so", ".pyd")
    )
    found, module = golden.load(path)
    yield found
    del module


@pytest.fixture
def rules(kernels):
    return golden.by_name(kernels)


# Of the parameter with its state, and of the gradient.
PAIRS = list(itertools.product(DTYPES, DTYPES))


def values(rng, dtype, n=N):
    """Ordinary values and, at changing places, zeros of both signs, infinities and subnormals."""
    tiny = np.finfo(dtype).smallest_subnormal
    drawn = rng.standard_normal(n).astype(dtype)
    special = np.array([*SPECIAL, tiny, -tiny, 3 * tiny, np.finfo(dtype).max], dtype)
    places = rng.permutation(n)[: 2 * len(special)]
    drawn[places] = np.tile(special, 2)
    return drawn


def step(kernel, options, arrays, dtypes, scaled=False, g_scale=1.0, p_decay=1.0, flush=0.0):
    """What a kernel makes of copies of these arrays: the parameter, then the state."""
    wide, grad_wide = (dtype is np.float64 for dtype in dtypes)
    kind = golden.PARAM_DOUBLE * wide + golden.GRAD_DOUBLE * grad_wide + SCALED * scaled
    copies = [array.copy() for array in arrays]
    given = [np.ctypeslib.as_ctypes(array) for array in copies]
    numbers = (ctypes.c_double * golden.MAX_NUMBERS)()
    golden.run(kernel, options, 3, given, kind, numbers, (g_scale, p_decay, flush))
    assert_same_bits(copies[1], arrays[1])  # a gradient is only read
    return copies[:1] + copies[2:]


def assert_same(found, expected, dtypes, what=""):
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        names = " ".join(dtype.__name__ for dtype in dtypes)
        assert_same_bits(a, b, f"array {i}, {names} {what}")


def drawn(rng, kernel, dtypes):
    """Arrays for a kernel; state that is a mean of squares may not be negative."""
    dtype, grad_dtype = dtypes
    state = [np.abs(values(rng, dtype)) for _ in range(kernel.slots)]
    return [values(rng, dtype), values(rng, grad_dtype), *state]


def with_array(arrays, i, array):
    return [*arrays[:i], array, *arrays[i + 1 :]]


def times(array, scale):
    """As NumPy multiplies: a number is rounded to the array's dtype; 0 by infinity is NaN."""
    with np.errstate(invalid="ignore"):
        return array * array.dtype.type(scale)


@pytest.fixture
def kernel(rules, rule):
    return rules[_rules.RULES[rule.name].loop]


@pytest.fixture
def options(rule):
    own_decay = [0.1] if _rules.RULES[rule.name].own_decay else []
    return [*OPTIONS[rule.name].values(), *own_decay]


def test_a_table_has_every_rule_with_its_options_and_slots(rules):
    for rule in _rules.RULES.values():
        row = rules[rule.loop]
        options = len(rule.options) + rule.own_decay
        expected = (options, len(rule.slots), len(rule.numbers))
        assert (row.options, row.slots, row.numbers) == expected
        # What the benchmark compares it with.
        assert rules[f"stream_{len(rule.slots)}"].slots == len(rule.slots)


def test_neutral_scalars_give_the_bits_of_the_loop_without_them(kernel, options, rng):
    for dtypes in PAIRS * 5:
        arrays = drawn(rng, kernel, dtypes)
        plain = step(kernel, options, arrays, dtypes)
        assert_same(step(kernel, options, arrays, dtypes, scaled=True), plain, dtypes)


def test_a_scaled_gradient_is_the_gradient_multiplied_before(kernel, options, rng):
    for dtypes, scale in itertools.product(PAIRS, (-1.0, 0.5, 0.1, 0.0)):
        arrays = drawn(rng, kernel, dtypes)
        multiplied = times(arrays[1], scale)
        expected = step(kernel, options, with_array(arrays, 1, multiplied), dtypes)
        found = step(kernel, options, arrays, dtypes, True, g_scale=scale)
        assert_same(found, expected, dtypes, f"times {scale}")
        if scale == -1.0:
            assert_same_bits(multiplied, -arrays[1])


def test_a_decayed_parameter_is_the_parameter_multiplied_before(kernel, options, rng):
    for dtypes, decay in itertools.product(PAIRS, (0.5, 0.1, -1.0, 0.0)):
        arrays = drawn(rng, kernel, dtypes)
        multiplied = times(arrays[0], decay)
        expected = step(kernel, options, with_array(arrays, 0, multiplied), dtypes)
        found = step(kernel, options, arrays, dtypes, True, p_decay=decay)
        assert_same(found, expected, dtypes, f"times {decay}")


def test_subnormal_state_is_flushed_to_zero_after_the_step(kernel, options, rng):
    for dtypes in PAIRS * 5:
        smallest = np.finfo(dtypes[0]).smallest_normal
        arrays = drawn(rng, kernel, dtypes)
        for i in range(2, len(arrays)):
            arrays[i][::3] = smallest * rng.uniform(0, 4, arrays[i][::3].shape)
        arrays[1][::3] = 0.0
        kept = step(kernel, options, arrays, dtypes, scaled=True)
        expected = kept[:1] + [np.where(abs(a) < smallest, a.dtype.type(0), a) for a in kept[1:]]
        assert_same(step(kernel, options, arrays, dtypes, True, flush=1.0), expected, dtypes)


def test_every_length_from_none_on(kernel, options, rng):
    """One element by itself is what it is among others, and nothing past the end is touched."""
    scales = {"g_scale": 0.5, "p_decay": 0.5}
    for dtypes in PAIRS:
        arrays = drawn(rng, kernel, dtypes)
        for scaled, given in ((False, {}), (True, scales)):
            whole = step(kernel, options, arrays, dtypes, scaled, **given)
            for n in range(N):
                parts = [array[:n] for array in arrays]
                found = step(kernel, options, parts, dtypes, scaled, **given)
                assert_same(found, [array[:n] for array in whole], dtypes, f"{n} elements")


# ------------------------------------------------------------------ the scalars of a step


def scalars_of(kernel, options, t, numbers=()):
    found = (ctypes.c_double * golden.MAX_SCALARS)(*[math.nan] * golden.MAX_SCALARS)
    given = (ctypes.c_double * golden.MAX_SCALARS)(*options)
    before = (ctypes.c_double * golden.MAX_NUMBERS)(*numbers)
    kernel.scalars(given, float(t), before, ctypes.addressof(found))
    return [scalar for scalar in found if not math.isnan(scalar)], list(before)


def rounded(fraction):
    """Python divides whole numbers to the nearest float."""
    return fraction.numerator / fraction.denominator


def exact(name, o):
    """A rule's scalars, computed in fractions, rounded after each operation; None for roots."""
    lr, one = Fraction(o["lr"]), Fraction(1)
    rate1, rate2 = (rounded(one - Fraction(o.get(beta, 0))) for beta in ("beta1", "beta2"))
    match name:
        case "SGD":
            return [o["lr"]]
        case "Momentum":
            return [o["momentum"], o["lr"]]
        case "Nesterov" | "NesterovBook2":
            mu = Fraction(o["momentum"])
            ahead = rounded(Fraction(rounded(one + mu)) * lr)
            return [rounded(mu * mu), ahead, o["momentum"], o["lr"]]
        case "SklearnNesterov":
            return [o["momentum"], o["lr"]]
        case "SklearnAdam":
            return [o["beta1"], rate1, o["beta2"], rate2, None, o["eps"]]
        case "AdaGrad":
            return [o["lr"], o["eps"]]
        case "RMSprop" | "AdaDelta":
            rate = rounded(one - Fraction(o["decay_rate"]))
            return [o["decay_rate"], rate, o["lr"], o["eps"]]
        case "Adam" | "AMSGrad":
            return [rate1, rate2, None, o["eps"]]
        case "AdamW":
            return [rate1, rate2, None, None]
        case "NAdam" | "TorchNAdam":
            return [rate1, rate2, None, None, None]
        case "RAdam" | "AdaBelief":
            return [rate1, rate2, None, o["eps"], None]
        case "Adamax":
            return [rate1, o["beta2"], None, o["eps"]]
        case "AdaBound" | "AMSBound":
            return [rate1, rate2, None, o["eps"], None, None]
        case "Lion":
            return [o["beta1"], rate1, rate2, o["lr"]]
        case "ADOPT":
            decayed = rounded(one - Fraction(rounded(lr * Fraction(o["weight_decay"]))))
            return [rate1, rate2, o["lr"], o["eps"], None, decayed]
        case "ScheduleFreeAdamW":
            return [rate2, None, None, o["weight_decay"], None, None, None, None]
        case "TorchMomentum" | "TorchNesterov":  # None: the first step is another one
            return [o["momentum"], None, o["lr"]]
        case "TorchAdagrad":
            return [None, o["eps"]]
        case _ if name.startswith("TorchRMSprop"):
            momentum = [o["momentum"]] if name.endswith("Momentum") else []
            return [o["alpha"], rounded(one - Fraction(o["alpha"])), o["lr"], o["eps"], *momentum]


def random_options(rule, rng):
    row = _rules.RULES[rule.name]
    drawn = {
        name: float(rng.uniform(0.5, 1) if bound == _rules.FRACTION else 10 ** rng.uniform(-9, 2))
        for name, bound in row.options.items()
    }
    if row.own_decay:
        drawn["weight_decay"] = float(rng.uniform(0, 1))
    # As powers of anything, others would be infinite.
    return drawn | {
        name: min(drawn[name], 3.0) for name in ("r", "weight_lr_power") if name in drawn
    }


def test_scalars_are_exact_but_for_powers_and_roots(rule, kernel, rng):
    for t in range(1, 300):
        options = random_options(rule, rng)
        found, _ = scalars_of(kernel, options.values(), t)
        for ours, expected in zip(found, exact(rule.name, options), strict=True):
            assert expected is None or ours == expected


def test_scalars_and_numbers_are_those_of_the_twin(rule, kernel, rng):
    """Powers too: they are the C library's in both."""
    for t in [*range(1, 400), 10**5, 10**7, 2**53 - 1]:
        options = random_options(rule, rng)
        twin = rule.numpy(**options, decoupled=True)
        if hasattr(twin, "iter"):
            twin.iter = t - 1
        numbers = [rng.choice([0.0, rng.uniform(0, 1)]) for _ in twin._numbers]
        for name, number in zip(twin._numbers, numbers, strict=True):
            setattr(twin, name, number)
        found, after = scalars_of(kernel, options.values(), t, numbers)
        assert found == list(twin._scalars())
        assert len(found) == kernel.count
        assert after[: len(numbers)] == list(twin._next_numbers())


def step_size(o, power):
    return o["lr"] * math.sqrt(1.0 - power(o["beta2"])) / (1.0 - power(o["beta1"]))


def test_the_step_size_of_adam_hangs_on_the_last_bit_of_a_power(rules, rng):
    """The one number that another C library may compute otherwise, and by no more than that."""
    for t in [*range(1, 200), 1000, 1999]:
        options = {"lr": 0.001, "beta1": rng.uniform(0.5, 1), "beta2": rng.uniform(0.9, 1)}
        around = {}
        for beta in (options["beta1"], options["beta2"]):
            nearest = rounded(Fraction(beta) ** t)
            around[beta] = [nearest, math.nextafter(nearest, 0), math.nextafter(nearest, 1)]
            assert beta**t in around[beta]
        possible = {
            step_size(options, dict(zip(around, powers, strict=True)).__getitem__)
            for powers in itertools.product(*around.values())
        }
        found = scalars_of(rules["adam"], [*options.values(), 1e-7], t)[0][2]
        assert found in possible


def test_with_exact_powers_the_step_size_of_adam_is_exact(rules):
    """With these options the golden hashes are the same with every C library."""
    lr, beta1, beta2, eps = golden.OPTIONS["adam"]
    for t in range(1, golden.STEPS + 1):
        found = scalars_of(rules["adam"], [lr, beta1, beta2, eps], t)[0][2]
        powers = {beta: rounded(Fraction(beta) ** t) for beta in (beta1, beta2)}
        assert all(Fraction(power) == Fraction(beta) ** t for beta, power in powers.items())
        assert found == step_size({"lr": lr, "beta1": beta1, "beta2": beta2}, powers.get)


# ------------------------------------------------------------------ gradients


def test_squares_are_summed_lane_by_lane_in_double_precision(kernels, rng):
    for dtype, n in itertools.product(DTYPES, (*range(70), 4095, 4096)):
        grad = values(rng, dtype, max(n, N))[:n]
        rows = np.zeros((n // 16 + 1, 16))
        rows.flat[:n] = grad.astype(float)
        with np.errstate(over="ignore"):
            lanes = np.add.reduce(rows * rows, axis=0)
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        found = kernels.square_sum(dtype is np.float64, grad.ctypes.data, n)
        assert_same_bits(found, lanes[0], f"{n} elements of {dtype.__name__}")


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize(
    ("g_scale", "clip"), [(1.0, np.inf), (-0.7, np.inf), (1.0, 0.5), (0.1, 1)]
)
def test_a_staged_gradient_is_scaled_then_clipped_then_decayed(kernels, rng, g_scale, clip, decay):
    for dtypes in PAIRS:
        param, grad = values(rng, dtypes[0]), values(rng, dtypes[1])
        with np.errstate(invalid="ignore", over="ignore"):
            expected = np.clip(g_scale * grad, -clip, clip)
            if decay:
                expected = expected + decay * param
        found = np.empty_like(expected)
        wide, grad_wide = (dtype is np.float64 for dtype in dtypes)
        kind = golden.PARAM_DOUBLE * wide + golden.GRAD_DOUBLE * grad_wide
        pointers = [array.ctypes.data for array in (param, grad, found)]
        kernels.stage(kind, *pointers, N, g_scale, clip, decay)
        assert_same([found], [expected], dtypes)
