"""State as a dict and in files: a run that is resumed is the run that never stopped."""

import itertools
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from make_fixtures import CASES, FOLDER, description
from process import python
from table import assert_same_bits, assert_same_run, keys_of

import zdlfast
from zdlfast import _state, reference

pytestmark = pytest.mark.each_kind

ENDINGS = [".npz", ".safetensors"]
KILLS = 60


@pytest.fixture(params=ENDINGS)
def ending(request):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return request.param


def make(rng, kind, dtype):
    shapes = [(3, 4), (4,), (), (0, 2), (5, 2, 2)]
    values = [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    values[-1] = values[-1].transpose(2, 0, 1)
    if kind == "list":
        return values
    return dict(zip(["W1", "b1", 7, ("a", 2), "b/ 二"], values, strict=True))


def like(rng, params):
    keys = keys_of(params)
    values = [np.asarray(rng.standard_normal(params[k].shape), params[k].dtype) for k in keys]
    return values if isinstance(params, list) else dict(zip(keys, values, strict=True))


def copied(params):
    if isinstance(params, list):
        return [value.copy() for value in params]
    return {key: value.copy() for key, value in params.items()}


@pytest.mark.parametrize("kind", ["dict", "list"])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_file_goes_on_bit_for_bit(rule, dtype, rng, kind, steps, ending, tmp_path):
    optimizer, params = rule.fast(**rule.options), make(rng, kind, dtype)
    for _ in range(steps):
        optimizer.update(params, like(rng, params))
    path = tmp_path / f"state{ending}"
    zdlfast.save(path, optimizer, params)
    loaded, loaded_params = zdlfast.load(path)
    assert type(loaded) is rule.fast
    assert repr(loaded) == repr(optimizer)
    assert list(keys_of(loaded_params)) == list(keys_of(params))
    assert_same_run(loaded, optimizer, loaded_params, params)
    for _ in range(3):
        grads = like(rng, params)
        optimizer.update(params, grads)
        loaded.update(loaded_params, grads)
        assert_same_run(loaded, optimizer, loaded_params, params)


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_a_state_dict_goes_on_bit_for_bit_and_is_a_copy(rule, dtype, rng, kind):
    optimizer, params = rule.fast(**rule.options), make(rng, kind, dtype)
    optimizer.update(params, like(rng, params))
    state, views = optimizer.state_dict(), optimizer.state_dict(copy=False)
    twin, twin_params = rule.numpy(), copied(params)
    twin.load_state_dict(state)
    assert_same_run(optimizer, twin, params, twin_params)
    grads = like(rng, params)
    optimizer.update(params, grads)
    twin.update(twin_params, grads)
    assert_same_run(optimizer, twin, params, twin_params)
    for slot in rule.slots:
        for key in keys_of(params):
            assert np.shares_memory(views["state"][slot][key], getattr(optimizer, slot)[key]) or (
                params[key].size == 0
            )
            assert not np.shares_memory(state["state"][slot][key], getattr(twin, slot)[key])
    assert json.dumps({k: v for k, v in state.items() if k != "state"})


def test_another_process_resumes(tmp_path):
    train = """
import numpy as np, zdlfast
def steps(optimizer, params, first, last):
    for step in range(first, last):
        rng = np.random.default_rng(step)
        optimizer.update(params, {k: rng.standard_normal(v.shape) for k, v in params.items()})
"""
    first = (
        train
        + f"""
optimizer, params = zdlfast.Adam(lr=0.1), {{"W": np.ones(1000), "b": np.zeros(7)}}
steps(optimizer, params, 0, 5)
zdlfast.save({str(tmp_path / "a.npz")!r}, optimizer, params)
"""
    )
    second = (
        train
        + f"""
optimizer, params = zdlfast.load({str(tmp_path / "a.npz")!r})
steps(optimizer, params, 5, 9)
zdlfast.save({str(tmp_path / "b.npz")!r}, optimizer, params)
"""
    )
    for code in (first, second):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    resumed, resumed_params = zdlfast.load(tmp_path / "b.npz")
    names = {}
    exec(train, names)
    optimizer, params = zdlfast.Adam(lr=0.1), {"W": np.ones(1000), "b": np.zeros(7)}
    names["steps"](optimizer, params, 0, 9)
    assert_same_run(resumed, optimizer, resumed_params, params)


def test_numbers_and_special_values_come_back(tmp_path, ending):
    params = {
        "x": 1.5,
        "n": 3,
        "s": np.float32(0.1),
        "z": np.array([np.nan, -0.0, np.inf, 5e-324]),
    }
    optimizer = zdlfast.Adam()
    optimizer.update(params, dict.fromkeys(params, 1.0) | {"z": np.ones(4)})
    zdlfast.save(tmp_path / f"a{ending}", optimizer, params)
    loaded, back = zdlfast.load(tmp_path / f"a{ending}")
    for key, value in params.items():
        assert type(back[key]) is type(value)
        assert_same_bits(back[key], value)
    assert_same_run(loaded, optimizer, back, params)


@pytest.mark.parametrize(
    ("version", "case"),
    [(version, case.__name__) for version, cases in CASES.items() for case in cases],
)
def test_files_of_older_versions_load_bit_for_bit(version, case, ending):
    expected = json.loads((FOLDER / f"{version}-expected.json").read_text())[case]
    loaded = description(*zdlfast.load(FOLDER / f"{version}-{case}{ending}"))
    assert json.loads(json.dumps(loaded)) == expected


def test_state_in_few_bits_that_is_tied_has_memory_of_its_own_when_it_is_loaded(ending, tmp_path):
    params = {key: np.ones(600) for key in "ab"}
    optimizer = zdlfast.Adam(state="8bit", state_min_size=1)
    optimizer.update(params, {key: np.full(600, 0.5) for key in "ab"})
    for slot in (optimizer.m, optimizer.v):
        slot["b"] = slot["a"]
    zdlfast.save(tmp_path / f"a{ending}", optimizer, params)
    loaded, _ = zdlfast.load(tmp_path / f"a{ending}")
    for slot, held in ((loaded.m, optimizer.m), (loaded.v, optimizer.v)):
        for key in "ab":
            assert_same_bits(slot[key].numpy(), held[key].numpy())
        assert not np.shares_memory(slot["a"].codes, slot["b"].codes)


def test_a_velocity_that_version_0_1_0_widened_goes_on_when_it_is_cast(ending):
    """As the changelog says."""
    optimizer, params = zdlfast.load(FOLDER / f"0.1.0-widened{ending}")
    grads = {"W": np.ones((2, 3), np.float32)}
    with pytest.raises(TypeError, match="cast the state by astype"):
        optimizer.update(params, grads)
    optimizer.v = {k: v.astype(params[k].dtype) for k, v in optimizer.v.items()}
    expected = optimizer.v["W"] * np.float32(0.7) - np.float32(0.2) * grads["W"]
    optimizer.update(params, grads)
    assert_same_bits(optimizer.v["W"], expected)


# ------------------------------------------------------------------ no more than is needed


class Key:
    """Counts how often keys are looked up, or put into a dict."""

    lookups = 0

    def __hash__(self):
        Key.lookups += 1
        return id(self)


def test_a_state_dict_of_many_keys_is_looked_through_a_few_times():
    params = {Key(): np.ones(1) for _ in range(500)}
    optimizer, again = zdlfast.Adam(), zdlfast.Adam()
    optimizer.update(params, params)
    state = optimizer.state_dict()
    for _ in range(2):  # into nothing, and into the state that is there
        Key.lookups = 0
        again.load_state_dict(state)
        assert Key.lookups < 50 * len(params)


@pytest.mark.parametrize("kind", [dict, list])
def test_what_a_file_takes_grows_with_its_keys_and_no_faster(tmp_path, ending, kind):
    def events(function, *args):
        """How often something is called, or a generator goes on."""
        count = 0

        def profile(*_):
            nonlocal count
            count += 1

        sys.setprofile(profile)
        function(*args)
        sys.setprofile(None)
        return count

    counts = []
    for n in (0, 100, 200):
        params, optimizer = {f"W{i}": np.ones(1) for i in range(n)}, zdlfast.Adam()
        params = list(params.values()) if kind is list else params
        optimizer.update(params, params)
        path, state = tmp_path / f"a{ending}", optimizer.state_dict()
        zdlfast.save(path, optimizer, params)
        optimizer.load_state_dict(state)
        zdlfast.load(path)
        counts.append(
            [
                events(zdlfast.save, path, optimizer, params),
                events(zdlfast.load, path),
                events(optimizer.load_state_dict, state),
            ]
        )
    none, some, twice = np.array(counts)
    assert np.all(twice - some <= 1.1 * (some - none))


def test_a_state_of_a_file_is_not_copied(tmp_path, ending):
    params, optimizer = {"W": np.ones(1_000_000)}, zdlfast.Adam()
    optimizer.update(params, params)
    zdlfast.save(tmp_path / f"a{ending}", optimizer, params)
    zdlfast.load(tmp_path / f"a{ending}")
    tracemalloc.start()
    loaded = zdlfast.load(tmp_path / f"a{ending}")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert loaded
    assert 24e6 < held < 25e6
    assert peak < 33e6  # safetensors copies the array that it reads


# ------------------------------------------------------------------ numbers of a rule


class Weighted(zdlfast.Momentum):
    """With two floats that belong to its state."""

    _numbers = ("product", "weights")
    product, weights = 1.0, 0.0


def test_numbers_of_a_rule_belong_to_its_state():
    optimizer, params = Weighted(), {"W": np.ones(2)}
    optimizer.update(params, params)
    optimizer.product, optimizer.weights = 0.1 + 0.2, np.float64(3)
    again = Weighted()
    state = optimizer.state_dict()
    again.load_state_dict(
        json.loads(json.dumps(state | {"state": {}})) | {"state": state["state"]}
    )
    assert (again.product, again.weights) == (0.1 + 0.2, 3.0)
    assert type(again.weights) is float
    missing = {key: value for key, value in state.items() if key != "weights"}
    with pytest.raises(ValueError, match="no 'weights'"):
        again.load_state_dict(missing)
    with pytest.raises(TypeError, match=r"product must be a float, got 1$"):
        again.load_state_dict(state | {"product": 1})
    assert (again.product, again.weights) == (0.1 + 0.2, 3.0)
    with pytest.raises(ValueError, match="unknown key 'product'"):
        zdlfast.Momentum().load_state_dict(state | {"class": "Momentum"})


@pytest.mark.parametrize("numbers", [("product",), ()])
def test_numbers_of_a_rule_are_in_its_files(tmp_path, ending, monkeypatch, numbers):
    for cls in (zdlfast.Momentum, reference.Momentum):
        monkeypatch.setattr(cls, "_numbers", numbers, raising=False)
    optimizer = reference.Momentum()
    vars(optimizer)["product"] = 0.1 + 0.2
    zdlfast.save(tmp_path / f"a{ending}", optimizer)
    loaded, _ = zdlfast.load(tmp_path / f"a{ending}")
    assert getattr(loaded, "product", None) == (0.1 + 0.2 if numbers else None)


# ------------------------------------------------------------------ what does not fit


def state_of(cls=zdlfast.Adam, shape=(3,), dtype=np.float64, **changes):
    optimizer = cls()
    optimizer.update({"W": np.ones(shape, dtype)}, {"W": np.ones(shape, dtype)})
    return {**optimizer.state_dict(), **changes}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda s: 3, TypeError, r"must be a dict, got int: expected what state_dict\(\) of Adam"),
        (lambda s: {"state": {0: {"step": 1}}, "param_groups": []}, ValueError,
         r"the state of an optimizer of torch, expected what state_dict\(\) of Adam returned"),
        (lambda s: dict.fromkeys(["fc.weight", "fc.bias", "c", "d"], np.ones(3)), ValueError,
         "arrays, such as a model's parameters, with the keys 'fc.weight', 'fc.bias', 'c', ..., "),
        (lambda s: {"a": 1}, ValueError, "format: it is a dict with the keys 'a', expected what"),
        (lambda s: {}, ValueError, "it is an empty dict, expected what"),
        (lambda s: state_of(zdlfast.RMSprop), ValueError, "of 'RMSprop', expected 'Adam'"),
        (lambda s: s | {"format": 4}, ValueError, "format 4, which is newer"),
        (lambda s: s | {"format": "1"}, ValueError, "format '1'"),
        (lambda s: s | {"more": 1}, ValueError, "unknown key 'more'"),
        (lambda s: {k: v for k, v in s.items() if k != "iter"}, ValueError, "no 'iter'"),
        (lambda s: s | {"iter": -1}, ValueError, "iter must be >= 0, got -1"),
        (lambda s: s | {"iter": 1.5}, TypeError, "iter must be a whole number"),
        (lambda s: s | {"options": {}}, ValueError, "options has no 'lr'"),
        (lambda s: s | {"options": s["options"] | {"mu": 1}}, ValueError, "unknown key 'mu'"),
        (lambda s: s | {"options": s["options"] | {"beta1": 2}}, ValueError, "beta1 must be in"),
        (lambda s: s | {"state": {"m": None}}, ValueError, "arrays has no 'v'"),
        (lambda s: s | {"state": {"m": {"W": [1.0]}, "v": {}}}, TypeError, r"m\['W'\] must be an"),
        (lambda s: s | {"state": {"m": {"W": np.ones(3, int)}, "v": {}}}, TypeError, "got int64"),
        (lambda s: s | {"state": {"m": s["state"]["m"], "v": {}}}, ValueError, r"\] has None"),
        (lambda s: s | {"state": {"m": {}, "v": s["state"]["v"]}}, ValueError, "more keys"),
        (lambda s: s | {"state": {"m": None, "v": s["state"]["v"]}}, ValueError, "no containers"),
        (lambda s: s | {"state": {"m": {"W": np.ones(2)}, "v": {"W": np.ones(3)}}}, ValueError,
         r"m\['W'\] has shape \(2,\), but v\['W'\] has \(3,\)"),
        (lambda s: state_of(shape=(4,)), ValueError, r"has shape \(4,\), but this optimizer's"),
        (lambda s: state_of(dtype=np.float32), ValueError, "has dtype float32, but this"),
        (lambda s: s | {"state": {n: list(v.values()) for n, v in s["state"].items()}}, ValueError,
         "is a list, but this optimizer has a dict"),
        (lambda s: s | {"state": {n: v | {"b": np.ones(1)} for n, v in s["state"].items()}},
         ValueError, "no key 'b' in this optimizer"),
        (lambda s: s | {"state": {n: {} for n in s["state"]}}, ValueError, "no key 'W' in it"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_and_changes_nothing(change, error, text):
    optimizer = zdlfast.Adam(lr=0.5)
    params = {"W": np.ones(3)}
    optimizer.update(params, {"W": np.ones(3)})
    before = optimizer.state_dict()
    with pytest.raises(error, match=text):
        optimizer.load_state_dict(change(state_of()))
    after = optimizer.state_dict()
    assert after.keys() == before.keys()
    for slot in ("m", "v"):
        assert_same_bits(after["state"][slot]["W"], before["state"][slot]["W"])
    assert (after["options"], after["iter"]) == (before["options"], before["iter"])


@pytest.mark.parametrize("key", [1.5, None, True, ("a", None)])
def test_a_key_that_no_file_can_hold_is_told(tmp_path, key):
    with pytest.raises(TypeError, match="expected a string, a whole number, or a tuple"):
        zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(), {key: np.ones(2)})
    assert list(tmp_path.iterdir()) == []


