"""Optimizers for torch are torch's optimizers in all that one can do with them."""

import copy
import io
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch")

from process import python  # noqa: E402
from torch_table import (  # noqa: E402
    CASES,
    CLASSES,
    OF_TORCH,
    copies,
    fail_before_the_change,
    network,
    set_gradients,
    state_of,
)

import zdlfast.torch  # noqa: E402
from zdlfast import _engine  # noqa: E402

OF_TORCH_CLASSES = [case for case in CLASSES if case.torchs is not None]
OWN = [case for case in CLASSES if case.torchs is None]


def assert_close(ours, theirs):
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def both(name, params, **options):
    """Our optimizer and torch's own, each with the same parameters."""
    theirs = copies(params)
    return (
        (params, getattr(zdlfast.torch, name)(params, **options)),
        (theirs, getattr(torch.optim, name)(theirs, **options)),
    )


def step_both(pair, steps, start=0):
    for params, optimizer in pair:
        for step in range(start, start + steps):
            set_gradients(params, step)
            optimizer.step()
    assert_close(pair[0][0], pair[1][0])


@pytest.fixture
def kernels_alone(monkeypatch):
    """Fail if a step goes to torch's own implementation."""

    def refuse(self, members):
        raise AssertionError(f"{len(members)} parameters were left to torch")

    monkeypatch.setattr(zdlfast.torch._optimizer.KernelOptimizer, "_step_of_torch", refuse)


# ---------------------------------------------------------------- they are torch's


@pytest.mark.parametrize("case", OF_TORCH, ids=str)
def test_a_class_is_torchs_and_its_steps_are_on_kernels(case, kernels_alone):
    params = network()
    optimizer = case.cls(params, **case.options)
    assert isinstance(optimizer, case.torchs)
    assert optimizer.defaults == case.torchs(params, **case.options).defaults
    assert repr(optimizer) == repr(case.torchs(params, **case.options))
    optimizer.step()


@pytest.mark.parametrize("case", OF_TORCH_CLASSES, ids=str)
def test_a_class_has_the_signature_and_the_errors_of_torchs(case):
    import inspect

    signature = inspect.signature(case.cls)
    names = list(signature.parameters)
    assert names[-3:] == ["state", "state_min_size", "state_rounding"]
    theirs = [signature.parameters[name] for name in names[:-3]]
    assert signature.replace(parameters=theirs) == inspect.signature(case.torchs)
    for arguments in ({"lr": -1.0}, {"weight_decay": -1.0}, {"no_such_option": 1}):
        with pytest.raises((TypeError, ValueError)) as of_torch:
            case.torchs(network(), **arguments)
        with pytest.raises(of_torch.type) as ours:
            case.cls(network(), **arguments)
        assert str(ours.value) == str(of_torch.value)


