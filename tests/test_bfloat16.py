"""Parameters and gradients of bfloat16: float32 in a rule, rounded when they are put back."""

import copy
import sys

import numpy as np
import pytest
from process import python
from table import (
    KINDS,
    assert_neither_start_nor_cuts_nor_threads_change_a_bit,
    assert_same_bits,
    assert_same_run,
    both,
    copies,
    kept,
    odd_beside_usual,
    tied_and_overlapping,
)

import zdlfast
from zdlfast import _bfloat16, _engine, reference
from zdlfast._encoded import EncodedState

bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)

SIZES = [0, 1, 31, 255, 256, 257, 511, 512, 513, 5000]
OPTIONS = [
    {},
    {"state_rounding": "stochastic", "state_seed": 3},
    {"state": "8bit", "state_min_size": 256},
    {"state": "8bit", "state_min_size": 0, "state_rounding": "stochastic"},
    {"state": "bfloat16", "state_min_size": 512},
]
DTYPES = {
    "both": (bfloat16, bfloat16),
    "parameter, float32": (bfloat16, "f"),
    "parameter, float64": (bfloat16, "d"),
    "gradient, float32": ("f", bfloat16),
    "gradient, float64": ("d", bfloat16),
}
CODES = np.arange(65536, dtype=np.uint16)


@pytest.fixture(params=OPTIONS, ids=lambda options: "-".join(map(str, options.values())) or "none")
def options(request):
    return request.param


@pytest.fixture(params=[zdlfast.Adam, reference.Adam], ids=["fast", "numpy"])
def make(request):
    return request.param


@pytest.fixture
def kernels_alone(monkeypatch):
    """Fail if an entry goes to NumPy."""

    def refuse(*args):
        raise AssertionError("NumPy was asked to update an array that kernels take")

    monkeypatch.setattr("zdlfast.optimizers.make_entry", refuse)


def draw(rng, dtype, sizes=SIZES):
    return {f"p{n}": rng.standard_normal(n).astype(dtype) for n in sizes}


def run_both(rule, options, params, gradients, simds=None):
    """Both twins from the same parameters, the kernels' on each of these instruction sets.

    Returns the kernels' optimizer and parameters.
    """
    numpy, theirs = both(rule, options)[1], copies(params)
    runs = [(simd, both(rule, options)[0], copies(params)) for simd in simds or [_engine.in_use()]]
    for step, grads in enumerate(gradients):
        numpy.update(theirs, grads)
        for simd, fast, ours in runs:
            _engine.use(simd)
            with zdlfast.threads(1 + step):
                fast.update(ours, grads)
            assert_same_run(fast, numpy, ours, theirs, simd)
            assert fast.last == numpy.last
    return fast, ours


# ------------------------------------------------------------------ the same bits


@pytest.mark.each_kind
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
def test_parameters_and_state_are_those_of_numpy(rule, options, simds, rng, dtypes):
    grads = [draw(rng, dtypes[1]) for _ in range(3)]
    run_both(rule, options, draw(rng, dtypes[0]), grads, simds)


def test_every_rule_takes_them(rule, options, rng):
    grads = [draw(rng, bfloat16, [700]) for _ in range(3)]
    _, params = run_both(rule, options, draw(rng, bfloat16, [700]), grads)
    assert params["p700"].dtype == bfloat16


ALL_OPTIONS = {
    "weight_decay": 0.3,
    "maximize": True,
    "clip_norm": 0.5,
    "clip_value": 0.1,
    "nonfinite": "skip",
    "flush_subnormals": True,
}


def test_all_tails_of_a_block(options, simds, rng):
    (adam,) = (row for row in KINDS if row.name == "Adam")
    sizes = range(514)
    grads = [draw(rng, bfloat16, sizes)]
    run_both(adam, {**options, "state_min_size": 0}, draw(rng, bfloat16, sizes), grads, simds)


@pytest.mark.each_kind
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
def test_beside_all_other_options(rule, rng, decoupled, dtypes):
    grads = [draw(rng, dtypes[1]) for _ in range(3)]
    options = {**ALL_OPTIONS, "decoupled": decoupled}
    run_both(rule, options, draw(rng, dtypes[0]), grads)


