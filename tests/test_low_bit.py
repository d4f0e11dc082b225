"""State in few bits: the codes, and that kernels and NumPy write the same ones."""

import copy

import numpy as np
import pytest
from table import (
    KINDS,
    RULES,
    assert_neither_start_nor_cuts_nor_threads_change_a_bit,
    assert_same_bits,
    assert_same_run,
    both,
    copies,
    kept,
    keys_of,
    odd_beside_usual,
    tied_and_overlapping,
)

import zdlfast
from zdlfast import _engine, _formats, reference
from zdlfast._encoded import EncodedState

FORMATS = [
    {"state": "8bit"},
    {"state": "8bit", "state_rounding": "stochastic", "state_seed": 7},
    {"state": "bfloat16", "state_seed": 2**70 + 3},
]
# Around a group, half a block, a block, and what threads share.
SIZES = [0, 1, 31, 32, 33, 255, 257, 511, 512, 513, 4097, 70_001]
# Of a group, in a float32: all powers of two that there are, and their neighbours.
with np.errstate(over="ignore"):
    MAXIMA = np.unique(
        np.concatenate([
            np.float32(2.0) ** np.arange(-149, 128, dtype=np.float32),
            np.nextafter(np.float32(2.0) ** np.arange(-126, 128, dtype=np.float32), np.float32(0)),
            np.float32([0.0, 1e-45, 1.1754942e-38, np.finfo("f").max, np.inf, np.nan]),
        ])
    )  # fmt: skip
TINY = np.finfo("f").smallest_normal


@pytest.fixture(params=FORMATS, ids=lambda options: "-".join(map(str, options.values())))
def options(request):
    return {**request.param, "state_min_size": 0}


def draw(rng, dtype, sizes=SIZES):
    return {f"p{n}": rng.standard_normal(n).astype(dtype) for n in sizes}


def still(make, **options):
    """Adam that leaves its state as it is, if gradients are zero."""
    almost = np.nextafter(1.0, 0.0)
    return make(lr=0.0, beta1=almost, beta2=almost, **options)


# ------------------------------------------------------------------ the same bits


def assert_equal_training(rule, options, rng, dtypes, sizes, simds=None, steps=3):
    """Both twins from the same parameters, the kernels' on each of these instruction sets."""
    dtype, grad_dtype = dtypes
    params = draw(rng, dtype, sizes)
    numpy, theirs = both(rule, options)[1], copies(params)
    runs = [(simd, both(rule, options)[0], copies(params)) for simd in simds or [_engine.in_use()]]
    for step in range(steps):
        grads = draw(rng, grad_dtype, sizes)
        numpy.update(theirs, grads)
        for simd, fast, ours in runs:
            _engine.use(simd)
            with zdlfast.threads(1 + step):
                fast.update(ours, grads)
            assert_same_run(fast, numpy, ours, theirs, simd)


@pytest.mark.each_kind
def test_codes_scales_and_parameters_are_those_of_numpy(rule, options, simds, rng):
    for dtypes in ("ff", "fd", "df", "dd"):
        assert_equal_training(rule, options, rng, dtypes, SIZES, simds)


def test_every_rule_may_have_its_state_in_few_bits(rule, rng):
    for options in FORMATS:
        every = {**options, "state_min_size": 0}
        assert_equal_training(rule, every, rng, "ff", [33, 511, 513])


@pytest.mark.parametrize("dtypes", ["ff", "dd"])
def test_all_tails_of_a_block(options, simds, rng, dtypes):
    (adam,) = (row for row in KINDS if row.name == "Adam")
    assert_equal_training(adam, options, rng, dtypes, range(514), simds, steps=1)


@pytest.mark.each_kind
def test_kernels_take_whatever_is_encoded(rule, options, rng, monkeypatch, tmp_path):
    optimizer = rule.fast(**rule.options, **options)
    params = {
        "W": rng.standard_normal((70, 33)).astype("f"),
        "F": np.asfortranarray(rng.standard_normal((20, 30))),
        "swapped": rng.standard_normal(40).astype(">f8"),
        "map": np.memmap(tmp_path / "map", "f", "w+", shape=(600,)),
    }
    grads = {key: rng.standard_normal(value.shape) for key, value in params.items()}

    def refuse(*args):
        raise AssertionError("NumPy was asked to update an array that kernels take")

    monkeypatch.setattr("zdlfast.optimizers.make_entry", refuse)
    for other in (optimizer, *kept(optimizer, tmp_path)):
        for _ in range(2):
            other.update(params, grads)
        for again in kept(other, tmp_path):
            again.update(params, grads)