@pytest.mark.parametrize("case", OWN, ids=str)
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lr": -1.0}, ValueError, "lr must be >= 0 and finite, got -1.0"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay must be"),
        ({"betas": (0.9, 1.0)}, ValueError, r"beta2 must be in \[0, 1\), got 1.0"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
    ],
)
def test_a_class_that_torch_has_not_checks_its_options(case, options, error, text):
    with pytest.raises(error, match=text):
        case.cls(network(), **options)
    optimizer = case.cls(network())
    with pytest.raises(error, match=text):
        optimizer.add_param_group({"params": network(), **options})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_a_closure_gives_the_loss_and_new_gradients(case):
    def train(closure):
        torch.manual_seed(0)
        model = torch.nn.Linear(5, 1)
        inputs = torch.randn(8, 5)
        optimizer = case.cls(model.parameters(), **case.options)

        def loss():
            optimizer.zero_grad()
            found = model(inputs).square().mean()
            found.backward()
            return found

        losses = []
        for _ in range(3):
            if closure:
                losses.append(optimizer.step(loss))
            else:
                losses.append(loss())
                assert optimizer.step() is None
        return losses, list(model.parameters())

    (with_closure, ours), (without, theirs) = train(True), train(False)
    assert all(torch.equal(a, b) for a, b in zip(with_closure, without, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_gradients_come_and_go():
    params = network()
    pair = both("Adam", params)
    step_both(pair, 2)
    for step, set_to_none in enumerate((True, False, True)):
        for params, optimizer in pair:
            optimizer.zero_grad(set_to_none=set_to_none)
            optimizer.step()
            if step == 1:
                params[0].grad = torch.ones_like(params[0])
                optimizer.step()
    step_both(pair, 2)


def test_no_gradient_means_no_state():
    params = network()
    for param in params:
        param.grad = None
    optimizer = zdlfast.torch.Adam(params)
    optimizer.step()
    assert not optimizer.state
    assert optimizer.state_dict()["state"] == {}


def test_groups_are_added(kernels_alone):
    pair = both("AdamW", network(), lr=0.1)
    step_both(pair, 2)
    for params, optimizer in pair:
        more = network(seed=5)
        optimizer.add_param_group({"params": more, "lr": 0.5, "betas": (0.1, 0.2)})
        params += more
    step_both(pair, 3)


@pytest.mark.parametrize("key", ["lr", "weight_decay", "eps", "betas", "maximize", "amsgrad"])
def test_options_of_a_group_are_live(key):
    new = {"lr": 0.5, "weight_decay": 0.3, "eps": 0.1, "betas": (0.5, 0.5), "maximize": True}
    pair = both("Adam", network(), amsgrad=True)
    step_both(pair, 2)
    for _, optimizer in pair:
        optimizer.param_groups[0][key] = new.get(key, False)
    step_both(pair, 2)


def test_momentum_is_live():
    pair = both("SGD", network(), lr=0.1)
    for options in ({"momentum": 0.9}, {"nesterov": True}, {"momentum": 0, "nesterov": False},
                    {"momentum": 0.5, "dampening": 0.5}):  # fmt: skip
        step_both(pair, 2)
        for _, optimizer in pair:
            optimizer.param_groups[0].update(options)
    step_both(pair, 2)


@pytest.mark.parametrize("case", OF_TORCH_CLASSES, ids=str)
def test_a_learning_rate_may_be_a_tensor(case, kernels_alone):
    pair = both(case.name, network(), lr=torch.tensor(0.01), **case.options)
    step_both(pair, 2)
    for _, optimizer in pair:
        optimizer.param_groups[0]["lr"].mul_(3.0)  # as schedulers do
    step_both(pair, 2)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, 2, cycle_momentum=False),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [
                torch.optim.lr_scheduler.LinearLR(o),
                torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
            ],
            [3],
        ),
    ],
)
def test_schedulers_change_the_rate(scheduler, kernels_alone):
    pair = both("AdamW", network(), lr=0.1)
    schedulers = [scheduler(optimizer) for _, optimizer in pair]
    for step in range(8):
        step_both(pair, 1, step)
        for one in schedulers:
            one.step()
    assert pair[0][1].param_groups[0]["lr"] == pair[1][1].param_groups[0]["lr"]


def test_a_scheduler_that_wants_to_be_called_after_the_first_step_sees_it():
    optimizer = zdlfast.torch.Adam(network())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()


# ---------------------------------------------------------------- hooks


def test_hooks_are_called_in_torchs_order_with_torchs_arguments():
    def watch(module):
        seen, optimizer = [], module.Adam(network())

        def note(name):
            def hook(*arguments):
                kinds = [type(argument).__name__ for argument in arguments]
                seen.append((name, arguments[0] is optimizer, kinds, arguments[1:][1:]))

            return hook

        handles = [
            optimizer.register_step_pre_hook(note("pre")),
            optimizer.register_step_post_hook(note("post")),
            torch.optim.optimizer.register_optimizer_step_pre_hook(note("global pre"))
            if hasattr(torch.optim, "optimizer")
            else _hooks().register_optimizer_step_pre_hook(note("global pre")),
            _hooks().register_optimizer_step_post_hook(note("global post")),
        ]
        optimizer.step()
        optimizer.step(lambda: 1.0)
        for handle in handles:
            handle.remove()
        optimizer.step()
        return seen, optimizer.state[optimizer.param_groups[0]["params"][0]]["step"].item()

    ours, theirs = watch(zdlfast.torch), watch(torch.optim)
    assert ours == theirs
    assert len(ours[0]) == 8


