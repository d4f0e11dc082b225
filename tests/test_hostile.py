"""Hostile and odd input: an error or NumPy's result, never a crash and never half an update."""

import ctypes
import mmap
import os
import sys
from collections import OrderedDict, UserDict, defaultdict
from multiprocessing import shared_memory

import numpy as np
import pytest
from process import python
from table import assert_same_bits, assert_same_run, past_the_first

import zdlfast

pytestmark = pytest.mark.each_kind

# Of Linux, where Python's mmap does not tell them.
NORESERVE, MAP_FIXED = 0x4000, 0x10


@pytest.fixture(params=["fast", "numpy"])
def make(request, rule):
    return getattr(rule, request.param)


# ------------------------------------------------------------------ containers


class Changing(UserDict):
    """Does something at each look-up."""

    act = staticmethod(lambda key: None)

    def __getitem__(self, key):
        self.act(key)
        return super().__getitem__(key)


@pytest.mark.parametrize("where", ["params", "grads"])
@pytest.mark.parametrize("act", ["grow", "shrink", "exchange"])
def test_a_container_that_changes_during_the_walk(make, where, act):
    params, grads = ({k: np.ones(70) for k in "abc"} for _ in range(2))
    changing = Changing(params if where == "params" else grads)
    held = dict(params)

    def change(_):
        if act == "grow":
            changing.data["d"] = np.ones(70)
        elif act == "shrink":
            changing.data.pop("c", None)
        else:
            changing.data["c"] = np.full(70, 5.0)

    changing.act = change
    optimizer = past_the_first(make())
    given = (changing, grads) if where == "params" else (params, changing)
    try:
        optimizer.update(*given)
    except KeyError:
        assert act == "shrink"
        assert all(np.all(held[key] == 1.0) for key in "abc")
    else:
        assert all(np.all(held[key] < 1.0) for key in "ab")


COLLECTED = """
import gc
import numpy as np
import zdlfast

class Cycle:
    def __init__(self, *containers):
        self.me, self.containers = self, containers

    def __del__(self):
        for container in self.containers:
            container.clear()

gc.freeze()
for threshold in range(1, 20):
    gc.disable()
    optimizer = zdlfast.Adam()
    params, grads = {"W": np.ones(70)}, {"W": np.ones(70)}
    Cycle(params, grads)
    gc.set_threshold(threshold)
    gc.enable()
    optimizer.update(params, grads)
    assert all(np.allclose(m, 0.1) for m in optimizer.m.values())
"""


def test_garbage_that_is_collected_during_an_update_may_empty_its_containers():
    # Memory that is freed too early is overwritten, by Python's debug hooks, and used.
    run = python(COLLECTED, PYTHONMALLOC="debug")
    assert run.returncode == 0, run.stderr


def test_an_option_whose_comparison_changes_the_optimizer():
    run = python(
        "import numpy as np, zdlfast\n"
        "class Text(str):\n"
        "    __hash__ = str.__hash__\n"
        "    def __eq__(self, other):\n"
        "        optimizer.v = None\n"
        "        return True\n"
        "    __ne__ = __eq__\n"
        "optimizer = zdlfast.Momentum()\n"
        "params = {'W': np.ones(70)}\n"
        "optimizer.update(params, params)\n"
        "optimizer.nonfinite = Text('propagate')\n"
        "optimizer.v = {'W': np.ones(70)}\n"
        "optimizer.update(params, params)\n",
        PYTHONMALLOC="debug",
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError, StopIteration, OSError])
def test_a_getitem_that_raises_changes_nothing(make, error):
    def act(key):
        if key == "c":
            raise error("no")

    for where in ("params", "grads"):
        params, grads = ({k: np.ones(5) for k in "abc"} for _ in range(2))
        optimizer, changing = make(), Changing(params if where == "params" else grads)
        changing.act = act
        given = (changing, grads) if where == "params" else (params, changing)
        with pytest.raises(error):
            optimizer.update(*given)
        assert all(np.all(params[key] == 1.0) for key in "abc")


def test_gradients_are_looked_up_once(make):
    class Popping(UserDict):
        def __getitem__(self, key):
            return self.data.pop(key)

    for dtype in (np.float16, np.float64):
        params = {"a": np.ones(3, dtype), "b": np.ones(3, dtype)}
        optimizer = make(lr=0.1)
        for _ in range(2):
            optimizer.update(params, Popping(a=np.ones(3, dtype), b=np.ones(3, dtype)))
        assert params["a"][0] < 1


