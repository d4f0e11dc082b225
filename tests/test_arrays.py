"""Arrays as they come: any layout, alignment, byte order and dtype that NumPy takes."""

import copy

import numpy as np
import pytest
from table import assert_same_bits, assert_same_run, steps_past_python

from zdlfast._entries import make_entry
from zdlfast._groups import Step

pytestmark = pytest.mark.each_kind

SHAPES = [(0,), (1,), (7, 5), (0, 3), (3, 4, 5), (30, 1, 5, 5), (600, 33), ()]


def strided(x):
    buffer = np.zeros((*x.shape, 2), x.dtype)
    buffer[..., 0] = x
    return buffer[..., 0]


def reversed_in_memory(x):
    return np.ascontiguousarray(x[..., ::-1])[..., ::-1] if x.ndim else x


def unaligned(x):
    buffer = np.zeros(x.nbytes + 1, np.uint8)[1:]
    array = buffer.view(x.dtype).reshape(x.shape)
    array[...] = x
    return array


def middle_axis_first(x):
    """The layout of a convolution's weight gradient in the book: a transposed product."""
    return np.ascontiguousarray(np.moveaxis(x, 0, -1)).transpose(-1, *range(x.ndim - 1)) \
        if x.ndim > 1 else x  # fmt: skip


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": strided,
    "reversed": reversed_in_memory,
    "unaligned": unaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "convolution": middle_axis_first,
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


def laid_out(array, layout):
    """A copy in this layout; 0-d arrays stay arrays."""
    copy = layout(array.copy())
    return copy.reshape(()) if array.ndim == 0 else copy


def train_both(rule, params, gradients, what=""):
    fast, numpy = rule.fast(), rule.numpy()
    expected = {k: v.copy(order="K") for k, v in params.items()}
    addresses = {k: v.__array_interface__["data"][0] for k, v in params.items()}
    held = dict(params)
    for grads in gradients:
        fast.update(params, grads)
        numpy.update(expected, grads)
        assert_same_run(fast, numpy, params, expected, what)
    assert all(params[k] is held[k] for k in held)
    assert {k: v.__array_interface__["data"][0] for k, v in params.items()} == addresses
    return fast


@pytest.fixture
def no_slow_path(monkeypatch):
    """The first update of a key makes its state; from then on NumPy's rule may not run."""

    def refuse(*_):
        raise AssertionError("the NumPy rule ran")

    return lambda rule: monkeypatch.setattr(rule.fast, "_rule", staticmethod(refuse))


def draw(rng, dtype, layout):
    return {str(s): laid_out(rng.standard_normal(s).astype(dtype), layout) for s in SHAPES}


def test_every_layout_gives_the_bits_of_numpy(rule, dtype, simd, rng, layout):
    for name, other_layout in LAYOUTS.items():
        gradients = [draw(rng, dtype, other_layout) for _ in range(3)]
        train_both(rule, draw(rng, dtype, layout), gradients, f"gradients: {name}")


def test_every_layout_is_taken_by_the_kernels(rule, dtype, rng, layout, no_slow_path):
    no_slow_path(rule)
    for other_layout in LAYOUTS.values():
        rule.fast().update(draw(rng, dtype, layout), draw(rng, dtype, other_layout))


def test_byte_swapped_arrays_of_every_size_give_the_bits_of_numpy(rule, dtype, simd, rng):
    other = dtype.newbyteorder()
    shapes = [(n,) for n in (*range(70), 511, 512, 513, 1025)] + [(3, n) for n in (1, 31, 200)]

    def draw(layout):
        return {shape: layout(rng.standard_normal(shape).astype(other)) for shape in shapes}

    for layout in (lambda x: x, unaligned, strided, reversed_in_memory):
        train_both(rule, draw(layout), [draw(layout), draw(lambda x: x)])


@pytest.mark.parametrize("grad_dtype", ["f2", "f4", "f8", "i1", "u2", "i8", "?"])
def test_mixed_dtypes_are_promoted_as_numpy_does(rule, simd, rng, grad_dtype):
    def gradient(n):
        # The square of 12 does not fit 8 bits.
        values = np.clip(rng.standard_normal(n) * 3, -11, 11)
        # What a negative float is as an unsigned number is another matter on each CPU.
        return (np.abs(values) if grad_dtype == "u2" else values).astype(grad_dtype)

    sizes = [*range(40), 600]
    if grad_dtype == "?" and rule.name == "Adam":
        # NumPy has no minus for booleans; floats minus booleans it has.
        assert (np.ones(1) - np.ones(1, bool)).dtype == float
    for param_dtype in ("f4", "f8"):
        params = {n: rng.standard_normal(n).astype(param_dtype) for n in sizes}
        train_both(rule, params, [{n: gradient(n) for n in sizes} for _ in range(4)])