ALL_OPTIONS = {
    "weight_decay": 0.3,
    "maximize": True,
    "clip_norm": 0.5,
    "clip_value": 0.1,
    "nonfinite": "skip",
    "flush_subnormals": True,
}


@pytest.mark.each_kind
@pytest.mark.parametrize("decoupled", [False, True])
def test_beside_all_other_options(rule, options, rng, decoupled):
    fast, numpy = both(rule, {**options, **ALL_OPTIONS, "decoupled": decoupled})
    ours = draw(rng, "f")
    theirs = copies(ours)
    for _ in range(3):
        grads = draw(rng, "f")
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_all_codes_at_all_scales_are_read_and_written_as_numpy_does(options, dtype):
    if options["state"] == "bfloat16":
        codes, scales = np.arange(65536, dtype=np.uint16), None
    else:
        # In each group a quarter of all codes, at each maximum four times.
        codes = np.tile(np.arange(256, dtype=np.uint8), len(MAXIMA) * 2)
        scales = np.tile(np.repeat(MAXIMA, 4), 4)
    params = {"W": np.zeros(codes.size, dtype)}
    fast, numpy = still(zdlfast.Adam, **options), still(reference.Adam, **options)
    for optimizer in (fast, numpy):
        optimizer.m, optimizer.v = (
            {"W": EncodedState(
                options["state"], dtype, codes.shape, signed, codes.copy(), copy.copy(scales)
            )}
            for signed in (True, False)
        )  # fmt: skip
    with np.errstate(all="ignore"):
        for _ in range(2):
            fast.update(params, {"W": np.zeros_like(params["W"])})
            numpy.update(copies(params), {"W": np.zeros_like(params["W"])})
            for slot in ("m", "v"):
                assert_same_bits(getattr(fast, slot)["W"], getattr(numpy, slot)["W"], slot)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_all_maxima_of_a_group_are_written_as_numpy_does(options, rng, dtype):
    """The gradient becomes the mean, and its square the mean square: with rates of one."""
    grads = MAXIMA[:, None] * np.linspace(-1, 1, 32, dtype="f")
    grads[:, 5] = MAXIMA
    params = {"W": np.zeros(grads.shape, dtype)}
    fast, numpy = (
        make(lr=0.0, beta1=0.0, beta2=0.0, **options) for make in (zdlfast.Adam, reference.Adam)
    )
    with np.errstate(all="ignore"):
        ours, theirs = params, copies(params)
        for _ in range(2):
            fast.update(ours, {"W": grads.astype(dtype)})
            numpy.update(theirs, {"W": grads.astype(dtype)})
            assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.parametrize("dtype", ["f", "d"])
def test_neither_start_nor_cuts_nor_threads_change_a_bit(options, rng, dtype):
    values, grad = rng.standard_normal(9000), rng.standard_normal(9000).astype(dtype)
    assert_neither_start_nor_cuts_nor_threads_change_a_bit(
        lambda: zdlfast.Adam(**options), dtype, values, grad
    )


@pytest.mark.each_kind
def test_any_memory_layout_has_the_bits_of_contiguous_memory(rule, options, rng):
    def layouts():
        base = rng.standard_normal((3, 60, 50))
        unaligned = np.zeros(3000 * 8 + 1, np.uint8)[1:].view(float)
        unaligned[...] = base[0].ravel()
        return {
            "F": np.asfortranarray(base[1]),
            "transposed": base[2].copy().T,
            "strided": base[0, ::2, ::-3],
            "swapped": base[0].astype(base.dtype.newbyteorder()),
            "unaligned": unaligned,
            "0-d": np.array(0.7),
        }

    fast, numpy = both(rule, options)
    ours, theirs = layouts(), {}
    theirs = {key: np.array(value, value.dtype.newbyteorder("=")) for key, value in ours.items()}
    plain, _ = both(rule, options)
    contiguous = copies(theirs)
    for _ in range(3):
        grads = layouts()
        fast.update(ours, grads)
        plain.update(contiguous, {key: np.array(value) for key, value in grads.items()})
        numpy.update(theirs, grads)
        assert_same_run(plain, numpy, contiguous, theirs)
        for slot in rule.slots:
            for key in ours:
                state = getattr(numpy, slot)[key]
                if isinstance(state, EncodedState):
                    assert_same_bits(getattr(fast, slot)[key], state)
        for key in ours:
            assert np.array_equal(ours[key], theirs[key])


