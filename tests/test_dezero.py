"""DeZero under the patch: the same bits as by its own code, which is the oracle."""

import copy
import gc
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from table import assert_same_bits

import zdlfast

with pytest.MonkeyPatch.context() as _patch:
    _patch.setattr(np, "int", int, raising=False)  # which DeZero 0.0.13 asks for when imported
    pytest.importorskip("dezero", exc_type=ImportError)
    import dezero.functions as F  # noqa: N812 - its own name in the book
    from dezero import Parameter, optimizers
    from dezero.models import MLP

OPTIMIZERS = ["SGD", "MomentumSGD", "AdaGrad", "AdaDelta", "Adam"]
OPTIONS = {
    "SGD": {"lr": 0.3},
    "MomentumSGD": {"lr": 0.2, "momentum": 0.7},
    "AdaGrad": {"lr": 0.5, "eps": 1e-3},
    "AdaDelta": {"rho": 0.8, "eps": 1e-3},
    "Adam": {"alpha": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
}
STATE = ("vs", "hs", "msg", "msdx", "ms")


@pytest.fixture(params=OPTIMIZERS)
def name(request):
    return request.param


@pytest.fixture
def own_steps(monkeypatch):
    """How many parameters DeZero's own formulas have updated; count from within a patch on."""
    taken = []

    def start():
        for name in OPTIMIZERS:
            cls = getattr(optimizers, name)
            own = cls.update_one

            def counted(self, param, own=own):
                taken.append(type(self).__name__)
                return own(self, param)

            monkeypatch.setattr(cls, "update_one", counted)
        return taken

    return start


def target(params):
    """What an optimizer is set up with, of these parameters."""
    return SimpleNamespace(params=lambda: iter(params))


def parameters(rng, dtypes=("f8", "f4")):
    return [
        Parameter(rng.standard_normal(shape).astype(dtype))
        for shape in ((7, 30), (30,), (3, 4, 5))
        for dtype in dtypes
    ]


def set_grads(params, rng, dtype=None):
    for param in params:
        grad = rng.standard_normal(param.shape).astype(dtype or param.dtype)
        param.grad = dezero_variable(grad)


def dezero_variable(array):
    from dezero import Variable

    return Variable(array)


def state_of(optimizer, params):
    """State by the place of its parameter; None where there is none."""
    return {
        slot: [getattr(optimizer, slot).get(id(param)) for param in params]
        for slot in STATE
        if hasattr(optimizer, slot)
    }


def assert_same(ours, theirs):
    """Parameters, state and step count of two trainings."""
    for one, other in zip(ours.params, theirs.params, strict=True):
        assert_same_bits(one.data, other.data)
    found, expected = (state_of(each.optimizer, each.params) for each in (ours, theirs))
    assert found.keys() == expected.keys()
    for slot in expected:
        for one, other in zip(found[slot], expected[slot], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_same_bits(one, other, slot)
    assert getattr(ours.optimizer, "t", None) == getattr(theirs.optimizer, "t", None)


def both(train, own_steps):
    """Train by DeZero and under the patch; return how many updates were DeZero's there."""
    theirs = train()
    with zdlfast.patched("dezero"):
        taken = own_steps()
        ours = train()
    assert_same(ours, theirs)
    return len(taken)


def trained(name, params, gradients, hooks=(), steps=5, optimizer=None):
    """What `steps` of an optimizer make of parameters, whose gradients a function sets."""
    optimizer = optimizer or getattr(optimizers, name)(**OPTIONS[name])
    optimizer.setup(target(params))
    for hook in hooks:
        optimizer.add_hook(hook)
    for step in range(steps):
        gradients(step)
        optimizer.update()
    return SimpleNamespace(params=params, optimizer=optimizer)


@pytest.mark.usefixtures("simd")
@pytest.mark.parametrize("grad_dtype", [None, "f4", "f8"], ids=["own dtype", "float32", "float64"])
def test_every_kernel_gives_dezeros_bits(own_steps, name, grad_dtype):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng)
        return trained(name, params, lambda step: set_grads(params, rng, grad_dtype), steps=20)

    assert both(train, own_steps) == 0


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_model_is_trained_to_the_same_bits(own_steps, name, dtype):
    """Its weights are made in the first forward pass, and NumPy 2 makes them float64."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((40, 9)).astype(dtype), rng.integers(0, 3, 40)

    def train():
        np.random.seed(0)  # noqa: NPY002 - what DeZero draws from
        model = MLP((11, 3))
        optimizer = getattr(optimizers, name)(**OPTIONS[name]).setup(model)
        for _ in range(5):
            loss = F.softmax_cross_entropy(model(x), t)
            model.cleargrads()
            loss.backward()
            optimizer.update()
        return SimpleNamespace(params=list(model.params()), optimizer=optimizer)

    assert both(train, own_steps) == 0


def test_the_rules_in_numpy_give_the_same_bits(own_steps, name):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng)
        return trained(name, params, lambda step: set_grads(params, rng))

    theirs = train()
    with zdlfast.patched("dezero", reference=True):
        taken = own_steps()
        assert_same(train(), theirs)
    assert taken == []


def test_hooks_run_as_they_do(own_steps, name):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng, ["f8"])
        hooks = [optimizers.WeightDecay(0.1), optimizers.ClipGrad(0.5)]
        return trained(name, params, lambda step: set_grads(params, rng), hooks)

    assert both(train, own_steps) == 0


def test_a_parameter_without_a_gradient_is_skipped(own_steps, name):
    def train():
        rng = np.random.default_rng(0)
        params = [*parameters(rng), Parameter(None)]  # the last as before a first forward pass

        def gradients(step):
            set_grads(params[:-1], rng)
            params[step % 3].grad = None

        return trained(name, params, gradients)

    assert both(train, own_steps) == 0


def test_what_is_frozen_stays_as_it_is(name):
    """DeZero itself crashes there."""
    rng = np.random.default_rng(0)
    params = parameters(rng)
    frozen, hook = params[1], optimizers.FreezeParam(params[1])
    before = [param.data.copy() for param in params]
    with pytest.raises(AttributeError):
        trained(name, params, lambda step: set_grads(params, rng), [hook], steps=1)
    for param, data in zip(params, before, strict=True):
        param.data[...] = data
    with zdlfast.patched("dezero"):
        found = trained(name, params, lambda step: set_grads(params, rng), [hook])
    for param, data in zip(params, before, strict=True):
        assert np.array_equal(param.data, data) == (param is frozen)
    for held in state_of(found.optimizer, params).values():
        assert [array is None for array in held] == [param is frozen for param in params]


def test_gradients_that_are_one_array_or_a_broadcast_one(own_steps, name):
    """As a + b and F.sum give them."""

    def train():
        rng = np.random.default_rng(0)
        params = [Parameter(rng.standard_normal((4, 5))) for _ in range(3)]

        def gradients(step):
            set_grads(params, rng)
            params[1].grad = params[0].grad
            params[2].grad = dezero_variable(np.broadcast_to(np.array(0.5), (4, 5)))

        return trained(name, params, gradients)

    assert both(train, own_steps) == 0


def test_a_parameter_that_comes_twice_takes_two_steps(own_steps, name):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng, ["f8"])
        params.append(params[0])
        return trained(name, params, lambda step: set_grads(params, rng))

    assert both(train, own_steps) == 5 * 4


def test_parameters_that_share_memory(own_steps, name):
    def train():
        rng = np.random.default_rng(0)
        data = rng.standard_normal(9)
        params = [Parameter(data[:6]), Parameter(data[3:]), Parameter(data)]
        return trained(name, params, lambda step: set_grads(params, rng))

    assert both(train, own_steps) == 0


ODD = {
    "0-d": lambda: np.array(0.5),
    "float16": lambda: np.ones(3, np.float16),
    "longdouble": lambda: np.ones(3, np.longdouble),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_arrays_are_left_to_dezero(own_steps, name, kind):
    def train():
        rng = np.random.default_rng(0)
        params = [Parameter(np.ones((2, 3))), Parameter(ODD[kind]())]
        return trained(name, params, lambda step: set_grads(params, rng))

    assert both(train, own_steps) == 5 * 2


@pytest.mark.parametrize(("dtype", "steps"), [("f4", 5 * 3), ("f8", 0)])
def test_an_option_that_lifts_float32_is_left_to_dezero(own_steps, name, dtype, steps):
    option = next(iter(OPTIONS[name]))

    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng, [dtype])
        optimizer = getattr(optimizers, name)(**{option: np.float64(0.1)})
        set_all = lambda step: set_grads(params, rng)  # noqa: E731
        return trained(name, params, set_all, optimizer=optimizer)

    assert both(train, own_steps) == steps


def test_an_option_that_zdlfast_refuses_is_left_to_dezero(own_steps):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng)
        optimizer = optimizers.SGD(lr=-0.5)
        return trained("SGD", params, lambda step: set_grads(params, rng), optimizer=optimizer)

    assert both(train, own_steps) == 5 * 6


def test_state_of_another_dtype_is_left_to_dezero(own_steps):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng, ["f4"])

        def gradients(step):
            set_grads(params, rng, "f4")
            if step == 2:
                params[0].data = params[0].data.astype("f8")

        return trained("MomentumSGD", params, gradients)

    assert both(train, own_steps) == 3 * 3


def test_options_may_change_between_steps(own_steps, name):
    def train():
        rng = np.random.default_rng(0)
        params = parameters(rng)
        optimizer = getattr(optimizers, name)()

        def gradients(step):
            set_grads(params, rng)
            for option, value in OPTIONS[name].items():
                setattr(optimizer, option, value / (1 + step))

        return trained(name, params, gradients, optimizer=optimizer)

    assert both(train, own_steps) == 0


def test_an_optimizer_that_was_there_before_the_patch_goes_on(own_steps, name):
    def train(in_the_middle):
        rng = np.random.default_rng(0)
        params = parameters(rng)
        found = trained(name, params, lambda step: set_grads(params, rng))
        in_the_middle()
        return trained(name, params, lambda step: set_grads(params, rng), (), 5, found.optimizer)

    theirs = train(lambda: None)
    try:
        ours = train(lambda: zdlfast.patch("dezero"))
    finally:
        zdlfast.unpatch("dezero")
    assert_same(ours, theirs)


def test_a_subclass_keeps_its_own_code():
    class Mine(optimizers.Adam):
        def update_one(self, param):
            param.data += self.t

    params = [Parameter(np.ones(3))]
    with zdlfast.patched("dezero"):
        trained(
            "Adam", params, lambda step: set_grads(params, np.random.default_rng()), (), 2, Mine()
        )
    assert params[0].data.tolist() == [1.0 + 1 + 2] * 3


def test_an_error_changes_nothing():
    params = [Parameter(np.ones(3)), Parameter(np.ones(3))]
    optimizer = optimizers.Adam().setup(target(params))
    params[0].grad = dezero_variable(np.ones(3))
    params[1].grad = dezero_variable(np.ones(4))
    with zdlfast.patched("dezero"), pytest.raises(ValueError, match="shape"):
        optimizer.update()
    assert params[0].data.tolist() == [1.0] * 3
    assert optimizer.ms == {}


def test_nothing_keeps_an_optimizer_alive():
    import weakref

    params = [Parameter(np.ones(3))]
    set_grads(params, np.random.default_rng(0))
    with zdlfast.patched("dezero"):
        optimizer = optimizers.Adam().setup(target(params))
        optimizer.update()
        kept = copy.copy(optimizer.ms)
        found = weakref.ref(optimizer)
        del optimizer
        gc.collect()
        assert found() is None
    assert len(kept) == 1


def test_unpatch_leaves_the_classes_as_they_were():
    classes = [optimizers.Optimizer, *(getattr(optimizers, name) for name in OPTIMIZERS)]
    before = [dict(vars(cls)) for cls in classes]
    with zdlfast.patched("dezero"):
        assert optimizers.Optimizer.update is not before[0]["update"]
    assert [dict(vars(cls)) for cls in classes] == before


def test_an_edited_copy_is_left_alone(monkeypatch):
    """Readers of the book type it themselves."""

    def update_one(self, param):
        param.data -= 2 * self.lr * param.grad.data

    monkeypatch.setattr(optimizers.SGD, "update_one", update_one)
    words = r"optimizers.SGD.update_one of this dezero 0.0.13 is not the code that zdlfast knows"
    params = [Parameter(np.ones(2))]
    params[0].grad = dezero_variable(np.ones(2))
    optimizer = optimizers.SGD(lr=0.25).setup(target(params))
    with pytest.warns(RuntimeWarning, match=words), zdlfast.patched("dezero"):
        optimizer.update()
    assert params[0].data.tolist() == [0.5, 0.5]


SCRIPT = """
    import numpy as np
    np.int = int
    import dezero.functions as F
    from dezero import optimizers
    from dezero.models import MLP
    np.random.seed(0)
    x = np.random.rand(100, 1)
    y = np.sin(2 * np.pi * x) + np.random.rand(100, 1)
    for cls in (optimizers.SGD, optimizers.Adam):
        model = MLP((10, 1))
        optimizer = cls().setup(model)
        for i in range(20):
            loss = F.mean_squared_error(y, model(x))
            model.cleargrads()
            loss.backward()
            optimizer.update()
        print(float(loss.data).hex())
"""


def test_a_script_of_the_third_book_runs_unchanged_and_reports_its_steps(tmp_path):
    (tmp_path / "step46.py").write_text(textwrap.dedent(SCRIPT), "utf-8")

    def run(*args):
        done = subprocess.run(
            [sys.executable, *args, "step46.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    plain, fast = run(), run("-m", "zdlfast")
    assert fast.stdout == plain.stdout
    assert fast.stderr == plain.stderr
    reported = run("-m", "zdlfast", "--report", "--reference")
    assert reported.stdout == plain.stdout
    *_, sgd, adam = reported.stderr.splitlines()
    assert sgd.split()[:3] == ["dezero", "SGD", "20"]
    assert adam.split()[:3] == ["dezero", "Adam", "20"]
