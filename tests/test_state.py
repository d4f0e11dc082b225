"""State: public, live, picklable, and enough to go on bit for bit."""

import copy
import itertools
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from make_fixtures import FOLDER, pickled
from table import assert_same_run

import zdlfast
from zdlfast import reference

pytestmark = pytest.mark.each_kind


def network(rng):
    return {"W": rng.standard_normal((7, 5)), "b": rng.standard_normal(5).astype(np.float32)}


def through_dict(optimizer):
    again = type(optimizer)()
    again.__dict__.update(copy.deepcopy(vars(optimizer)))
    return again


COPIES = {
    **{f"pickle {p}": lambda o, p=p: pickle.loads(pickle.dumps(o, p)) for p in range(2, 6)},
    "deepcopy": copy.deepcopy,
    "__dict__": through_dict,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_goes_on_bit_for_bit(rule, rng, way, steps):
    optimizer = rule.fast(**rule.options)
    params = network(rng)
    gradients = [network(rng) for _ in range(8)]
    for grads in gradients[:steps]:
        optimizer.update(params, grads)
    again, copies = COPIES[way](optimizer), copy.deepcopy(params)
    assert type(again) is rule.fast
    for grads in gradients[steps:]:
        optimizer.update(params, grads)
        again.update(copies, grads)
    assert_same_run(again, optimizer, copies, params)


@pytest.mark.parametrize("protocol", [0, 1])
def test_what_version_0_1_0_pickled_by_an_old_protocol_goes_on(protocol):
    content = (FOLDER / f"0.1.0-protocol-{protocol}.pickle").read_bytes()
    assert b"_reconstructor" in content
    for optimizer, expected in zip(pickle.loads(content), pickled(), strict=True):
        assert type(optimizer) is type(expected)
        assert repr(optimizer) == repr(expected)
        params, others = {"W": np.ones(4)}, {"W": np.ones(4)}
        optimizer.update(params, {"W": np.ones(4)})
        expected.update(others, {"W": np.ones(4)})
        assert_same_run(optimizer, expected, params, others)


@pytest.mark.parametrize("protocol", [0, 1])
def test_what_is_no_optimizer_is_pickled_by_old_protocols_as_ever(protocol):
    value = SimpleNamespace(x=1)
    assert pickle.loads(pickle.dumps(value, protocol)) == value
    assert pickle.loads(pickle.dumps(Path("a"), protocol)) == Path("a")


class Own(zdlfast.Adam):
    """With what cannot be copied, and with slots."""

    __slots__ = ("note",)

    def __getstate__(self):
        state = super().__getstate__()
        attributes = dict(state[0] if isinstance(state, tuple) else state)
        attributes.pop("lock", None)
        return (attributes, state[1]) if isinstance(state, tuple) else attributes


class OwnSetting(Own):
    __slots__ = ()

    def __setstate__(self, state):
        vars(self).update(state[0])
        self.note = "set"


@pytest.mark.parametrize("way", ["pickle 4", "deepcopy"])
@pytest.mark.parametrize(("cls", "note"), [(Own, "mine"), (OwnSetting, "set")])
def test_a_subclass_may_say_how_it_is_copied(way, cls, note):
    optimizer = cls(lr=0.5)
    optimizer.lock, optimizer.note = threading.Lock(), "mine"
    optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
    again = COPIES[way](optimizer)
    assert (again.lr, again.iter, again.note) == (0.5, 1, note)
    assert not hasattr(again, "lock")
    assert again.m["W"] is not optimizer.m["W"]


class Reduced(reference.Adam):
    def __reduce__(self):
        return Reduced, (self.lr,)


class Single(zdlfast.SGD):
    def __reduce__(self):
        return "SINGLE"


SINGLE = Single()


def test_a_subclass_may_say_how_it_is_made_again():
    for way in ("pickle 4", "deepcopy"):
        assert COPIES[way](Reduced(0.5)).lr == 0.5
        assert COPIES[way](SINGLE) is SINGLE


@pytest.mark.parametrize("way", ["pickle 4", "deepcopy"])
def test_what_refers_to_each_other_still_does_in_a_copy(way):
    network = SimpleNamespace(params={"W": np.ones(3)})
    trainer = SimpleNamespace(network=network, optimizer=Own(lr=0.5))
    trainer.optimizer.target, trainer.optimizer.trainer = network, trainer
    again = COPIES[way](trainer)
    assert again.optimizer.target is again.network
    assert again.optimizer.trainer is again
    again.optimizer.update(again.optimizer.target.params, {"W": np.ones(3)})
    assert again.network.params["W"][0] != 1
    assert network.params["W"][0] == 1


def test_state_moves_between_the_twins(rule, rng):
    fast, numpy = rule.fast(), rule.numpy()
    params = network(rng)
    copies = copy.deepcopy(params)
    for optimizer, own in ((fast, params), (numpy, copies)):
        optimizer.update(own, {"W": np.ones((7, 5)), "b": np.ones(5, np.float32)})
    vars(fast).update(copy.deepcopy(vars(numpy)))
    for _ in range(3):
        grads = network(rng)
        fast.update(params, grads)
        numpy.update(copies, grads)
    assert_same_run(fast, numpy, params, copies)


def test_before_the_first_update_state_is_none(rule):
    for optimizer in (rule.fast(), rule.numpy()):
        assert all(getattr(optimizer, slot) is None for slot in rule.slots)
        assert getattr(optimizer, "iter", 0) == 0


def test_state_arrays_stay_where_they_are(rule, rng):
    optimizer, params = rule.fast(), network(rng)
    optimizer.update(params, network(rng) | {"b": np.ones(5, np.float32)})
    optimizer.update(params, network(rng) | {"b": np.ones(5, np.float32)})
    held = [dict(getattr(optimizer, slot)) for slot in rule.slots]
    optimizer.update(params, network(rng) | {"b": np.ones(5, np.float32)})
    for slot, arrays in zip(rule.slots, held, strict=True):
        assert all(getattr(optimizer, slot)[k] is a for k, a in arrays.items())


def test_state_starts_at_the_same_place_of_a_cache_line_as_its_parameter(rule, dtype):
    buffer = np.ones(8192 + 128, np.uint8)
    layouts = (lambda a: a, lambda a: a.reshape(32, -1).T, lambda a: a.reshape(4, 8, -1))
    for offset, layout in itertools.product(range(0, 128, 8), layouts):
        param = layout(buffer[offset : offset + 8192].view(dtype))
        fresh, loaded = rule.fast(), rule.fast()
        fresh.update({"W": param}, {"W": np.ones_like(param)})
        loaded.load_state_dict(fresh.state_dict())
        unpickled = pickle.loads(pickle.dumps(fresh))
        for optimizer in (fresh, loaded, unpickled):
            optimizer.update({"W": param}, {"W": np.ones_like(param)})
            for slot in rule.slots:
                state = getattr(optimizer, slot)["W"]
                assert (state.ctypes.data - param.ctypes.data) % 64 == 0
                assert state.strides == param.strides
                assert state.flags.aligned
                assert state.flags.writeable
            assert_same_run(optimizer, fresh, {}, {})


@pytest.mark.parametrize("offset", [0, 16, 64, 4000])
def test_large_state_starts_at_a_place_of_a_page_of_its_own(rule, dtype, offset):
    param = np.ones(65536 + 4096, np.uint8)[offset : offset + 65536].view(dtype)
    fresh, loaded = rule.fast(), rule.fast()
    fresh.update({"W": param}, {"W": np.ones_like(param)})
    loaded.load_state_dict(fresh.state_dict())
    for optimizer in (fresh, loaded):
        optimizer.update({"W": param}, {"W": np.ones_like(param)})
        starts = [getattr(optimizer, slot)["W"].ctypes.data for slot in rule.slots]
        apart = [(start - param.ctypes.data) % 4096 for start in starts]
        assert apart == [1024, 2048, 3072][: len(rule.slots)]
    assert_same_run(fresh, loaded, {}, {})


def test_state_of_an_unaligned_parameter_is_aligned(rule):
    param = np.zeros(8001, np.uint8)[1:].view(np.float64)
    optimizer = rule.fast()
    optimizer.update([param], [np.ones_like(param)])
    for slot in rule.slots:
        assert getattr(optimizer, slot)[0].flags.aligned


def test_lr_may_be_set_between_updates(rule):
    optimizer, params = rule.fast(lr=0.5), {"W": np.zeros(20)}
    optimizer.update(params, {"W": np.ones(20)})
    moved = params["W"].copy()
    optimizer.lr = 0
    optimizer.update(params, {"W": np.ones(20)})
    if rule.slots != ("v",):  # momentum goes on by itself
        assert np.array_equal(params["W"], moved)


def test_state_set_to_none_starts_again_and_the_step_count_goes_on(rng):
    for module in (zdlfast, reference):
        adam, params = module.Adam(), {"W": np.ones(4)}
        adam.update(params, {"W": np.ones(4)})
        adam.m = None
        adam.update(params, {"W": np.zeros(4)})
        assert adam.iter == 2
        assert not adam.m["W"].any()
        assert not adam.v["W"].any()


def test_the_step_count_is_live():
    late, early = zdlfast.Adam(), zdlfast.Adam()
    late.iter = 1000
    a, b = {"W": np.zeros(4)}, {"W": np.zeros(4)}
    late.update(a, {"W": np.ones(4)})
    early.update(b, {"W": np.ones(4)})
    assert late.iter == 1001
    assert abs(a["W"][0]) > abs(b["W"][0])


def test_a_subclass_may_add_to_update(rng):
    class Counting(zdlfast.Adam):
        """Counts by itself."""

        calls = 0

        def update(self, params, grads):
            self.calls += 1
            super().update(params, grads)

    ours, plain = Counting(lr=0.1), zdlfast.Adam(lr=0.1)
    a, b = {"W": np.ones(30)}, {"W": np.ones(30)}
    for _ in range(3):
        ours.update(a, {"W": np.ones(30)})
        plain.update(b, {"W": np.ones(30)})
    assert ours.calls == 3
    assert_same_run(ours, plain, a, b)


def test_a_subclass_may_make_an_option_a_property():
    class Warmup(zdlfast.SGD):
        """A learning rate that grows with its own clock."""

        clock = 0

        @property
        def lr(self):
            self.clock += 1
            return 0.5 * self.clock

        @lr.setter
        def lr(self, value):
            pass

    params, optimizer = {"W": np.zeros(3)}, Warmup()
    optimizer.update(params, {"W": np.ones(3)})
    first = params["W"][0]
    optimizer.update(params, {"W": np.ones(3)})
    assert first == -0.5
    assert params["W"][0] < -1.0


def test_velocity_keeps_its_parameters_dtype_whatever_the_gradient_has(rule):
    """The book's becomes float64 under a float64 gradient."""
    for cls in (rule.fast, rule.numpy):
        optimizer, params = cls(), {"W": np.ones(5, np.float32)}
        for dtype in (np.float32, np.float64, np.float32):
            optimizer.update(params, {"W": np.ones(5, dtype)})
            for slot in rule.slots:
                assert getattr(optimizer, slot)["W"].dtype == np.float32


def test_what_the_books_class_pickled_is_as_complete_as_a_new_optimizer(rule):
    bare = {name: value for name, value in vars(rule.fast()).items() if name != "nonfinite"}
    bare.pop("eps", None)
    for cls in (rule.fast, rule.numpy):
        restored = cls.__new__(cls)
        restored.__setstate__(bare)
        assert vars(restored).keys() == vars(cls()).keys()
        assert repr(restored) == repr(cls())