@pytest.mark.each_kind
def test_odd_entries_beside_usual_ones(rule, options, rng):
    """What kernels do not take is encoded by NumPy, and what is no array of floats is not."""

    fast, numpy = both(rule, options)
    ours = odd_beside_usual(rng, 700)
    theirs = copies(ours) | {"number": ours["number"], "scalar": ours["scalar"]}
    for _ in range(3):
        grads = odd_beside_usual(rng, 700) | {"again": rng.integers(-3, 4, 700)}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)
    for slot in set(rule.slots) - {"d"}:
        state = getattr(fast, slot)
        encoded = {key for key in ours if isinstance(state[key], EncodedState)}
        assert encoded == {"usual", "again"}


@pytest.mark.each_kind
def test_a_0d_array_with_a_number_for_a_gradient_is_encoded_too(rule, options):
    fast, numpy = both(rule, options | {"state_min_size": 0})
    ours, theirs = {"x": np.array(0.7)}, {"x": np.array(0.7)}
    for state in (None, options["state"]):
        fast.state = numpy.state = state
        for _ in range(2):
            fast.update(ours, {"x": 0.5})
            numpy.update(theirs, {"x": 0.5})
            assert_same_run(fast, numpy, ours, theirs)


@pytest.mark.each_kind
def test_tied_and_overlapping_parameters_are_updated_in_turn(rule, options, rng):
    values = rng.standard_normal(900)
    fast, numpy = both(rule, options)
    ours, theirs = tied_and_overlapping(values), tied_and_overlapping(values)
    for _ in range(3):
        grads = {key: rng.standard_normal(600) for key in ours}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)


def test_state_that_two_parameters_share_is_updated_in_turn(options, rng):
    """On threads, too: the second one goes on from what the first one left."""
    n = 400_000
    found = []
    for make in (zdlfast.Adam, reference.Adam):
        optimizer, params = make(**options), {"a": np.zeros(n, "f"), "b": np.zeros(n, "f")}
        gradients = np.random.default_rng(3).standard_normal((3, 2, n)).astype("f")
        optimizer.update(params, dict(zip("ab", gradients[0], strict=True)))
        for slot in ("m", "v"):
            getattr(optimizer, slot)["b"] = getattr(optimizer, slot)["a"]
        with zdlfast.threads(2):
            for pair in gradients[1:]:
                optimizer.update(params, dict(zip("ab", pair, strict=True)))
        assert optimizer.m["a"] is optimizer.m["b"]
        found.append((optimizer, params))
    (fast, ours), (numpy, theirs) = found
    assert_same_run(fast, numpy, ours, theirs)


def test_a_gradient_that_lies_in_codes_or_scales_is_read_before_they_are_written(options, rng):
    found = []
    for make in (zdlfast.Adam, reference.Adam):
        optimizer, params = make(**options), {"a": np.ones(512, "f"), "b": np.ones(16, "f")}
        grads = {"a": np.linspace(-1, 1, 512, dtype="f"), "b": np.ones(16, "f")}
        optimizer.update(params, grads)
        codes = optimizer.v["a"].codes
        inside = codes.view(np.float32)[:16] if codes.nbytes >= 64 else codes
        scales = optimizer.v["a"].scales
        optimizer.update(params, grads | {"b": inside if scales is None else scales})
        found.append((optimizer, params))
    (fast, ours), (numpy, theirs) = found
    assert_same_run(fast, numpy, ours, theirs)


# ------------------------------------------------------------------ what codes stand for


def groups(values, signed):
    """The array that encoded values stand for."""
    return EncodedState.of(np.asarray(values, "f"), "8bit", signed).numpy()