def test_a_gradient_that_is_another_one_each_time_is_used_as_it_was_checked(make):
    class Fickle(dict):
        shapes = iter([(3,), (4,), (5,), (6,)] * 5)

        def __getitem__(self, key):
            return np.ones(next(self.shapes))

    params = {"a": np.ones(3)}
    past_the_first(make()).update(params, Fickle(a=None))
    assert params["a"].shape == (3,)
    assert params["a"][0] < 1


def test_a_key_that_resizes_an_array_harms_no_memory(rule):
    """Its comparison runs during a look-up; the arrays before it have been looked at."""
    big = np.zeros(3_000_000)

    class Key(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other):
            big.resize(1, refcheck=False)
            return str.__eq__(self, other)

    optimizer = rule.fast()
    params = {"a": big, "b": np.zeros(3)}
    optimizer.update(params, {"a": np.ones(3_000_000), "b": np.ones(3)})
    with pytest.raises(ValueError, match=r"'a'.* has shape"):
        optimizer.update(params, {"a": np.ones(3_000_000), "x": 1, Key("b"): np.ones(3)})


class Key:
    """Hashable a few times."""

    left = 1000

    def __hash__(self):
        Key.left -= 1
        if Key.left == 0:
            raise RuntimeError("no more hashes")
        return 5

    def __eq__(self, other):
        return self is other


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda: defaultdict(int)])
def test_a_key_that_raises_at_any_moment_changes_nothing(make, rule, kind):
    for left in range(1, 60):
        Key.left = 1000
        key, optimizer = Key(), make()
        params = {"a": np.ones(3), "x": 1.0}
        for slot in rule.slots:
            setattr(optimizer, slot, kind())
        optimizer.update(params, {"a": np.ones(3), "x": 1.0})
        params[key] = np.ones(4)
        grads = {"a": np.ones(3), "x": 1.0, key: np.ones(4)}
        before = {k: np.copy(v) for k, v in params.items()}
        state = [dict(getattr(optimizer, slot)) for slot in rule.slots]
        copies = [{k: v.copy() for k, v in held.items()} for held in state]
        count = getattr(optimizer, "iter", None)
        Key.left = left
        try:
            optimizer.update(params, grads)
        except RuntimeError:
            Key.left = 1000
            for k in ("a", "x", key):
                assert_same_bits(params[k], before[k])
            for slot, held, copied in zip(rule.slots, state, copies, strict=True):
                assert list(getattr(optimizer, slot)) == list(held)
                for k in held:
                    assert getattr(optimizer, slot)[k] is held[k]
                    assert_same_bits(held[k], copied[k])
            assert getattr(optimizer, "iter", None) == count
        Key.left = 1000
        optimizer.update(params, grads)
        optimizer.state_dict()


def test_a_defaultdict_of_state_gets_no_defaults(make, rule):
    optimizer = make()
    for slot in rule.slots:
        setattr(optimizer, slot, defaultdict(int))
    with pytest.raises(ValueError, match="shape"):
        optimizer.update({"a": np.ones(3)}, {"a": np.ones(4)})
    assert all(getattr(optimizer, slot) == {} for slot in rule.slots)
    optimizer.update({"a": np.ones(3)}, {"a": np.ones(3)})


def test_very_many_keys(rule, rng):
    values = rng.standard_normal((5_000, 3))
    grads = rng.standard_normal((5_000, 3))
    fast, numpy = rule.fast(), rule.numpy()
    ours, theirs = dict(enumerate(values.copy())), dict(enumerate(values.copy()))
    for _ in range(2):
        fast.update(ours, dict(enumerate(grads)))
        numpy.update(theirs, dict(enumerate(grads)))
    assert_same_run(fast, numpy, ours, theirs)


# ------------------------------------------------------------------ arrays


def test_an_array_whose_shape_is_changed_between_calls(make, rule):
    optimizer, params = make(), {"W": np.ones((3, 4))}
    optimizer.update(params, {"W": np.ones((3, 4))})
    values = params["W"].copy()
    params["W"] = params["W"].reshape(4, 3)
    if rule.slots:
        with pytest.raises(ValueError, match=rf"{rule.slots[0]}\['W'\] has shape \(3, 4\)"):
            optimizer.update(params, {"W": np.ones((4, 3))})
        assert_same_bits(params["W"], values.reshape(4, 3))
    with pytest.raises(ValueError, match=r"grads\['W'\] has shape \(3, 4\)"):
        optimizer.update(params, {"W": np.ones((3, 4))})