def layouts(rng, dtype, folder):
    """Arrays that lie in all ways in memory, with the same shapes."""
    buffer = np.zeros(2 * 3000 + 1, np.uint8)[1:].view(np.uint16)
    buffer = buffer.view(dtype) if dtype == bfloat16 else np.zeros(3000, dtype)
    file = folder / str(len(list(folder.iterdir())))
    memmap = np.memmap(file, np.uint16, "w+", shape=(600,))
    found = {
        "C": np.zeros((60, 50), dtype),
        "F": np.zeros((60, 50), dtype, order="F"),
        "transposed": np.zeros((50, 60), dtype).T,
        "strided": np.zeros((60, 150), dtype)[::2, ::-3],
        "broadcast axis": np.zeros((1, 700), dtype),
        "unaligned": buffer,
        "memmap": memmap.view(dtype) if dtype == bfloat16 else np.zeros(600, dtype),
        "0-d": np.zeros((), dtype),
    }
    for value in found.values():
        value[...] = rng.standard_normal(value.shape)
    return found


def test_a_0d_parameter_stays_in_float32(make):
    # Of a 0-d array NumPy's operators make a scalar, with which it would go on in float64.
    rule = zdlfast.Nesterov if make is zdlfast.Adam else reference.Nesterov
    optimizer, params = rule(lr=0.2, flush_subnormals=True), {"W": np.array(1.0, bfloat16)}
    optimizer.update(params, {"W": np.array(1.4e-39)})
    assert optimizer.v["W"] == 0


@pytest.mark.usefixtures("kernels_alone")
@pytest.mark.each_kind
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
def test_any_memory_layout_has_the_bits_of_contiguous_memory(rule, options, rng, dtypes, tmp_path):
    options = {**options, "clip_norm": 1.0}
    fast, numpy = both(rule, options)
    plain, _ = both(rule, options)
    ours = layouts(rng, dtypes[0], tmp_path)
    theirs = {key: np.array(value, order="K") for key, value in ours.items()}
    contiguous = {key: np.array(value, order="C") for key, value in ours.items()}
    for _ in range(3):
        grads = layouts(rng, dtypes[1], tmp_path)
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        plain.update(contiguous, {key: np.array(value) for key, value in grads.items()})
        assert_same_run(fast, numpy, ours, theirs)
        assert_same_run(plain, numpy, contiguous, theirs)


def test_neither_start_nor_cuts_nor_threads_change_a_bit(options, rng):
    values, grad = rng.standard_normal(9000), rng.standard_normal(9000).astype(bfloat16)
    assert_neither_start_nor_cuts_nor_threads_change_a_bit(
        lambda: zdlfast.Adam(**options, clip_norm=1.0), bfloat16, values, grad, every=5
    )


@pytest.mark.each_kind
def test_odd_entries_beside_usual_ones(rule, options, rng):
    def mixed():
        return {**odd_beside_usual(rng, 700), **draw(rng, bfloat16, [700])}

    fast, numpy = both(rule, options)
    ours = mixed()
    theirs = copies(ours) | {"number": ours["number"], "scalar": ours["scalar"]}
    for _ in range(3):
        grads = mixed() | {"p700": rng.integers(-3, 4, 700)}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.each_kind
def test_tied_and_overlapping_parameters_are_updated_in_turn(rule, options, rng):
    values = rng.standard_normal(900).astype(bfloat16)
    fast, numpy = both(rule, options)
    ours, theirs = tied_and_overlapping(values), tied_and_overlapping(values)
    for _ in range(3):
        grads = {key: rng.standard_normal(600).astype(bfloat16) for key in ours}
        # One that lies where an earlier entry is written.
        fast.update(ours, grads | {"overlaps": ours["a"]})
        numpy.update(theirs, grads | {"overlaps": theirs["a"]})
        assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.each_kind
def test_lists_and_frozen_parameters(rule, options, rng):
    frozen = {"overrides": {1: {"frozen": True}}}
    fast, numpy = both(rule, {**options, **frozen})
    ours = list(draw(rng, bfloat16, [600, 700, 3]).values())
    theirs = [value.copy() for value in ours]
    for step in range(3):
        if step == 2:
            fast.overrides = numpy.overrides = None
        grads = [rng.standard_normal(value.shape).astype(bfloat16) for value in ours]
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.parametrize("old", [None, "8bit", "bfloat16"])
@pytest.mark.parametrize("new", [None, "8bit", "bfloat16"])
@pytest.mark.each_kind
def test_the_format_of_state_may_change_during_a_training(rule, rng, old, new):
    fast, numpy = both(rule, {"state": old, "state_min_size": 100})
    ours = draw(rng, bfloat16, [50, 700]) | {
        "F": np.asfortranarray(rng.standard_normal((20, 30)).astype(bfloat16))
    }
    theirs = copies(ours)
    for step in range(4):
        if step == 2:
            fast.state = numpy.state = new
        grads = {key: rng.standard_normal(value.shape) for key, value in ours.items()}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)
    for slot in set(rule.slots) - set(fast._exact):
        formats = {k: getattr(v, "format", None) for k, v in getattr(fast, slot).items()}
        assert formats == {"p50": None, "p700": new, "F": new}