@pytest.mark.parametrize("signed", [True, False])
def test_every_code_of_8_bits_stands_for_itself(signed):
    codes = np.tile(np.arange(256, dtype=np.uint8), 2)
    for scale in MAXIMA[(MAXIMA > 2.0**-100) & np.isfinite(MAXIMA)]:
        scales = np.full(16, scale, "f")
        values = _formats.decode_8bit(codes, scales, signed)
        assert np.all(np.abs(values) / np.float64(scale) <= 1 + 1e-6)
        # A group without the largest code has another scale.
        values[::32] = scale
        again, scales = _formats.encode_8bit(values, signed)
        assert np.all(scales == scale)
        same = np.ones(512, bool)
        same[::32] = False
        here = np.arange(512) % 128 * 4 + np.arange(512) // 128
        assert np.array_equal(again[here][same], codes[here][same])


@pytest.mark.parametrize("signed", [True, False])
def test_codes_of_8_bits_grow_with_what_they_stand_for(signed):
    words = np.zeros(512, np.uint8)
    words[np.arange(256) % 128 * 4 + np.arange(256) // 128] = np.arange(256)
    values = _formats.decode_8bit(words, np.ones(16, "f"), signed)[:256]
    half = 128 if signed else 256
    assert values[0] == 0
    assert values[half - 1] == 1
    assert np.all(np.diff(values[:half]) > 0)
    if signed:
        assert np.array_equal(values[128:], -values[:128])


@pytest.mark.parametrize(("signed", "floor"), [(True, 1 / 247), (False, 1 / 63488)])
def test_8_bits_are_wrong_by_3_percent_of_a_value_and_a_trifle_of_the_largest_one(
    signed, floor, rng
):
    exact = (np.exp(rng.uniform(-25, 0, (1000, 32)))).astype("f")
    exact[:, 0] = 1
    error = np.abs(groups(exact, signed) - exact)
    bound = (exact + floor) / 32
    if not signed:
        bound = np.maximum(bound, floor / 16)  # what is not zero does not become zero
    assert np.all(error <= bound * 1.001)
    assert np.any(error > bound * 0.9)


def test_what_has_no_sign_and_is_not_zero_does_not_become_zero():
    values = np.zeros((len(MAXIMA), 32), "f")
    values[:, 0] = 1e30
    values[:, 1] = MAXIMA
    finite = np.isfinite(MAXIMA) & (MAXIMA <= 1e30)
    decoded = groups(values, False)
    assert np.array_equal(decoded[finite, 1] > 0, MAXIMA[finite] > 0)
    assert np.all(decoded[finite, 2:] == 0)
    random = np.zeros(_formats.blocks_of(values.size) * 512, np.uint32)
    encoded = EncodedState.of(values, "8bit", False)
    encoded.store(values, random)
    assert np.array_equal(encoded.numpy()[finite, 1] > 0, MAXIMA[finite] > 0)


@pytest.mark.parametrize("signed", [True, False])
def test_8_bits_stand_for_no_subnormal_number(signed):
    codes = np.tile(np.arange(256, dtype=np.uint8), 2)
    for scale in MAXIMA[np.isfinite(MAXIMA)]:
        values = _formats.decode_8bit(codes, np.full(16, scale, "f"), signed)
        assert not np.any((values != 0) & (np.abs(values) < TINY))


@pytest.mark.parametrize("signed", [True, False])
def test_a_group_with_nan_or_infinity_is_nan_and_its_neighbours_are_not(signed):
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        values = np.ones((3, 32), "f")
        values[1, 7] = bad
        assert np.array_equal(
            np.isnan(groups(values, signed)), np.arange(3)[:, None] == [[1] * 32]
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -3.5])
@pytest.mark.parametrize("random", [None, 0, 0xFFFF])
def test_bfloat16_keeps_what_it_has_whatever_the_chance(value, random):
    encoded = EncodedState.zeros("bfloat16", "f", (512,), True)
    bits = None if random is None else np.full(512, random, np.uint32)
    encoded.store(np.full(512, value, "f"), bits)
    assert_same_bits(encoded.numpy(), np.full(512, value, "f"))


def test_bfloat16_is_rounded_to_even_without_chance():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.arange(0x3F800000, 0x3F840000, 1, np.uint32).view("f")
    encoded = EncodedState.of(values, "bfloat16", True)
    assert_same_bits(encoded.numpy(), values.astype(ml_dtypes.bfloat16).astype("f"))