class Own(zdlfast.Adam):
    pass


def test_a_class_of_ones_own_is_told_when_it_is_saved(tmp_path):
    with pytest.raises(TypeError, match=r"Own could not be loaded.*save its state_dict"):
        zdlfast.save(tmp_path / "a.npz", Own())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value", ["text", np.array(["text"]), np.array([None]), [1.0], np.ma.array([1.0], mask=[True])]
)
def test_a_value_that_no_file_can_hold_is_told(tmp_path, value):
    with pytest.raises(TypeError, match=r"params\['W'\]"):
        zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(), {"W": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", list(itertools.permutations(range(3)))[1:])
def test_arguments_in_another_order_are_told(tmp_path, order):
    path, huge = str(tmp_path / "a.npz"), {"W": np.ones(10_000)}
    given = [path, zdlfast.Adam(), huge]
    names = [repr(path), "the optimizer Adam", "a value of type builtins.dict"]
    expected = ", ".join(names[i] for i in order)
    with pytest.raises(TypeError) as caught:
        zdlfast.save(*(given[i] for i in order))
    assert str(caught.value) == f"save expects (path, optimizer, params), got ({expected})"
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_optimizer_is_told(tmp_path):
    class SGD:
        """As torch's: it has a state, too."""

        def load_state_dict(self, state):
            pass

    for given in (SGD(), None, {}):
        with pytest.raises(TypeError, match=r"expects \(path, optimizer, params\), got \('"):
            zdlfast.save("a.npz", given)
    with pytest.raises(TypeError, match=r"got \(the optimizer Adam, .*\.dict, None\)"):
        zdlfast.save(reference.Adam(), {})


def test_another_ending_is_told(tmp_path):
    for act in (lambda p: zdlfast.save(p, zdlfast.SGD()), zdlfast.load):
        with pytest.raises(ValueError, match=r"must end in \.npz or \.safetensors"):
            act(tmp_path / "state.pkl")


def test_damaged_and_other_files_are_told(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    zdlfast.save(path, zdlfast.Adam(), {"W": np.ones(100)})
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        zdlfast.load(tmp_path / f"b{ending}")
    for data in (b"", b"nonsense", whole[:50], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="cannot be loaded") as caught:
            zdlfast.load(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_the_npz_of_another_program_is_told(tmp_path, write):
    write(tmp_path / "a.npz", W=np.ones(2), b=np.array([{}]), c=1, d=1)
    with pytest.raises(
        ValueError, match=r"arrays \('W', 'b', 'c', \.\.\.\) and no optimizer, exp"
    ):
        zdlfast.load(tmp_path / "a.npz")


def test_the_safetensors_of_another_program_is_told(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"W": np.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"arrays \('W'\) and no optimizer, expected a file that"):
        zdlfast.load(tmp_path / "a.safetensors")


def test_no_flipped_bit_is_taken_for_a_state(tmp_path, rng, ending):
    """What is loaded is what was saved, or an error: of the arrays, their headers, the options."""
    optimizer = zdlfast.Momentum(lr=0.1)
    params = {"W": np.arange(600.0).reshape(20, 30), "b": np.ones(3, np.float32)}
    optimizer.update(params, params)
    path = tmp_path / f"a{ending}"
    zdlfast.save(path, optimizer, params)
    whole, refused = path.read_bytes(), 0
    # Most bits are of numbers; those of headers come before and between them.
    places = {*rng.integers(0, 8 * len(whole), 500), *range(0, 8 * 600, 7)}
    places |= set(range(8 * (len(whole) - 700), 8 * len(whole), 7))
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            loaded, loaded_params = zdlfast.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - it may be right, too
            refused += 1
        else:  # a time stamp
            assert repr(loaded) == repr(optimizer)
            assert_same_run(loaded, optimizer, loaded_params, params)
    assert refused > 500


def test_a_path_that_cannot_be_read_is_an_os_error(tmp_path, ending):
    with pytest.raises(FileNotFoundError):
        zdlfast.load(tmp_path / f"none{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises((IsADirectoryError, PermissionError)):
        zdlfast.load(tmp_path / f"folder{ending}")
    with pytest.raises(OSError, match="folder"):
        zdlfast.save(tmp_path / f"folder{ending}", zdlfast.SGD())
    with pytest.raises(FileNotFoundError):
        zdlfast.save(tmp_path / "missing" / f"a{ending}", zdlfast.SGD())


def test_a_dtype_that_safetensors_lacks_is_named(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(TypeError, match=r"params\.0 has dtype complex128.*\.npz can"):
        zdlfast.save(tmp_path / "a.safetensors", zdlfast.SGD(), {"W": np.ones(2, complex)})
    assert list(tmp_path.iterdir()) == []


def test_state_of_another_dtype_or_shape_is_told_by_the_update(rule):
    for make in (rule.fast, rule.numpy):
        for wrong in (np.ones(3, np.float32), np.ones(4)):
            if rule.slots:
                trained, optimizer = make(), make()
                trained.update({"W": wrong}, {"W": np.ones_like(wrong)})
                optimizer.load_state_dict(trained.state_dict())
                params = {"W": np.ones(3)}
                text = rf"state {rule.slots[0]}\['W'\] has (dtype float32|shape \(4,\)), but its"
                with pytest.raises((TypeError, ValueError), match=text):
                    optimizer.update(params, {"W": np.ones(3)})
                assert_same_bits(params["W"], np.ones(3))


def test_a_newer_format_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(_state, "FORMAT", 4)
    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="format 4, which is newer than this zdlfast reads"):
        zdlfast.load(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["f2", "f4", "c16"])
def test_state_of_another_dtype_is_told_for_numbers_too(rule, dtype):
    for make in (rule.fast, rule.numpy):
        if rule.slots:
            trained, optimizer = make(), make()
            trained.update({"x": np.array(1, dtype)}, {"x": np.array(1, dtype)})
            optimizer.load_state_dict(trained.state_dict())
            params = {"x": 1.0}
            with pytest.raises(
                TypeError, match=r"'x'\] has dtype .*, but its parameter has float64"
            ):
                optimizer.update(params, {"x": 1.0})
            assert params == {"x": 1.0}


# ------------------------------------------------------------------ whole or not at all


def test_a_file_is_replaced_and_nothing_lies_about(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    for lr in (0.1, 0.2):
        zdlfast.save(path, zdlfast.SGD(lr=lr))
    assert zdlfast.load(path)[0].lr == 0.2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="needs resource limits")
def test_a_full_disk_leaves_the_old_file_whole(tmp_path, ending):
    code = f"""
import resource, signal, numpy as np, zdlfast
path = {str(tmp_path / f"a{ending}")!r}
zdlfast.save(path, zdlfast.SGD(lr=0.1), {{"W": np.ones(10)}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    zdlfast.save(path, zdlfast.SGD(lr=0.2), {{"W": np.ones(10_000)}})
except OSError as error:
    print("told", zdlfast.load(path)[0].lr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "told 0.1\n", done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [f"a{ending}"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path, ending):
    """At counted bytecodes: the same ones in every run."""
    code = f"""
import os, signal, sys, numpy as np, zdlfast
path, count = {str(tmp_path / f"a{ending}")!r}, 0
def save(lr):
    zdlfast.save(path, zdlfast.SGD(lr=lr), {{"W": np.full(20_000, float(lr))}})
def save_until(stop):
    def trace(frame, event, _):
        global count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            count += 1
            if count == stop:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    save(1)
    sys.settrace(None)
save(0)
save_until(None)    # Python 3.12 tells of bytecodes from the second time on
count = 0
save(0)
save_until(None)
save(0)
# Some of all, and the last ones.
places, count = {{*range(1, count, count // {KILLS}), *range(count - 500, count + 1, 10)}}, 0
found = []
for place in sorted(places):
    child = os.fork()
    if child == 0:
        save_until(place)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    optimizer, params = zdlfast.load(path)
    assert params["W"].shape == (20_000,) and np.all(params["W"] == optimizer.lr)
    found.append(optimizer.lr)
    if optimizer.lr == 1:
        save(0)
print(found == sorted(found), *sorted(set(found)))
"""
    done = python(code, PYTHONWARNINGS="ignore")
    assert done.stdout == "True 0.0 1.0\n", done.stderr
    left = [p.name for p in tmp_path.iterdir()]
    assert all(name == f"a{ending}" or name.endswith(".tmp") for name in left)
    assert len(left) > 2  # some kills came in the middle of a file


def test_tied_parameters_stay_tied(tmp_path, ending):
    tied = np.ones(3)
    params = {"in": tied, "b": np.ones(3), "out": tied}
    zdlfast.save(tmp_path / f"a{ending}", zdlfast.SGD(), params)
    _, loaded = zdlfast.load(tmp_path / f"a{ending}")
    assert loaded["in"] is loaded["out"]
    assert loaded["in"] is not loaded["b"]


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_views_of_one_memory_stay_so_and_training_goes_on(rule, rng, tmp_path, ending, kind):
    """As in book 2, where a matrix and its transpose are two parameters."""

    def network():
        embed, buffer = np.arange(12.0).reshape(3, 4), np.arange(40, dtype=np.float32)
        values = [embed, embed.T, buffer[5:30:2], buffer[::-1], np.ones(3), buffer[:0], 1.5]
        return values if kind == "list" else dict(enumerate(values))

    params, optimizer = network(), rule.fast(lr=0.1)
    gradients = [like(rng, {k: np.asarray(params[k]) for k in range(7)}) for _ in range(4)]
    for grads in gradients[:2]:
        optimizer.update(params, list(grads.values()) if kind == "list" else grads)
    zdlfast.save(tmp_path / f"a{ending}", optimizer, params)
    loaded, loaded_params = zdlfast.load(tmp_path / f"a{ending}")
    for a in range(6):
        for b in range(6):
            assert np.may_share_memory(loaded_params[a], loaded_params[b]) == (
                np.may_share_memory(params[a], params[b])
            )
    for grads in gradients[2:]:
        for each, own in ((optimizer, params), (loaded, loaded_params)):
            each.update(own, list(grads.values()) if kind == "list" else grads)
    assert_same_run(loaded, optimizer, loaded_params, params)


def test_arrays_that_a_mapping_makes_at_each_call_are_not_taken_for_one(tmp_path):
    class Making(dict):
        def __getitem__(self, key):
            return np.full(3, float(key))

    params = Making(dict.fromkeys(range(50)))
    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(), params)
    _, loaded = zdlfast.load(tmp_path / "a.npz")
    assert [value[0] for value in loaded.values()] == list(range(50))


@pytest.mark.skipif(os.name != "posix", reason="needs links and rights")
def test_links_are_followed_and_rights_are_kept(tmp_path):
    (tmp_path / "real.npz").write_text("")
    (tmp_path / "real.npz").chmod(0o640)
    (tmp_path / "a.npz").symlink_to("real.npz")
    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(lr=0.3))
    assert (tmp_path / "a.npz").is_symlink()
    assert zdlfast.load(tmp_path / "real.npz")[0].lr == 0.3
    assert (tmp_path / "real.npz").stat().st_mode & 0o777 == 0o640


def test_an_error_while_saving_after_an_interrupt_is_that_error(tmp_path):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(FileNotFoundError):
            zdlfast.save(tmp_path / "missing" / "a.npz", zdlfast.SGD())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_stays(tmp_path):
    os.mkfifo(tmp_path / "a.npz")
    with pytest.raises(OSError, match="is no file that could be replaced"):
        zdlfast.save(tmp_path / "a.npz", zdlfast.SGD())
    assert (tmp_path / "a.npz").is_fifo()


def test_an_interrupt_while_saving_is_no_other_error(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("cannot close")  # as zipfile does then

    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(lr=0.3))
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(lr=0.4), {"W": np.ones(3)})
    monkeypatch.undo()
    assert zdlfast.load(tmp_path / "a.npz")[0].lr == 0.3
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_read_only_file_stays(tmp_path, monkeypatch):
    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(lr=0.3))
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for others than root
    with pytest.raises(PermissionError, match="is read-only"):
        zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(lr=0.4))
    assert zdlfast.load(tmp_path / "a.npz")[0].lr == 0.3


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(path)

    monkeypatch.setattr(os, "open", refuse)
    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD(lr=0.3))
    monkeypatch.undo()
    assert zdlfast.load(tmp_path / "a.npz")[0].lr == 0.3


@pytest.mark.skipif(os.name == "nt", reason="Windows counts the folders too")
@pytest.mark.skipif(os.name == "nt", reason="Windows may count the whole path, up to 260")
def test_a_long_name_is_no_error(tmp_path):
    path = tmp_path / ("a" * 240 + ".npz")
    zdlfast.save(path, zdlfast.SGD())
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_the_rights_that_others_have(tmp_path):
    zdlfast.save(tmp_path / "a.npz", zdlfast.SGD())
    Path(tmp_path / "b").write_text("")
    assert (tmp_path / "a.npz").stat().st_mode == (tmp_path / "b").stat().st_mode