@pytest.mark.parametrize(
    "dtype", ["U3", "S3", "V8", "M8[s]", "m8[s]", [("a", "f8"), ("b", "f4")]], ids=str
)
def test_arrays_of_no_numbers_are_named(make, dtype):
    odd = np.zeros(3, dtype)
    for params, grads in (({"W": odd}, {"W": np.ones(3)}), ({"W": np.ones(3)}, {"W": odd})):
        before = params["W"].tobytes()
        with pytest.raises(TypeError, match=r"\['W'\] must hold numbers, got an array of dtype"):
            make().update({"first": np.ones(2), **params}, {"first": np.ones(2), **grads})
        assert params["W"].tobytes() == before


def test_a_field_of_a_structured_array_is_an_array(rule):
    table = np.zeros(70, [("name", "S3"), ("W", "f8"), ("b", "f4")])
    table["W"] = np.arange(70)
    expected, numpy = {"W": table["W"].copy(), "b": table["b"].copy()}, rule.numpy()
    fast = rule.fast()
    for _ in range(2):
        grads = {"W": np.ones(70), "b": np.ones(70, np.float32)}
        fast.update({"W": table["W"], "b": table["b"]}, grads)
        numpy.update(expected, grads)
    assert_same_bits(table["W"], expected["W"])
    assert_same_bits(table["b"], expected["b"])


def test_a_read_only_memmap_is_refused_and_a_gradient_may_be_one(make, tmp_path):
    np.full(9, 2.0).tofile(tmp_path / "W")
    frozen = np.memmap(tmp_path / "W", np.float64, "r")
    first = np.ones(3)
    with pytest.raises(ValueError, match=r"params\['W'\] is read-only"):
        make().update({"a": first, "W": frozen}, {"a": np.ones(3), "W": np.ones(9)})
    assert_same_bits(first, np.ones(3))
    params = {"W": np.ones(9)}
    past_the_first(make()).update(params, {"W": frozen})
    assert params["W"][0] < 1


def test_arrays_over_shared_memory(rule, rng):
    memory = shared_memory.SharedMemory(create=True, size=8 * 1000)
    try:
        shared = np.ndarray(1000, np.float64, memory.buf)
        shared[...] = rng.standard_normal(1000)
        fast, numpy, expected = rule.fast(), rule.numpy(), {"W": shared.copy()}
        other = shared_memory.SharedMemory(memory.name)
        for _ in range(3):
            grads = {"W": rng.standard_normal(1000)}
            fast.update({"W": shared}, grads)
            numpy.update(expected, grads)
        view = np.ndarray(1000, np.float64, other.buf)
        assert_same_bits(view, expected["W"])
        del shared, view
        other.close()
    finally:
        memory.close()
        memory.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="maps one file many times")