@pytest.mark.parametrize("format", ["8bit", "bfloat16"])
@pytest.mark.parametrize("signed", [True, False])
def test_chance_is_right_on_the_average(format, signed, rng):
    exact = rng.uniform(0.01, 1, 2048).astype("f")
    exact[::32] = 1
    encoded = EncodedState.zeros(format, "f", exact.shape, signed)
    total, count = np.zeros(exact.size), 2000
    for key in range(count):
        encoded.store(exact, _formats.random_bits(key, 4))
        total += encoded.numpy()
    # A step between two codes is 1/16 or 1/128 of a value at most, and the mean a fraction off.
    step = 1 / 16 if format == "8bit" else 1 / 128
    deviation = np.abs(total / count - exact) / exact
    assert deviation.max() < 5 * step / 2 / np.sqrt(count)
    assert deviation.mean() > 0


def test_random_bits_are_spread_evenly_and_differ_everywhere():
    bits = np.stack([_formats.random_bits(_formats.mixed(key), 64) for key in range(16)])
    ones = np.array([((bits >> np.uint32(k)) & np.uint32(1)).mean() for k in range(16)])
    assert np.abs(ones - 0.5).max() < 0.005
    assert bits.max() < 2**16
    assert np.bincount(bits.ravel() >> 8).min() > 0.8 * bits.size / 256
    lines = (bits.reshape(-1, 512).astype(float) - 2**15) / 2**15
    for other in (
        np.roll(lines, 1, axis=0),
        np.roll(lines, 1, axis=1),
        np.roll(lines, 256, axis=1),
    ):
        assert abs(np.mean(lines * other)) < 0.005


def test_chance_depends_on_seed_step_and_slot_and_on_nothing_else(options, rng):
    if options["state"] == "8bit" and "state_rounding" not in options:
        pytest.skip("nothing is left to chance")
    grads = {"W": rng.standard_normal(1024)}

    def codes(**changes):
        optimizer = zdlfast.Adam(**{**options, **changes})
        optimizer.update({"W": np.zeros(1024)}, grads)
        one = optimizer.m["W"].codes.copy()
        optimizer.m["W"].codes[...] = 0
        optimizer.update({"W": np.zeros(1024)}, grads)
        return one, optimizer.m["W"].codes

    one, two = codes()
    assert np.array_equal(one, codes()[0])
    assert not np.array_equal(one, codes(state_seed=5)[0])
    assert not np.array_equal(one, two)
    rule = zdlfast.AMSGrad(beta1=0.0, beta2=0.0, **options)
    rule.update({"W": np.zeros(1024)}, grads)
    assert not np.array_equal(rule.v["W"].codes, rule.v_max["W"].codes)


# ------------------------------------------------------------------ which state is encoded


def test_small_arrays_keep_full_state_and_overrides_can_say_otherwise(rng):
    for make in (zdlfast.Adam, reference.Adam):
        optimizer = make(
            state="8bit",
            overrides={
                "embedding": {"state": None},
                "other": {"state": "bfloat16"},
                "small": {"state_min_size": 10},
            },
        )
        sizes = {"W": 4096, "b": 4095, "embedding": 5000, "other": 5000, "small": 10}
        params = {key: np.zeros(n, "f") for key, n in sizes.items()}
        optimizer.update(params, {key: rng.standard_normal(n) for key, n in sizes.items()})
        for slot in (optimizer.m, optimizer.v):
            formats = {key: getattr(value, "format", None) for key, value in slot.items()}
            assert formats == {
                "W": "8bit", "b": None, "embedding": None, "other": "bfloat16", "small": "8bit"
            }  # fmt: skip


def test_a_list_of_parameters_has_a_list_of_encoded_state(rng):
    for make in (zdlfast.Adam, reference.Adam):
        optimizer = make(state="8bit", overrides={1: {"frozen": True}})
        params = [np.zeros(5000), np.zeros(5000), np.zeros(3)]
        optimizer.update(params, [np.ones(5000), np.ones(5000), np.ones(3)])
        assert [type(state) for state in optimizer.m] == [EncodedState, np.ndarray, np.ndarray]
        optimizer.overrides = None
        optimizer.update(params, [np.ones(5000), np.ones(5000), np.ones(3)])
        assert [type(state) for state in optimizer.m] == [EncodedState, EncodedState, np.ndarray]


def test_the_offset_of_schedule_free_is_never_encoded_as_it_is_part_of_the_parameter():
    for make in (zdlfast.ScheduleFreeAdamW, reference.ScheduleFreeAdamW):
        optimizer, params = make(state="8bit"), {"W": np.zeros(5000)}
        optimizer.update(params, {"W": np.ones(5000)})
        assert isinstance(optimizer.v["W"], EncodedState)
        assert isinstance(optimizer.d["W"], np.ndarray)
        optimizer.eval(params)
        optimizer.train(params)
        assert isinstance(optimizer.v["W"], EncodedState)