def test_schedule_free_moves_its_parameters_in_float32(rng):
    found = []
    for make in (zdlfast.ScheduleFreeAdamW, reference.ScheduleFreeAdamW):
        rng = np.random.default_rng(5)
        optimizer, params = make(lr=0.1), draw(rng, bfloat16, [700])
        for _ in range(3):
            optimizer.update(params, draw(rng, bfloat16, [700]))
        y = params["p700"].astype("f")
        optimizer.eval(params)
        x = y + np.float32(1.0 - 1.0 / 0.9) * optimizer.d["p700"].astype("f")
        assert_same_bits(params["p700"], x.astype(bfloat16))
        optimizer.train(params)
        found.append((optimizer, params))
    (fast, ours), (numpy, theirs) = found
    assert_same_run(fast, numpy, ours, theirs)


# ------------------------------------------------------------------ how numbers are rounded


@pytest.mark.usefixtures("simd")
def test_all_65536_values_are_read_and_written_as_they_are(options):
    for make in (zdlfast.Momentum, reference.Momentum):
        # A factor that is one in float32.
        optimizer = make(lr=0.0, momentum=np.nextafter(1.0, 0.0), **{**options, "state": None})
        params = {"W": np.zeros(65536, bfloat16)}
        optimizer.v = {"W": CODES.view(bfloat16).copy()}
        with np.errstate(invalid="ignore"):
            optimizer.update(params, {"W": np.zeros(65536, bfloat16)})
        assert_same_bits(optimizer.v["W"], CODES.view(bfloat16))
    for make in (zdlfast.SGD, reference.SGD):
        params = {"W": CODES.view(bfloat16).copy()}
        with np.errstate(invalid="ignore"):
            make(lr=0.0, **options).update(params, {"W": np.zeros_like(params["W"])})
        assert_same_bits(params["W"], CODES.view(bfloat16))


@pytest.mark.usefixtures("simd")
def test_parameters_are_rounded_to_the_nearest_as_ml_dtypes_does():
    # Around every value: the value, half of a step behind it, and what is next to that.
    bits = (CODES.astype(np.uint32) << 16)[:, None] + np.uint32([0, 1, 0x7FFF, 0x8000, 0x8001])
    grads = bits.view("f").reshape(-1)
    for make in (zdlfast.SGD, reference.SGD):
        params = {"W": np.zeros(grads.size, bfloat16)}
        with np.errstate(all="ignore"):
            make(lr=1.0, maximize=True).update(params, {"W": grads})
            expected = (np.float32(0) - -grads).astype(bfloat16)
        assert_same_bits(params["W"], expected)
    # By chance, to one of the two that are next to it.
    found = []
    for make in (zdlfast.SGD, reference.SGD):
        found.append({"W": np.zeros(grads.size, bfloat16)})
        with np.errstate(all="ignore"):
            make(lr=1.0, maximize=True, state_rounding="stochastic").update(
                found[-1], {"W": grads}
            )
    assert_same_bits(found[0]["W"], found[1]["W"])
    code = found[0]["W"].view(np.uint16).reshape(bits.shape)
    number = ~np.isnan(bits.view("f")) & (bits << 1 != 0)
    lower = (bits >> 16).astype(np.uint16)
    assert np.all((code == lower) | (code == lower + 1) | ~number)
    assert np.all(code[:, 0][number[:, 0]] == CODES[number[:, 0]])
    assert 0.4 < np.mean(code[:, 3] != CODES) < 0.6


def test_what_is_less_than_half_of_the_last_digit_is_lost_but_not_by_chance():
    for make in (zdlfast.SGD, reference.SGD):
        params = {"W": np.ones(4096, bfloat16)}
        grads = {"W": np.ones(4096, bfloat16)}
        nearest, chance = make(lr=2.0**-12), make(lr=2.0**-12, state_rounding="stochastic")
        for _ in range(64):
            nearest.update(params, grads)
        assert np.all(params["W"] == 1)
        for _ in range(64):
            chance.update(params, grads)
        # 64 steps of a sixteenth of the last digit: a deviation of 0.008 in each element.
        mean = params["W"].astype(float).mean()
        assert abs(mean - (1 - 2.0**-6)) < 4 * 0.008 / 4096**0.5