def test_more_than_two_to_the_31_elements():
    """A file, mapped 130 times in a row: each of its elements is counted down as often."""
    period, times = 1 << 26, 130
    n = period // 4 * times + 77
    assert n > 2**31

    class Repeated:
        """Virtual memory that shows one file again and again."""

        def __init__(self):
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3]
            libc.mmap.argtypes += [ctypes.c_long]
            file = os.memfd_create("repeated")
            os.ftruncate(file, period)
            self.buffer = mmap.mmap(-1, period * (times + 1), mmap.MAP_PRIVATE | NORESERVE)
            start = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))
            for i in range(times + 1):
                both = mmap.PROT_READ | mmap.PROT_WRITE
                fixed = mmap.MAP_SHARED | MAP_FIXED
                at = libc.mmap(start + i * period, period, both, fixed, file, 0)
                assert at == start + i * period
            os.close(file)
            self.array = np.frombuffer(self.buffer, np.float32)

    try:
        param, grad = Repeated(), Repeated()
    except OSError as error:
        pytest.skip(f"no such maps here: {error}")
    grad.array[: period // 4] = 1.0
    with zdlfast.threads(1):
        zdlfast.SGD(lr=1.0).update({"W": param.array[:n]}, {"W": grad.array[:n]})
    assert np.all(param.array[:77] == -(times + 1))
    assert np.all(param.array[77 : period // 4] == -times)


@pytest.mark.skipif(sys.platform != "linux", reason="maps more memory than there is")
def test_elements_that_lie_gigabytes_apart(rule):
    try:
        buffer = mmap.mmap(-1, 3 << 32, mmap.MAP_PRIVATE | NORESERVE)
    except OSError as error:
        pytest.skip(f"no such maps here: {error}")
    far = np.ndarray((3, 5), np.float64, buffer, 0, (1 << 32, 8))
    far[...] = np.arange(15).reshape(3, 5)
    fast, numpy, expected = rule.fast(), rule.numpy(), {"W": far.copy()}
    for _ in range(2):
        fast.update({"W": far}, {"W": np.ones((3, 5))})
        numpy.update(expected, {"W": np.ones((3, 5))})
    assert_same_bits(far, expected["W"])


# ------------------------------------------------------------------ NumPy's floating-point errors


def test_kernels_neither_warn_nor_raise(rule):
    """They do not look at NumPy's settings: `nonfinite` is for that."""
    huge = {"W": np.full(9, 1e308)}
    fast, numpy = rule.fast(lr=1e10), rule.numpy(lr=1e10)
    ours, theirs = {"W": np.ones(9)}, {"W": np.ones(9)}
    with np.errstate(all="raise"):
        for _ in range(2):
            fast.update(ours, huge)  # pytest makes errors of warnings
    with np.errstate(all="ignore"):
        for _ in range(2):
            numpy.update(theirs, huge)
    assert_same_run(fast, numpy, ours, theirs)


def test_what_numpy_computes_warns_and_raises_as_numpy_does(make):
    params, grads = {"b": np.ones(3), "W": np.ones(9, np.float16)}, {}
    grads = {"b": np.ones(3), "W": np.full(9, 60000, np.float16)}
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        make(lr=1e5).update(params, grads)
    assert np.all(params["W"] == 1)
    assert np.all(params["b"] == 1)
    with np.errstate(all="warn"), pytest.warns(RuntimeWarning):
        make(lr=1e5).update(params, grads)


def test_numbers_in_a_list_may_be_left_alone_at_first(rule):
    runs = []
    for cls in (rule.fast, rule.numpy):
        optimizer, params = cls(), [[1.0, 2.0], np.ones(3)]
        optimizer.update(params, [None, np.ones(3)])
        assert params[0] == [1.0, 2.0]
        optimizer.update(params, [np.ones(2), np.ones(3)])
        runs.append((optimizer, params))
    assert_same_run(runs[0][0], runs[1][0], *(dict(enumerate(params)) for _, params in runs))


# ------------------------------------------------------------------ what was prepared is executed


@pytest.mark.parametrize("which", ["param", "grad", "state"])
@pytest.mark.parametrize("kind", ["dict", "list"])
def test_an_array_that_an_odd_entry_takes_away_is_an_error_and_all_is_as_before(rule, which, kind):
    """The code of the odd entry runs after the others were looked at, and before the kernels."""
    if which == "state" and not rule.slots:
        return
    param, grad, optimizer = np.ones(70), np.ones(70), rule.fast()

    class Resizing(np.ndarray):
        """Resizes an array of another entry as soon as it is computed with."""

        armed = False

        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
            if Resizing.armed:
                Resizing.armed = False
                state = getattr(optimizer, rule.slots[0])[first] if rule.slots else None
                taken = {"param": param, "grad": grad, "state": state}[which]
                taken.resize(700_000, refcheck=False)
            plain = [x.view(np.ndarray) if isinstance(x, Resizing) else x for x in inputs]
            if out is not None:
                kwargs["out"] = tuple(x.view(np.ndarray) for x in out)
            result = getattr(ufunc, method)(*plain, **kwargs)
            return out[0] if out is not None else np.asarray(result).view(Resizing)

    odd = np.ones(3).view(Resizing)
    first = "W" if kind == "dict" else 0
    params, grads = {"W": param, "odd": odd, "x": 1.0}, {"W": grad, "odd": np.ones(3), "x": 1.0}
    if kind == "list":
        params, grads = list(params.values()), list(grads.values())
    optimizer.update(params, grads)
    for slot in rule.slots:  # of memory of its own
        getattr(optimizer, slot)[first] = getattr(optimizer, slot)[first].copy()
    keys = list(params) if kind == "dict" else range(3)
    before = {k: np.array(params[k], copy=True) for k in keys}
    state = [{k: np.array(getattr(optimizer, s)[k]) for k in keys} for s in rule.slots]
    count = getattr(optimizer, "iter", None)
    Resizing.armed = True
    with pytest.raises(RuntimeError, match="an array was resized or exchanged during an update"):
        optimizer.update(params, grads)
    assert not Resizing.armed
    assert getattr(optimizer, "iter", None) == count
    for k in keys:  # what was resized has grown, but its values are there
        now = np.array(params[k]).ravel()
        assert_same_bits(now[: before[k].size], before[k].ravel())
        for slot, values in zip(rule.slots, state, strict=True):
            now = np.array(getattr(optimizer, slot)[k]).ravel()
            assert_same_bits(now[: values[k].size], values[k].ravel())