def test_every_slot_that_is_divided_by_or_rooted_has_no_sign(rng):
    for row in RULES:
        optimizer = row.numpy(**row.options)
        params = {"W": np.zeros(500)}
        for _ in range(20):
            optimizer.update(params, {"W": rng.standard_normal(500)})
        for slot in row.slots:
            assert (slot in optimizer._positive) == bool(
                np.all(getattr(optimizer, slot)["W"] >= 0)
            )


def test_nbytes_are_those_of_all_state():
    for make in (zdlfast.Adam, reference.Adam):
        optimizer = make(state="8bit")
        assert optimizer.state_nbytes == 0
        params = {"W": np.zeros(51_200, "f"), "b": np.zeros(10, "f")}
        optimizer.update(params, {"W": np.ones(51_200), "b": np.ones(10)})
        assert optimizer.m["W"].nbytes == 51_200 * (1 + 4 / 32)
        assert optimizer.state_nbytes == 2 * (51_200 * (1 + 4 / 32) + 40)
        optimizer.state = "bfloat16"
        optimizer.update(params, {"W": np.ones(51_200), "b": np.ones(10)})
        assert optimizer.state_nbytes == 2 * (51_200 * 2 + 40)


# ------------------------------------------------------------------ files, copies, other formats


@pytest.mark.each_kind
def test_what_is_kept_goes_on_bit_for_bit(rule, options, rng, tmp_path):
    optimizer = rule.fast(**rule.options, **options)
    params = {"W": rng.standard_normal((70, 33)).astype("f"), "b": rng.standard_normal(9)}
    gradients = [{k: rng.standard_normal(v.shape) for k, v in params.items()} for _ in range(5)]
    for grads in gradients[:3]:
        optimizer.update(params, grads)
    others = [(other, copies(params)) for other in kept(optimizer, tmp_path)]
    for grads in gradients[3:]:
        optimizer.update(params, grads)
        for other, theirs in others:
            other.update(theirs, grads)
            assert_same_run(other, optimizer, theirs, params)


def test_safetensors_hold_codes_too(options, rng, tmp_path):
    pytest.importorskip("safetensors")
    optimizer, params = zdlfast.Adam(**options), {"W": rng.standard_normal(700)}
    optimizer.update(params, {"W": rng.standard_normal(700)})
    zdlfast.save(tmp_path / "a.safetensors", optimizer, params)
    assert_same_run(zdlfast.load(tmp_path / "a.safetensors")[0], optimizer, params, params)


def test_a_copy_has_codes_of_its_own(options):
    for make in (zdlfast.Adam, reference.Adam):
        optimizer, params = make(**options), {"W": np.zeros(700)}
        optimizer.update(params, {"W": np.ones(700)})
        state, codes = optimizer.state_dict(), optimizer.m["W"].codes.copy()
        copied = copy.deepcopy(optimizer)
        optimizer.update(params, {"W": -np.ones(700)})
        assert np.array_equal(state["state"]["m"]["W"]["codes"], codes)
        assert np.array_equal(copied.m["W"].codes, codes)
        assert not np.array_equal(optimizer.m["W"].codes, codes)


@pytest.mark.parametrize("old", [None, "8bit", "bfloat16"])
@pytest.mark.parametrize("new", [None, "8bit", "bfloat16"])
@pytest.mark.each_kind
def test_the_format_may_change_during_a_training(rule, rng, old, new):
    if not rule.slots:
        pytest.skip("a rule without state")
    fast, numpy = both(rule, {"state": old, "state_min_size": 100})
    ours = draw(rng, "f", [50, 700]) | {"F": np.asfortranarray(rng.standard_normal((20, 30)))}
    theirs = copies(ours)
    for step in range(4):
        if step == 2:
            before = {
                key: state.numpy() if isinstance(state, EncodedState) else state.copy()
                for key, state in getattr(fast, rule.slots[-1]).items()
            }
            loaded = rule.fast()
            loaded.load_state_dict(fast.state_dict())
            fast = loaded
            fast.state = numpy.state = new
        grads = {key: rng.standard_normal(value.shape) for key, value in ours.items()}
        if step == 2:
            grads = {key: np.zeros_like(grad) for key, grad in grads.items()}
        fast.update(ours, grads)
        numpy.update(theirs, grads)
        assert_same_run(fast, numpy, ours, theirs)
    for slot in set(rule.slots) - set(fast._exact):
        formats = {k: getattr(v, "format", None) for k, v in getattr(fast, slot).items()}
        assert formats == {"p50": None, "p700": new, "F": new}
    assert before.keys() == ours.keys()