def test_the_state_of_a_running_mean_does_not_stand_still(make):
    optimizer, params = make(), {"W": np.zeros(4096, bfloat16)}
    for _ in range(200):
        optimizer.update(params, {"W": np.ones(4096, bfloat16)})
    expected = 1 - 0.999**200
    assert optimizer.v["W"].dtype == bfloat16
    assert abs(optimizer.v["W"].astype(float).mean() / expected - 1) < 0.01


def test_chance_depends_on_the_seed_and_is_another_one_in_each_step():
    def after(steps, seed):
        optimizer = zdlfast.SGD(lr=2.0**-10, state_rounding="stochastic", state_seed=seed)
        params, found = {"W": np.ones(2048, bfloat16)}, []
        for _ in range(steps):
            params["W"][...] = 1
            optimizer.update(params, {"W": np.ones(2048, bfloat16)})
            found.append(params["W"].copy())
        return found

    one, two = after(2, 0)
    assert np.array_equal(one, after(1, 0)[0])
    assert not np.array_equal(one, two)
    assert not np.array_equal(one, after(1, 1)[0])
    assert 0.2 < np.mean(one == 1) < 0.8


# ------------------------------------------------------------------ state, files, copies


def test_state_has_the_dtype_of_its_parameter_or_is_encoded(make):
    optimizer = make(
        state_min_size=100,
        overrides={"few": {"state": "8bit"}, "short": {"state": "8bit"}},
    )
    params = {"W": np.zeros(200, bfloat16), "few": np.zeros(200, bfloat16)}
    params["short"] = np.zeros(99, bfloat16)
    optimizer.update(params, {key: np.ones_like(value) for key, value in params.items()})
    for slot in (optimizer.m, optimizer.v):
        assert slot["W"].dtype == slot["short"].dtype == bfloat16
        assert isinstance(slot["few"], EncodedState)
        assert slot["few"].numpy().dtype == np.float32
    assert optimizer.state_nbytes == 2 * (400 + 198 + optimizer.m["few"].nbytes)


@pytest.mark.each_kind
def test_what_is_kept_goes_on_bit_for_bit(rule, options, rng, tmp_path):
    optimizer = rule.fast(**rule.options, **options)
    params = draw(rng, bfloat16, [3, 700])
    gradients = [draw(rng, bfloat16, [3, 700]) for _ in range(5)]
    for grads in gradients[:3]:
        optimizer.update(params, grads)
    others = [(other, copies(params)) for other in kept(optimizer, tmp_path)]
    for grads in gradients[3:]:
        optimizer.update(params, grads)
        for other, theirs in others:
            other.update(theirs, grads)
            assert_same_run(other, optimizer, theirs, params)


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_files_hold_parameters_too(rng, tmp_path, ending):
    pytest.importorskip("safetensors")
    optimizer, params = zdlfast.Adam(), draw(rng, bfloat16, [0, 7])
    params["F"] = np.asfortranarray(rng.standard_normal((3, 4)).astype(bfloat16))
    params["tied"] = params["F"].T
    params["scalar"] = bfloat16.type(1.5)
    path = tmp_path / f"a{ending}"
    zdlfast.save(path, optimizer, params)
    _, loaded = zdlfast.load(path)
    assert loaded.keys() == params.keys()
    for key, value in params.items():
        assert type(loaded[key]) is type(value)
        assert_same_bits(loaded[key], value)
    loaded["F"][0, 1] = 9
    assert loaded["tied"][1, 0] == 9