def _hooks():
    import sys

    return sys.modules["torch.optim.optimizer"]


def test_a_hook_may_change_the_arguments():
    optimizer = zdlfast.torch.SGD(network())
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 5.0), {}))
    assert optimizer.step() == 5.0


def test_hooks_of_state_dicts_are_called():
    optimizer, seen = zdlfast.torch.Adam(network()), []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("save"))
    optimizer.register_state_dict_post_hook(lambda o, state: seen.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["save", "saved", "load", "loaded"]


def test_a_profiler_sees_steps():
    optimizer = zdlfast.torch.Adam(network())
    with torch.profiler.profile() as profile:
        optimizer.step()
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


# ---------------------------------------------------------------- autograd


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_was_changed_has_another_version(case):
    params = network()
    before = [param._version for param in params]
    optimizer = case.cls(params, **case.options)
    params[1].grad = None
    optimizer.step()
    changed = [param._version - old for param, old in zip(params, before, strict=True)]
    assert changed == [1, 0, 1, 1, 1, 1, 1]


def test_backward_through_a_parameter_that_a_step_has_changed_raises():
    for module in (zdlfast.torch, torch.optim):
        param = torch.nn.Parameter(torch.tensor([2.0]))
        optimizer = module.SGD([param], lr=0.1)
        loss = (param * param).sum()
        param.grad = torch.ones(1)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_step_within_inference_mode_leaves_state_that_training_goes_on_with():
    params = network()
    optimizer = zdlfast.torch.Adam(params)
    with torch.inference_mode():
        optimizer.step()
    for state in state_of(optimizer, params):
        assert not state["exp_avg"].is_inference()
    torch.optim.Adam.step(optimizer)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies_go_on(case, way):
    params = network()
    optimizer = case.cls(params, **case.options)
    optimizer.step()
    if way == "deepcopy":
        others, other = copy.deepcopy((params, optimizer))
    elif way == "pickle":
        others, other = pickle.loads(pickle.dumps((params, optimizer)))
    else:
        file = io.BytesIO()
        torch.save({"model": params, "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        with torch.serialization.safe_globals([]):
            loaded = torch.load(file, weights_only=True)
        others, other = loaded["model"], case.cls(loaded["model"], **case.options)
        other.load_state_dict(loaded["optimizer"])
    for step in range(3):
        set_gradients(params, step)
        set_gradients(others, step)
        optimizer.step()
        other.step()
    assert all(torch.equal(mine, its) for mine, its in zip(params, others, strict=True))


def test_a_copy_has_no_state_in_common():
    params = network()
    optimizer = zdlfast.torch.Adam(params)
    optimizer.step()
    _, other = copy.deepcopy((params, optimizer))
    before = state_of(optimizer, params)
    other.step()
    assert str(before) == str(state_of(optimizer, params))


# ---------------------------------------------------------------- schedule-free


def test_schedule_free_evaluates_at_another_point_and_comes_back():
    params = network()
    optimizer = zdlfast.torch.ScheduleFreeAdamW(params, lr=0.1)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
    trained = [param.detach().clone() for param in params]
    optimizer.eval()
    assert not torch.equal(params[0], trained[0])
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
        optimizer.step()
    state = optimizer.state_dict()
    optimizer.train()
    assert_close(params, trained)
    optimizer.step()
    optimizer.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"call train\(\) before a step"):
        optimizer.step()


def test_schedule_free_has_no_mean_without_a_first_beta():
    optimizer = zdlfast.torch.ScheduleFreeAdamW(network(), betas=(0.0, 0.9))
    optimizer.step()
    with pytest.raises(ValueError, match=r"first beta of 0\.0"):
        optimizer.eval()
    optimizer.step()


def test_adabound_goes_by_the_rate_that_it_was_made_with():
    """A scheduler that warms up changes it before the first step."""
    params = network()
    optimizer = zdlfast.torch.AdaBound(params, lr=0.3)
    torch.optim.lr_scheduler.LinearLR(optimizer, 0.1)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.03)
    assert optimizer.state[params[0]]["base_lr"] == 0.3


# ---------------------------------------------------------------- whole or not at all


def snapshot(params, optimizer):
    return [param.detach().clone() for param in params], str(state_of(optimizer, params))


def assert_unchanged(params, optimizer, before):
    values, state = before
    assert all(torch.equal(mine, its) for mine, its in zip(params, values, strict=True))
    assert str(state_of(optimizer, params)) == state


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("case", OWN, ids=str)
def test_what_no_rule_takes_is_an_error_that_says_what_and_why(case, steps):
    params = network()
    optimizer = case.cls(params)
    for step in range(steps):
        set_gradients(params, step)
        optimizer.step()
    params[2].grad = None
    params[3].data = params[3].data.to(torch.float16)
    params[3].grad = torch.ones_like(params[3])
    before = snapshot(params, optimizer)
    with pytest.raises(TypeError, match=r"takes dense float32, float64 or bfloat16.*got Param"
                       r"eter of torch\.float16"):  # fmt: skip
        optimizer.step()
    assert_unchanged(params, optimizer, before)
    assert len(optimizer.state) == (len(params) if steps else 0)


@pytest.mark.parametrize("case", OWN, ids=str)
def test_a_parameter_that_comes_twice_is_an_error(case):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = case.cls([param, param])
    with pytest.raises(ValueError, match="takes every parameter once"):
        optimizer.step()
    assert torch.equal(param, torch.ones(3))


def test_an_error_of_a_hook_of_the_engine_changes_nothing(monkeypatch):
    """Whatever raises between the first look and the first change."""
    params = network()
    optimizer = zdlfast.torch.Adam(params)
    for steps in range(2):
        before = snapshot(params, optimizer)
        fail_before_the_change(optimizer)
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        assert_unchanged(params, optimizer, before)
        assert len(optimizer.state) == steps * len(params)
        del optimizer._steps
        optimizer.step()


def test_options_that_are_no_numbers_change_nothing():
    params = network()
    optimizer = zdlfast.torch.Adam(params)
    optimizer.step()
    for key, value in (("lr", "fast"), ("betas", 0.9), ("weight_decay", None), ("eps", [])):
        group, before = optimizer.param_groups[0], snapshot(params, optimizer)
        kept, group[key] = group[key], value
        with pytest.raises((TypeError, ValueError)):
            optimizer.step()
        group[key] = kept
        assert_unchanged(params, optimizer, before)
    optimizer.step()


# ---------------------------------------------------------------- torch's own way


def odd_tensors():
    """Parameters with a gradient that no kernel takes."""
    random = torch.Generator().manual_seed(9)
    for kind in (torch.float16, torch.complex64):
        param = torch.nn.Parameter(torch.randn(9, generator=random).to(kind))
        param.grad = torch.randn(9, generator=random).to(kind)
        yield param

    class Own(torch.nn.Parameter):
        pass

    param = Own(torch.randn(9, generator=random))
    param.grad = torch.randn(9, generator=random)
    yield param


@pytest.mark.parametrize("case", OF_TORCH, ids=str)
def test_what_no_kernel_takes_is_left_to_torch(case):
    odd = list(odd_tensors())
    usual = network()
    params = [*usual[:3], *odd, *usual[3:]]
    theirs = copies(params)
    optimizer, other = case.cls(params, **case.options), case.torchs(theirs, **case.options)
    for _ in range(3):
        optimizer.step()
        other.step()
    assert_close(usual, [*theirs[:3], *theirs[3 + len(odd) :]])
    for mine, its in zip(odd, theirs[3 : 3 + len(odd)], strict=True):
        assert torch.equal(mine, its)
    names, names_of_torch = (
        [set(state) for state in one.state_dict()["state"].values()] for one in (optimizer, other)
    )
    assert names == names_of_torch


@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradients_are_left_to_torch(name):
    def train(module):
        torch.manual_seed(0)
        layer = torch.nn.Embedding(10, 3, sparse=True)
        optimizer = getattr(module, name)(layer.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            layer(torch.tensor([step, 5])).square().sum().backward()
            with torch.sparse.check_sparse_tensor_invariants():
                optimizer.step()
        return [layer.weight]

    assert_close(train(zdlfast.torch), train(torch.optim))


def test_sparse_gradients_that_torch_refuses_are_its_error():
    layer = torch.nn.Embedding(10, 3, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="Adam does not support sparse gradients"):
        zdlfast.torch.Adam(layer.parameters()).step()


@pytest.mark.parametrize("way", ["foreach", "fused", "differentiable"])
def test_other_implementations_of_torch_are_torchs(way):
    pair = both("Adam", network(), **{way: True})
    for params, optimizer in pair:
        if way == "differentiable":
            for param in params:
                param.requires_grad_(False)
        for step in range(3):
            set_gradients(params, step)
            optimizer.step()
    assert all(torch.equal(mine, its) for mine, its in zip(pair[0][0], pair[1][0], strict=True))


def test_a_parameter_of_another_dtype_than_its_state_is_torchs_error():
    model = torch.nn.Linear(3, 3)
    optimizer = zdlfast.torch.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    model.double()
    model.zero_grad()
    model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    before = [param.detach().clone() for param in model.parameters()]
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert_close(model.parameters(), before)


def test_meta_tensors_are_left_to_torch():
    param = torch.nn.Parameter(torch.ones(3, device="meta"))
    param.grad = torch.ones(3, device="meta")
    zdlfast.torch.Adam([param]).step()


def test_fake_tensors_are_left_to_torch():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        param = torch.nn.Parameter(torch.ones(3))
        param.grad = torch.ones(3)
        zdlfast.torch.Adam([param]).step()


def test_a_parameter_that_comes_twice_takes_two_steps_as_with_torch():
    def train(module):
        param = torch.nn.Parameter(torch.ones(5))
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = module.Adam([param, param], lr=0.1)
        for _ in range(3):
            param.grad = torch.full((5,), 0.5)
            optimizer.step()
        return [param], optimizer.state[param]["step"].item()

    (ours, count), (theirs, expected) = train(zdlfast.torch), train(torch.optim)
    assert_close(ours, theirs)
    assert count == expected == 6.0


def test_a_state_of_another_layout_is_left_to_torch():
    pair = both("Adam", network())
    step_both(pair, 1)
    for params, optimizer in pair:
        state = optimizer.state[params[0]]
        state["exp_avg"] = state["exp_avg"].to(torch.float64)
        optimizer.state[params[1]]["note"] = "of the user's"
        with pytest.raises(RuntimeError):
            optimizer.step()


# ---------------------------------------------------------------- the module


def test_all_names_are_there():
    assert set(zdlfast.torch.__all__) == {case.name for case in CASES}


def test_importing_zdlfast_leaves_torch_alone():
    done = python("import zdlfast, sys; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"


def test_a_torch_that_does_not_tell_where_tensors_lie_is_refused():
    done = python("import torch\ndel torch.Tensor.__dlpack_c_exchange_api__\nimport zdlfast.torch")
    assert "ImportError: zdlfast.torch takes torch 2.10 or newer" in done.stderr


def test_kernels_take_tensors_of_a_newer_exchange_api_by_the_older_one():
    """A new major version keeps the one that is known, behind itself."""
    import ctypes

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    name = ctypes.c_char_p(b"dlpack_exchange_api")
    known = get(torch.Tensor.__dlpack_c_exchange_api__, name.value)

    class Header(ctypes.Structure):
        _fields_ = (
            ("major", ctypes.c_uint32),
            ("minor", ctypes.c_uint32),
            ("previous", ctypes.c_void_p),
        )

    def steps(header):
        capsule = new(ctypes.addressof(header), name, None)
        return _engine.TensorSteps(
            capsule, (torch.nn.Parameter, torch.Tensor), optimizer._planned, list, int
        )

    params = network()
    optimizer = zdlfast.torch.SGD(params, lr=0.5)
    before = params[0].detach().clone()
    assert steps(Header(2, 0, known)).take(optimizer.param_groups, optimizer.state) is None
    torch.testing.assert_close(params[0], before - 0.5 * params[0].grad)
    with pytest.raises(ImportError, match="no exchange API of DLPack 1"):
        steps(Header(2, 0, None))