def test_what_changes_its_format_keeps_its_values(rng):
    for make in (zdlfast.Adam, reference.Adam):
        optimizer, params = still(make), {"W": np.zeros(5000)}
        state = rng.standard_normal(5000)
        optimizer.m, optimizer.v = {"W": state.copy()}, {"W": state**2}
        optimizer.state = "bfloat16"
        optimizer.update(params, {"W": np.zeros(5000)})
        assert np.allclose(optimizer.m["W"].numpy(), state, rtol=2**-7)
        optimizer.state = "8bit"
        optimizer.update(params, {"W": np.zeros(5000)})
        assert np.allclose(optimizer.m["W"].numpy(), state, rtol=1 / 16, atol=0.01)
        optimizer.state = None
        optimizer.update(params, {"W": np.zeros(5000)})
        assert optimizer.m["W"].dtype == np.float64
        assert np.allclose(optimizer.m["W"], state, rtol=1 / 16, atol=0.01)


def state_with(change):
    optimizer = zdlfast.Adam(state="8bit")
    optimizer.update({"W": np.zeros(5000)}, {"W": np.ones(5000)})
    state = optimizer.state_dict()
    state["state"]["v"]["W"] = change(state["state"]["v"]["W"])
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"format": "4bit"},
            r"v\['W'\] has format '4bit', expected one of \['8bit'",
        ),
        (lambda s: s | {"dtype": "float16"}, "has dtype 'float16', expected one of"),
        (lambda s: s | {"shape": [7.0]}, r"has the shape \[7.0\]"),
        (lambda s: s | {"signed": 1}, "must be a bool, got 1"),
        (lambda s: s | {"signed": True}, "signed=True, expected False"),
        (
            lambda s: s | {"codes": s["codes"][1:]},
            r"codes of the encoded state v\['W'\] do not fit",
        ),
        (lambda s: s | {"scales": None}, r"scales of the encoded state v\['W'\] do not fit 8bit"),
        (lambda s: s | {"scales": s["scales"].astype("d")}, "scales of the encoded state"),
        (lambda s: {k: v for k, v in s.items() if k != "codes"}, "has no 'codes'"),
        (lambda s: s | {"shape": [4000]}, "do not fit"),
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(change, message):
    optimizer = zdlfast.Adam(state="8bit")
    optimizer.update({"W": np.zeros(5000)}, {"W": np.ones(5000)})
    before = copy.deepcopy(optimizer)
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(state_with(change))
    assert_same_run(optimizer, before, {}, {})


# ------------------------------------------------------------------ whole or not at all


@pytest.fixture(params=[zdlfast.Adam, reference.Adam], ids=["fast", "numpy"])
def make(request):
    return request.param


def test_a_skipped_update_leaves_all_codes(make, options, rng):
    optimizer = make(**options, nonfinite="skip")
    params = {"W": rng.standard_normal(700), "b": rng.standard_normal(3)}
    optimizer.update(params, {"W": np.ones(700), "b": np.ones(3)})
    before, values = copy.deepcopy(optimizer), copies(params)
    assert optimizer.update(params, {"W": np.ones(700), "b": np.full(3, np.nan)}) is False
    assert_same_run(optimizer, before, params, values)


@pytest.mark.parametrize("make", [zdlfast.Momentum, reference.Momentum])
def test_what_was_encoded_by_numpy_is_put_back_if_a_later_entry_raises(make, options):
    class Refusing:
        def __rmul__(self, other):
            raise ArithmeticError("no")

        __sub__ = __rsub__ = __mul__ = __pow__ = __rmul__

    optimizer = make(**options)
    params = {"W": np.zeros(700), "last": np.array([1.0], object)}
    grads = {"W": np.ones(700, int), "last": np.array([1.0], object)}
    optimizer.update(params, grads)
    before, values = copy.deepcopy(optimizer), {"W": params["W"].copy()}
    with pytest.raises(ArithmeticError):
        optimizer.update(params, grads | {"last": np.array([Refusing()], object)})
    assert_same_bits(optimizer.v["W"], before.v["W"])
    assert_same_bits(params["W"], values["W"])
    assert optimizer.updates == before.updates


