"""Optimizers for torch: the bits of the rules in NumPy, and how near these are to torch's own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from table import assert_same_bits  # noqa: E402
from torch_table import (  # noqa: E402
    CASES,
    CLASSES,
    OF_TORCH,
    Case,
    array,
    copies,
    names_of,
    network,
    set_gradients,
    state_of,
    values,
)

import zdlfast.torch  # noqa: E402
from zdlfast import _engine  # noqa: E402

STEPS = 12


def step_twins(twins, arrays, params):
    for place, (twin, value, param) in enumerate(zip(twins, arrays, params, strict=True)):
        if param.grad is not None:
            twin.update({place: value}, {place: array(param.grad)})


def assert_same_state(case, optimizer, params, twins):
    for place, (param, twin) in enumerate(zip(params, twins, strict=True)):
        state = optimizer.state.get(param, {})
        for slot in twin._slots:
            held = getattr(twin, slot)
            if held is not None:
                assert_same_bits(array(state[names_of(case)[slot]]), held[place], slot)
        if "step" in state and twin.updates:
            assert state["step"].item() == twin.updates
        for name in type(twin)._numbers:
            assert float(state[name]) == getattr(twin, name)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rule_gives_the_bits_of_numpy(case, kind, simd):
    params = network(dtype=kind)
    optimizer = case.cls(params, **case.options)
    twins, arrays = [case.twin() for _ in params], values(params)
    for step in range(STEPS):
        set_gradients(params, step)
        optimizer.param_groups[0]["lr"] *= 0.9
        for twin in twins:
            twin.lr = optimizer.param_groups[0]["lr"]
        step_twins(twins, arrays, params)
        optimizer.step()
        for param, value in zip(params, arrays, strict=True):
            assert_same_bits(array(param), value)
    assert_same_state(case, optimizer, params, twins)


@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_a_parameter_counts_the_steps_in_which_it_had_a_gradient(case):
    params = network()
    optimizer = case.cls(params, **case.options)
    twins, arrays = [case.twin() for _ in params], values(params)
    for step in range(STEPS):
        set_gradients(params, step)
        for place, param in enumerate(params):
            if (step + place) % (place + 1):
                param.grad = None
        step_twins(twins, arrays, params)
        optimizer.step()
    for param, value in zip(params, arrays, strict=True):
        assert_same_bits(array(param), value)
    assert_same_state(case, optimizer, params, twins)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Lion"])
def test_groups_have_options_of_their_own(name):
    params = network()
    cls = getattr(zdlfast.torch, name)
    optimizer = cls([
        {"params": params[:2], "lr": 0.1},
        {"params": params[2:4], "weight_decay": 0.5, "maximize": True},
        {"params": params[4:]},
    ])  # fmt: skip
    alone = [copies(params[:2]), copies(params[2:4]), copies(params[4:])]
    apart = [
        cls(alone[0], lr=0.1),
        cls(alone[1], weight_decay=0.5, maximize=True),
        cls(alone[2]),
    ]
    for step in range(5):
        set_gradients(params, step)
        for ours, theirs in zip(params, [p for part in alone for p in part], strict=True):
            theirs.grad = ours.grad.clone()
        optimizer.step()
        for one in apart:
            one.step()
    for ours, theirs in zip(params, [p for part in alone for p in part], strict=True):
        assert_same_bits(array(ours), array(theirs))


@pytest.mark.parametrize("threads", [1, 2])
def test_large_parameters_give_the_bits_of_numpy_at_any_number_of_threads(threads):
    case = Case("Adam", "AdamW")
    params = [torch.nn.Parameter(torch.randn(n)) for n in (700_001, 3, 600_000)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        optimizer = case.cls(params)
        twins, arrays = [case.twin() for _ in params], values(params)
        for step in range(2):
            set_gradients(params, step)
            step_twins(twins, arrays, params)
            with zdlfast.threads(2):
                optimizer.step()
    finally:
        torch.set_num_threads(before)
    for param, value in zip(params, arrays, strict=True):
        assert_same_bits(array(param), value)


def test_a_large_step_asks_torch_how_many_threads_it_may_take():
    params = [torch.nn.Parameter(torch.zeros(2_000_000))]
    params[0].grad = torch.ones_like(params[0])
    optimizer, asked = zdlfast.torch.SGD(params, lr=1.0), []
    steps = _engine.TensorSteps(
        torch.Tensor.__dlpack_c_exchange_api__,
        (torch.nn.Parameter, torch.Tensor),
        optimizer._planned,
        list,
        lambda: asked.append(True) or 1,
    )
    assert steps.take(optimizer.param_groups, optimizer.state) is None
    assert asked == [True]
    assert torch.equal(params[0], -params[0].grad)


def distance(params, others):
    """The largest difference, in units in the last place of a value of at least 0.01."""
    worst = 0.0
    for param, other in zip(values(params), values(others), strict=True):
        unit = np.spacing(np.maximum(np.abs(other), other.dtype.type(0.01)))
        worst = max(worst, float(np.max(np.abs(param - other) / unit, initial=0.0)))
    return worst


def far(case, kind, steps):
    """How far torch's own class is from ours, after each of these numbers of steps."""
    ours = [torch.nn.Parameter(torch.randn(20_001, dtype=kind))]
    theirs = copies(ours)
    optimizer, other = case.cls(ours, **case.options), case.torchs(theirs, **case.options)
    found = []
    for step in range(1, max(steps) + 1):
        ours[0].grad = torch.randn(ours[0].shape, dtype=kind)
        theirs[0].grad = ours[0].grad.clone()
        optimizer.step()
        other.step()
        if step in steps:
            found.append(distance(ours, theirs))
    return found