def test_the_other_float_dtype_stays_on_the_kernels(rule, rng, no_slow_path):
    for param_dtype, grad_dtype in [("f4", "f8"), ("f8", "f4")]:
        fast = rule.fast()
        params = {"W": rng.standard_normal(100).astype(param_dtype)}
        fast.update(params, {"W": rng.standard_normal(100).astype(grad_dtype)})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rule.fast, "_rule", None)
            fast.update(params, {"W": rng.standard_normal(100).astype(grad_dtype)})
            fast.update(params, {"W": strided(rng.standard_normal(100).astype(grad_dtype))})


@pytest.mark.parametrize("kind", ["f2", "longdouble", "complex128"])
def test_other_dtypes_run_through_numpy(rule, rng, kind):
    params = {"W": rng.standard_normal(9).astype(kind), "b": rng.standard_normal(9)}
    gradients = [{k: rng.standard_normal(9).astype(p.dtype) for k, p in params.items()}] * 3
    train_both(rule, params, gradients)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (1, 1), ()])
def test_gradients_are_broadcast(rule, dtype, rng, shape):
    params = {"W": rng.standard_normal((3, 4)).astype(dtype)}
    gradients = [{"W": rng.standard_normal(shape).astype(dtype)} for _ in range(3)]
    train_both(rule, params, gradients)
    train_both(rule, params, [{"W": np.broadcast_to(dtype.type(0.5), (3, 4))}])
    train_both(rule, params, [{"W": 0.5}, {"W": 1}])