def test_a_file_that_holds_them_names_the_package_that_it_needs(tmp_path, monkeypatch):
    zdlfast.save(tmp_path / "a.npz", zdlfast.Adam(), {"W": np.zeros(3, bfloat16)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ModuleNotFoundError, match="bfloat16 need the package ml_dtypes"):
        zdlfast.load(tmp_path / "a.npz")


def test_nobody_else_imports_the_package():
    done = python(
        "import sys, numpy as np, zdlfast\n"
        "optimizer = zdlfast.Adam(state='bfloat16')\n"
        "optimizer.update({'W': np.zeros(5000)}, {'W': np.ones(5000)})\n"
        "optimizer.update({'W': np.zeros(5000)}, {'W': np.ones(5000, np.float16)})\n"
        "assert 'ml_dtypes' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ whole or not at all


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_found(make, bad):
    params = {"a": np.ones(5000, bfloat16), "W": np.ones((9, 9), bfloat16)[::2]}
    grads = {"a": np.ones(5000, bfloat16), "W": np.ones((9, 9), bfloat16)[::2]}
    grads["W"][3, 4] = bad
    before = copies(params)
    with pytest.raises(FloatingPointError, match=r"grads\['W'\] holds NaN or infinity"):
        make(nonfinite="raise").update(params, grads)
    optimizer = make(nonfinite="skip")
    assert optimizer.update(params, grads) is False
    assert optimizer.last.nonfinite == "W"
    for key, value in before.items():
        assert_same_bits(params[key], value)


def read_only(array):
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    ("param", "grad", "error", "message"),
    [
        (np.ones(3, bfloat16), np.ones(4, bfloat16), ValueError, r"shape \(4,\), which does not"),
        (
            np.ones(3, bfloat16),
            np.ones(3, complex),
            TypeError,
            r"params\['W'\] has dtype bfloat16, which cannot hold .* complex128",
        ),
        (read_only(np.ones(3, bfloat16)), np.ones(3), ValueError, r"params\['W'\] is read-only"),
        (np.ones(3, int), np.ones(3, bfloat16), TypeError, r"params\['W'\] has dtype int"),
        (
            np.ones(3, bfloat16).view(bfloat16.newbyteorder()),
            np.ones(3),
            TypeError,
            r"params\['W'\] holds bfloat16 and must be .* byte order, got ndarray in order '>'"
            if sys.byteorder == "little"
            else "holds bfloat16",
        ),
        (
            np.ones(3),
            np.ma.ones(3, bfloat16),
            TypeError,
            r"grads\['W'\] holds bfloat16 and must be an ndarray .* got MaskedArray",
        ),
        (np.ones(3), np.ones(3, "V2"), TypeError, r"grads\['W'\] must hold numbers"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_changes(make, param, grad, error, message):
    optimizer, first = make(), np.ones(700, bfloat16)
    with pytest.raises(error, match=message):
        optimizer.update({"first": first, "W": param}, {"first": np.ones(700), "W": grad})
    assert np.all(first == 1)
    assert optimizer.iter == 0
    assert optimizer.m is None


def test_state_of_another_dtype_is_that_of_another_training(make):
    optimizer, params = make(), {"W": np.ones(7, bfloat16)}
    optimizer.update(params, {"W": np.ones(7)})
    optimizer.v["W"] = optimizer.v["W"].astype("f")
    before = copy.deepcopy(params)
    with pytest.raises(TypeError, match=r"v\['W'\] has dtype float32, but .* bfloat16"):
        optimizer.update(params, {"W": np.ones(7)})
    assert_same_bits(params["W"], before["W"])


def test_all_is_put_back_if_a_later_entry_raises():
    class Refusing:
        def __rmul__(self, other):
            raise ArithmeticError("no")

        __sub__ = __rsub__ = __mul__ = __pow__ = __rmul__

    for make in (zdlfast.Momentum, reference.Momentum):
        optimizer = make()
        params = {"W": np.ones(700, bfloat16), "last": np.array([1.0], object)}
        grads = {"W": np.ones(700, int), "last": np.array([1.0], object)}
        optimizer.update(params, grads)
        before, values = copy.deepcopy(optimizer), params["W"].copy()
        with pytest.raises(ArithmeticError):
            optimizer.update(params, grads | {"last": np.array([Refusing()], object)})
        assert_same_bits(optimizer.v["W"], before.v["W"])
        assert_same_bits(params["W"], values)


def test_training_ends_where_it_does_in_float32(rng):
    """A bowl, whose minimum Adam reaches to the digits that a parameter has."""
    target = rng.standard_normal(2000)
    for make in (zdlfast.Adam, reference.Adam):
        params = {"W": np.zeros(2000, bfloat16)}
        optimizer = make(lr=0.05, state_rounding="stochastic")
        for step in range(300):
            optimizer.lr = 0.05 * (1 - step / 300)
            optimizer.update(params, {"W": params["W"].astype("f") - target.astype("f")})
        error = np.abs(params["W"].astype(float) - target)
        assert error.max() < 0.05
        assert np.mean(error) < 0.01


def test_the_dtype_is_known_by_what_it_is():
    assert _bfloat16.is_bfloat16(bfloat16)
    for other in ("V2", "f2", "u2", bfloat16.newbyteorder()):
        assert not _bfloat16.is_bfloat16(np.dtype(other))