def test_adam_is_as_near_to_torchs_as_torch_is_without_avx2():
    torch.manual_seed(0)
    one, ten, hundred = far(Case("Adam", "AdamW"), torch.float32, (1, 10, 100))
    assert one <= 1
    assert ten <= 5
    assert hundred <= 18


@pytest.mark.parametrize("case", OF_TORCH, ids=str)
def test_float64_is_torchs_but_for_rounding(case):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(1000, dtype=torch.float64))]
    theirs = copies(ours)
    optimizer, other = case.cls(ours, **case.options), case.torchs(theirs, **case.options)
    for _ in range(100):
        ours[0].grad = torch.randn(1000, dtype=torch.float64)
        theirs[0].grad = ours[0].grad.clone()
        optimizer.step()
        other.step()
    size = torch.maximum(theirs[0].abs(), torch.tensor(0.01, dtype=torch.float64))
    assert ((ours[0] - theirs[0]).abs() / size).max().item() < 1e-12


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_goes_on_bit_for_bit(case, steps):
    params = network()
    optimizer = case.cls(params, **case.options)
    for step in range(steps):
        set_gradients(params, step)
        optimizer.step()
    others = copies(params)
    loaded = case.cls(others, **case.options)
    loaded.load_state_dict(optimizer.state_dict())
    for param in others:  # a state dict has the same tensors: here each has its own
        for name, value in loaded.state.get(param, {}).items():
            if torch.is_tensor(value):
                loaded.state[param][name] = value.clone()
    for step in range(3):
        set_gradients(params, 100 + step)
        set_gradients(others, 100 + step)
        optimizer.step()
        loaded.step()
    for ours, theirs in zip(params, others, strict=True):
        assert_same_bits(array(ours), array(theirs))
    for ours, theirs in zip(state_of(optimizer, params), state_of(loaded, others), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same_bits(array(ours[name]), array(theirs[name]), name)


@pytest.mark.parametrize("case", OF_TORCH, ids=str)
def test_torchs_own_optimizer_goes_on_from_our_state_and_we_from_its(case):
    ours, theirs = network(dtype=torch.float64), network(dtype=torch.float64)
    optimizer, other = case.cls(ours, **case.options), case.torchs(theirs, **case.options)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        other.step()
        if step % 5 == 4:
            state, state_of_torch = optimizer.state_dict(), other.state_dict()
            assert state["param_groups"] == state_of_torch["param_groups"]
            for mine, its in zip(
                state["state"].values(), state_of_torch["state"].values(), strict=True
            ):
                assert mine.keys() == its.keys()
                for name in its:
                    assert mine[name].dtype == its[name].dtype
                    assert mine[name].shape == its[name].shape
            optimizer.load_state_dict(state_of_torch)
            other.load_state_dict(state)
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-11, atol=1e-11)


def test_rmsprop_that_is_centered_stays_finite_where_gradients_do_not_vary():
    param = torch.nn.Parameter(torch.ones(50, dtype=torch.float64))
    optimizer = zdlfast.torch.RMSprop([param], lr=1e-8, alpha=0.9, centered=True)
    for _ in range(400):
        param.grad = torch.full((50,), 0.1, dtype=torch.float64)
        optimizer.step()
    assert torch.isfinite(param).all()


def test_what_is_zero_dimensional_counts_in_double_precision_if_that_is_the_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        ours, theirs = network(dtype=torch.float64), network(dtype=torch.float64)
        optimizer, other = zdlfast.torch.NAdam(ours), torch.optim.NAdam(theirs)
        for step in range(50):
            set_gradients(ours, step)
            set_gradients(theirs, step)
            optimizer.step()
            other.step()
    finally:
        torch.set_default_dtype(before)
    assert optimizer.state[ours[0]]["mu_product"].dtype == torch.float64
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)