ODD = {
    "float16": ("f2", (3, 4), "f2", (3, 4)),
    "longdouble": ("longdouble", (3, 4), "f8", (4,)),
    "0-d float16": ("f2", (), "f2", ()),
    "byte-swapped float16": (">f2", (7,), "<f2", (7,)),
    "integer gradient": ("f4", (3, 4), "i8", (3, 4)),
    "bool gradient": ("f8", (3, 4), "?", (3, 4)),
    "float16 gradient": ("f4", (5,), "f2", (5,)),
    "row": ("f8", (3, 4), "f8", (4,)),
    "column": ("f4", (3, 4), "f4", (3, 1)),
    "no dimension": ("f8", (3, 4), "f4", ()),
    "empty": ("f2", (0, 4), "f2", (1, 4)),
    "too many dimensions for kernels": ("f4", (1,) * 20 + (2,), "f4", (2,)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_arrays_with_state_are_not_looked_at_by_python(rule, rng, monkeypatch, case):
    param_dtype, shape, grad_dtype, grad_shape = ODD[case]

    def gradient():
        return {
            "odd": np.array(3 * rng.standard_normal(grad_shape), grad_dtype),
            "W": rng.standard_normal(9),
        }

    params = {"odd": np.array(rng.standard_normal(shape), param_dtype), "W": np.ones(9)}
    held = params["odd"]
    for _ in steps_past_python(rule, monkeypatch, params, gradient):
        assert params["odd"] is held


@pytest.mark.parametrize("value", [1.5, np.array(1.5), np.ones(3, "f2")], ids=str)
def test_state_of_another_dtype_is_an_error_for_odd_entries_too(rule, value):
    fast = rule.fast()
    for _ in range(1 + rule.looks_first):
        fast.update({"x": copy.copy(value)}, {"x": 0.5})
    for slot in rule.slots:
        held = getattr(fast, slot)
        held["x"] = held["x"].astype(np.float32)
        with pytest.raises(TypeError, match=rf"the state {slot}\['x'\] has dtype float32"):
            fast.update({"x": value}, {"x": 0.5})
        held["x"] = held["x"].astype(np.asarray(value).dtype)


@pytest.mark.parametrize("taken", ["param", "state"])
def test_odd_arrays_that_are_read_only_change_nothing(rule, rng, taken):
    params = {"W": np.ones(9), "odd": np.ones(9, np.float16)}
    grads = {"W": np.ones(9), "odd": rng.standard_normal(9).astype(np.float16)}
    fast = rule.fast()
    fast.update(params, grads)
    if taken == "state" and not rule.slots:
        pytest.skip("it has no state")
    array = params["odd"] if taken == "param" else getattr(fast, rule.slots[-1])["odd"]
    array.flags.writeable = False
    before = copy.deepcopy((params, fast.state_dict()))
    with pytest.raises(ValueError, match="read-only"):
        fast.update(params, grads)
    for now, then in zip((params, fast.state_dict()), before, strict=True):
        assert repr(now) == repr(then)


# NumPy 1 takes a 0-d float64 for a number where it meets arrays.
NUMPY_1 = pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 promotes by value")


@pytest.mark.parametrize(
    "gradient", [0.3, 2, np.float32(0.3), pytest.param(np.array(0.3), marks=NUMPY_1)]
)
def test_a_0d_array_gets_what_an_element_gets(rule, dtype, gradient):
    fast, other = rule.fast(), rule.numpy()
    params, expected = {"x": np.array(0.7, dtype)}, {"x": np.array([0.7], dtype)}
    for _ in range(3):
        fast.update(params, {"x": gradient})
        other.update(expected, {"x": gradient})
    assert_same_bits(params["x"], expected["x"].reshape(()))
    for slot in rule.slots:
        state = getattr(fast, slot)["x"]
        assert type(state) is np.ndarray
        assert_same_bits(state, getattr(other, slot)["x"].reshape(()))


def test_state_is_laid_out_like_its_parameter(rule):
    fast = rule.fast()
    fast.update({"W": np.ones((3, 4), order="F")}, {"W": np.ones((3, 4))})
    for slot in rule.slots:
        if rule.name != "Momentum":  # whose rule makes a new velocity, in NumPy
            assert getattr(fast, slot)["W"].flags.f_contiguous


def test_memmaps_are_written_to_their_files(rule, tmp_path, no_slow_path):
    no_slow_path(rule)
    path = tmp_path / "W"
    params = {"W": np.memmap(path, np.float64, "w+", shape=(50,))}
    params["W"][:] = 1.0
    held = params["W"]
    fast = rule.fast()
    for _ in range(2):  # ADOPT only looks at first
        fast.update(params, {"W": np.full(50, 0.5)})
    assert params["W"] is held
    held.flush()
    assert np.all(np.fromfile(path) < 1.0)
    assert all(type(getattr(fast, slot)["W"]) is np.ndarray for slot in rule.slots)


def test_array_subclasses_keep_their_nature(rule):
    masked = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
    params, expected = {"W": masked}, {"W": masked.copy()}
    fast, numpy = rule.fast(), rule.numpy()
    fast.update(params, {"W": np.ones(3)})
    numpy.update(expected, {"W": np.ones(3)})
    assert params["W"] is masked
    assert masked.mask.tolist() == [False, True, False]
    assert_same_bits(masked.filled(0), expected["W"].filled(0))


def test_no_array_is_as_large_as_the_parameter(rule, dtype, rng):
    """After the first update, which makes the state, an update allocates next to nothing."""
    import tracemalloc

    n = 200_000
    params = {"W": rng.standard_normal(n).astype(dtype), "X": np.zeros((n // 10, 10), dtype)}
    other = np.float32 if dtype == np.float64 else np.float64
    grads = {"W": rng.standard_normal(n).astype(dtype), "X": np.ones((10, n // 10), other).T}
    fast = rule.fast()
    fast.update(params, grads)
    fast.update(params, grads)
    tracemalloc.start()
    fast.update(params, grads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


def test_usual_arrays_are_plain_to_the_checks(rule, dtype):
    """So that the twin spends its time in NumPy and not in checks."""
    param, grad, held = (
        np.ones(3, dtype),
        np.ones(3, dtype),
        (np.ones(3, dtype),) * len(rule.slots),
    )
    group = Step(rule.numpy(), ["W"]).group("W")
    for state in ((None,) * len(rule.slots), held):
        assert make_entry(0, "W", param, grad, state, group, rule.slots, {}).plain
    assert not make_entry(0, "W", param, np.ones(3, int), held, group, rule.slots, {}).plain