def test_a_change_of_format_is_undone_with_the_update_that_it_was_for(make):
    optimizer, params = make(nonfinite="skip"), {"W": np.zeros(5000)}
    optimizer.update(params, {"W": np.ones(5000)})
    held = optimizer.m["W"]
    optimizer.state = "8bit"
    optimizer.update(params, {"W": np.full(5000, np.inf)})
    assert optimizer.m["W"] is held
    optimizer.update(params, {"W": np.ones(5000)})
    assert isinstance(optimizer.m["W"], EncodedState)


def test_codes_are_changed_in_place(make, options):
    optimizer, params = make(**options), {"W": np.zeros(700)}
    optimizer.update(params, {"W": np.ones(700)})
    held, codes = optimizer.m["W"], optimizer.m["W"].codes
    before = codes.copy()
    optimizer.update(params, {"W": np.ones(700)})
    assert optimizer.m["W"] is held
    assert held.codes is codes
    assert held.scales is not None or not np.array_equal(codes, before)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda s: setattr(s, "codes", s.codes[1:]),
            ValueError,
            "codes or scales that do not fit",
        ),
        (lambda s: setattr(s, "codes", s.codes.astype(int)), ValueError, "codes or scales"),
        (lambda s: setattr(s, "codes", None), ValueError, "codes or scales that do not fit"),
        (lambda s: setattr(s, "scales", s.scales[::2]), ValueError, "codes or scales"),
        (lambda s: s.codes.setflags(write=False), ValueError, "codes or scales"),
        (lambda s: setattr(s, "shape", (70, 10)), ValueError, r"has shape \(70, 10\)"),
        (lambda s: setattr(s, "dtype", np.dtype("f")), TypeError, "has dtype float32"),
        (lambda s: setattr(s, "format", "9bit"), ValueError, "codes or scales"),
    ],
)
def test_damaged_state_is_told_by_an_update_and_nothing_changes(make, damage, error, message):
    optimizer = make(state="8bit", state_min_size=0)
    params = {"a": np.zeros(700), "W": np.zeros(700)}
    grads = {"a": np.ones(700), "W": np.ones(700)}
    optimizer.update(params, grads)
    damage(optimizer.v["W"])
    before, codes = copies(params), optimizer.m["a"].codes.copy()
    with pytest.raises(error, match=message):
        optimizer.update(params, grads)
    for key, value in before.items():
        assert_same_bits(params[key], value)
    assert np.array_equal(optimizer.m["a"].codes, codes)
    assert optimizer.iter == 1


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("state", "4bit", ValueError, r"state must be one of \('8bit', 'bfloat16'\), got '4bit'"),
        ("state", 8, ValueError, "state must be one of"),
        ("state_min_size", -1, ValueError, "state_min_size must be >= 0, got -1"),
        ("state_min_size", 1.5, TypeError, "state_min_size must be a whole number, got 1.5"),
        ("state_rounding", "up", ValueError, "state_rounding must be one of"),
        ("state_seed", "x", TypeError, "state_seed must be a whole number, got 'x'"),
    ],
)
def test_a_wrong_value_is_told(make, name, value, error, message):
    with pytest.raises(error, match=message):
        make(**{name: value})
    optimizer = make()
    with pytest.raises(error, match=message):
        setattr(optimizer, name, value)


def test_the_seed_is_that_of_all_parameters():
    with pytest.raises(ValueError, match=r"state_seed.* concerns all parameters together"):
        zdlfast.Adam(overrides={"W": {"state_seed": 3}})


def test_training_with_few_bits_ends_where_it_does_with_all(make, options, rng):
    """A bowl, whose minimum Adam reaches."""
    target = rng.standard_normal(2000)
    params, optimizer = {"W": np.zeros(2000)}, make(lr=0.05, **options)
    for step in range(400):
        optimizer.lr = 0.05 * (1 - step / 400)
        optimizer.update(params, {"W": params["W"] - target})
    assert np.abs(params["W"] - target).max() < 1e-2
    assert keys_of(optimizer.m) == {"W"}
