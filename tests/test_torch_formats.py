"""Tensors of bfloat16, and state in 8 bits and in bfloat16: the bits of NumPy, kept and loaded."""

import copy
import io
import itertools
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")

from table import assert_same_bits  # noqa: E402
from torch_table import CASES, CLASSES, copies, fail_before_the_change, names_of  # noqa: E402

import zdlfast  # noqa: E402
import zdlfast.torch  # noqa: E402
from zdlfast import _engine  # noqa: E402

KEPT = [
    {},
    {"state": "8bit", "state_min_size": 600},
    {"state": "8bit", "state_min_size": 0, "state_rounding": "stochastic"},
    {"state": "bfloat16", "state_min_size": 600},
]
KINDS = [torch.bfloat16, torch.float32, torch.float64]
MEANS = ("exp_avg", "exp_avg_sq")
MOMENTUM = next(case for case in CASES if case.rule == "TorchMomentum")


@pytest.fixture(params=KEPT, ids=lambda kept: "-".join(map(str, kept.values())) or "none")
def kept(request):
    return request.param


@pytest.fixture(params=KINDS, ids=lambda kind: str(kind).removeprefix("torch."))
def kind(request):
    return request.param


@pytest.fixture
def kernels_alone(monkeypatch):
    """Fail if a step goes to torch's own implementation."""

    def refuse(self, members):
        raise AssertionError(f"{len(members)} parameters were left to torch")

    monkeypatch.setattr(zdlfast.torch._optimizer.KernelOptimizer, "_step_of_torch", refuse)


def array(tensor):
    """A copy of a tensor, as an array of the same dtype."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().copy().view(ml_dtypes.bfloat16)
    return tensor.numpy().copy()


def network(kind, seed=0):
    random = torch.Generator().manual_seed(seed)
    params = [torch.randn(shape, generator=random) for shape in [(25, 40), (700,), (), (0, 3), ()]]
    params.append(torch.randn(30, 30, generator=random).t())
    params.append(torch.randn(4, 9, 5, 5, generator=random).to(memory_format=torch.channels_last))
    return [torch.nn.Parameter(param.to(kind)) for param in params]


def set_gradients(params, step):
    random = torch.Generator().manual_seed(step + 1000)
    for param in params:
        param.grad = torch.randn(param.shape, generator=random).to(param.dtype)


def assert_same_state(tensor, state):
    """A tensor holds what a twin has: an array, or encoded state."""
    if isinstance(state, zdlfast.EncodedState):
        parts = [part.view(np.uint8) for part in state.arrays()]
        if state.format == "bfloat16":
            state = state.codes.reshape(state.shape).view(ml_dtypes.bfloat16)
        else:
            state = np.concatenate(parts)
    assert_same_bits(array(tensor), state)


# ---------------------------------------------------------------- the same bits


@pytest.mark.usefixtures("kernels_alone")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parameters_and_state_are_those_of_numpy(case, kept, kind):
    params = network(kind)
    optimizer = case.cls(params, **case.options, **kept)
    twins, arrays = [case.twin() for _ in params], [{"W": array(param)} for param in params]
    for twin in twins:
        for name, value in kept.items():
            setattr(twin, name, value)
    for step in range(3):
        set_gradients(params, step)
        optimizer.step()
        for param, twin, values in zip(params, twins, arrays, strict=True):
            twin.update(values, {"W": array(param.grad)})
            assert_same_bits(array(param), values["W"])
            for slot in twin._slots:
                held = optimizer.state[param][names_of(case)[slot]]
                assert_same_state(held, getattr(twin, slot)["W"])


@pytest.mark.usefixtures("kernels_alone")
def test_every_instruction_set_and_number_of_threads_has_the_same_bits(kept, kind, simds):
    found = []
    for simd, threads in itertools.product(simds, (1, 2, 3)):
        _engine.use(simd)
        random = torch.Generator().manual_seed(3)
        param = torch.nn.Parameter(torch.randn(300_001, generator=random).to(kind))
        optimizer = zdlfast.torch.Adam([param], **kept)
        with zdlfast.threads(threads):
            for step in range(2):
                set_gradients([param], step)
                optimizer.step()
        found.append([array(param), *(array(optimizer.state[param][name]) for name in MEANS)])
    (case,) = (each for each in CLASSES if each.name == "Adam")
    twin = case.twin()
    for name, value in kept.items():
        setattr(twin, name, value)
    random = torch.Generator().manual_seed(3)
    values = {"W": array(torch.randn(300_001, generator=random).to(kind))}
    for step in range(2):
        set_gradients([param], step)
        twin.update(values, {"W": array(param.grad)})
    for each in found:
        assert_same_bits(each[0], values["W"])
        assert all(map(np.array_equal, each, found[0]))


@pytest.mark.usefixtures("kernels_alone")
def test_any_memory_layout_has_the_bits_of_contiguous_memory(kept, kind):
    def layouts():
        random = torch.Generator().manual_seed(7)
        parts = torch.randn(3, 60, 90, generator=random).to(kind)
        return {
            "transposed": parts[0].t(),
            "strided": parts[1, ::2, 1::2],
            "expanded gradient": parts[2, :, :30].clone(),
        }

    ours = {key: torch.nn.Parameter(value) for key, value in layouts().items()}
    plain = {key: torch.nn.Parameter(value.contiguous()) for key, value in layouts().items()}
    optimizers = [zdlfast.torch.Adam(list(each.values()), **kept) for each in (ours, plain)]
    for _ in range(3):
        for key, grad in layouts().items():
            if key == "expanded gradient":
                grad = grad[:, :1].expand(60, 30)
            ours[key].grad, plain[key].grad = grad, grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for key, param in ours.items():
            assert_same_bits(array(param), array(plain[key]))


def test_bfloat16_is_near_to_what_torch_fused_computes():
    params = network(torch.bfloat16)[:5]
    theirs = copies(params)
    optimizers = zdlfast.torch.Adam(params, lr=0.1), torch.optim.Adam(theirs, lr=0.1, fused=True)
    for step in range(5):
        set_gradients(params, step)
        set_gradients(theirs, step)
        for optimizer in optimizers:
            optimizer.step()
        # Each rounds to the nearest, and state differs by its last digit.
        for mine, its in zip(params, theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=2**-6, atol=2**-6)


def test_small_steps_are_lost_to_the_nearest_but_not_by_chance():
    for cls in (zdlfast.torch.SGD, zdlfast.torch.Adam):
        param = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
        optimizer = cls([param], lr=2.0**-12)
        param.grad = torch.ones_like(param)
        for _ in range(64):
            optimizer.step()
        assert torch.all(param == 1)
        optimizer.param_groups[0]["state_rounding"] = "stochastic"
        for _ in range(64):
            optimizer.step()
        # A deviation of 0.008 in each element.
        assert abs(param.detach().double().mean() - (1 - 2**-6)) < 4 * 0.008 / 4096**0.5


# ---------------------------------------------------------------- what is in the state


def test_state_is_plain_tensors_of_a_size_that_the_document_says():
    params = [torch.nn.Parameter(torch.randn(n)) for n in (4095, 4096, 10_000)]
    for state, dtype, size in (("8bit", torch.uint8, 9 / 8), ("bfloat16", torch.bfloat16, 2)):
        optimizer = zdlfast.torch.Adam(params, state=state)
        set_gradients(params, 0)
        optimizer.step()
        for name in MEANS:
            small, whole, ragged = (optimizer.state[param][name] for param in params)
            assert small.dtype is torch.float32
            assert whole.dtype is ragged.dtype is dtype
            assert whole.nbytes == 4096 * size


def test_only_who_leaves_something_to_chance_counts_steps_that_its_rule_does_not_count():
    def keys(kind, **kept):
        param = torch.nn.Parameter(torch.ones(5000, dtype=kind))
        param.grad = torch.ones_like(param)
        optimizer = zdlfast.torch.SGD([param], momentum=0.9, **kept)
        for _ in range(3):
            optimizer.step()
        state = optimizer.state[param]
        assert state.get("step", 3) == 3
        return set(state)

    assert keys(torch.float32) == keys(torch.float32, state="8bit") == {"momentum_buffer"}
    both = {"momentum_buffer", "step"}
    assert keys(torch.bfloat16) == keys(torch.float32, state="bfloat16") == both
    assert keys(torch.float32, state="8bit", state_rounding="stochastic") == both


@pytest.mark.parametrize("state", [None, "8bit", "bfloat16"])
def test_a_momentum_of_none_is_that_of_a_first_step(state):
    def stepped(held):
        param = torch.nn.Parameter(torch.ones(5000))
        param.grad = torch.full((5000,), 0.3)
        optimizer = zdlfast.torch.SGD([param], momentum=0.9, dampening=0.5, state=state)
        if held:
            optimizer.state[param] = dict(held)
        optimizer.step()
        return optimizer.state[param]["momentum_buffer"]

    assert torch.equal(stepped({"momentum_buffer": None}), stepped({}))


def test_groups_have_formats_of_their_own():
    params = [torch.nn.Parameter(torch.randn(5000)) for _ in range(4)]
    optimizer = zdlfast.torch.AdamW(
        [
            {"params": params[:1]},
            {"params": params[1:2], "state": None},
            {"params": params[2:3], "state": "bfloat16"},
        ],
        state="8bit",
    )
    optimizer.add_param_group({"params": params[3:]})
    set_gradients(params, 0)
    optimizer.step()
    dtypes = [optimizer.state[param]["exp_avg"].dtype for param in params]
    assert dtypes == [torch.uint8, torch.float32, torch.bfloat16, torch.uint8]


@pytest.mark.usefixtures("kernels_alone")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_format_may_change_at_any_time(case, kind):
    params = network(kind)
    optimizer = case.cls(params, **case.options)
    twins, arrays = [case.twin() for _ in params], [{"W": array(param)} for param in params]
    # First what is left to chance: a rule that counts no steps counts them from then on.
    for step, state in enumerate(("bfloat16", "8bit", None, "8bit", "bfloat16", None)):
        optimizer.param_groups[0] |= {"state": state, "state_min_size": 0}
        set_gradients(params, step)
        optimizer.step()
        for param, twin, values in zip(params, twins, arrays, strict=True):
            twin.state, twin.state_min_size = state, 0
            twin.update(values, {"W": array(param.grad)})
            assert_same_bits(array(param), values["W"])
            for slot in twin._slots:
                held = optimizer.state[param][names_of(case)[slot]]
                assert_same_state(held, getattr(twin, slot)["W"])


# ---------------------------------------------------------------- kept and loaded


def saved_by_torch(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)  # with weights alone: of no class that it does not know


WAYS = [copy.deepcopy, saved_by_torch, lambda state: pickle.loads(pickle.dumps(state))]


@pytest.mark.usefixtures("kernels_alone")
@pytest.mark.parametrize("case", [*CLASSES, MOMENTUM], ids=str)
def test_training_goes_on_bit_for_bit(case, kept, kind):
    if case.name == "NAdam" and kind is not torch.float32:
        pytest.skip("torch casts its number to the parameter's dtype when it is loaded")
    params = network(kind)
    optimizer = case.cls(params, **case.options, **kept)
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    others = []
    for way in WAYS:
        theirs = copies(params)
        other = case.cls(theirs)
        other.load_state_dict(way(optimizer.state_dict()))
        others.append((theirs, other))
    for step in range(2, 4):
        for each, stepped in ((params, optimizer), *others):
            set_gradients(each, step)
            stepped.step()
    for theirs, other in others:
        for mine, its in zip(params, theirs, strict=True):
            assert_same_bits(array(its), array(mine))
            for name, value in optimizer.state[mine].items():
                if torch.is_tensor(value):
                    assert_same_bits(array(other.state[its][name]), array(value), name)


def test_a_whole_optimizer_is_copied_with_its_codes(kept, kind):
    params = network(kind)
    optimizer = zdlfast.torch.Adam(params, **kept)
    set_gradients(params, 0)
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs = [param for group in other.param_groups for param in group["params"]]
        set_gradients(theirs, 1)
        other.step()
        ours, twin = copy.deepcopy((params, optimizer))
        set_gradients(ours, 1)
        twin.step()
        for mine, its in zip(ours, theirs, strict=True):
            assert_same_bits(array(its), array(mine))


def test_what_torch_has_saved_is_encoded_and_bfloat16_goes_back():
    params = [torch.nn.Parameter(torch.randn(5000))]
    theirs = torch.optim.Adam(params)
    set_gradients(params, 0)
    theirs.step()
    for state, dtype in (("8bit", torch.uint8), ("bfloat16", torch.bfloat16)):
        ours = zdlfast.torch.Adam(params, state=state)
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        ours.step()
        assert ours.state[params[0]]["exp_avg"].dtype is dtype
    theirs.load_state_dict(ours.state_dict())
    assert theirs.state[params[0]]["exp_avg"].dtype is torch.float32
    theirs.step()


def test_torchs_own_implementation_gets_state_in_full_and_gives_it_back():
    params = [torch.nn.Parameter(torch.randn(5000)) for _ in range(2)]
    optimizer = zdlfast.torch.Adam(params, state="8bit")
    set_gradients(params, 0)
    optimizer.step()
    before = optimizer.state[params[0]]["exp_avg"].clone()
    params[0].grad = torch.ones(5000).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert optimizer.state[params[1]]["exp_avg"].dtype is torch.uint8
    assert optimizer.state[params[0]]["exp_avg"].dtype is torch.float32
    set_gradients(params, 1)
    optimizer.param_groups[0]["foreach"] = True
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"].shape == (5000,)
    optimizer.param_groups[0]["foreach"] = None
    optimizer.step()
    after = optimizer.state[params[0]]["exp_avg"]
    assert after.dtype is torch.uint8
    assert not torch.equal(after, before)


def test_a_step_that_raises_leaves_the_format_as_it_was():
    params = network(torch.float32)
    optimizer = zdlfast.torch.Adam(params)
    set_gradients(params, 0)
    optimizer.step()
    held = {param: dict(optimizer.state[param]) for param in params}
    optimizer.param_groups[0] |= {"state": "8bit", "state_min_size": 0}
    optimizer._steps  # noqa: B018 - made before it is changed
    fail_before_the_change(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    for param in params:
        assert optimizer.state[param].keys() == held[param].keys()
        assert all(optimizer.state[param][name] is held[param][name] for name in held[param])


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("case", CLASSES, ids=str)
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("state", "4bit", ValueError, r"state must be one of \('8bit', 'bfloat16'\), got '4bit'"),
        ("state_min_size", -1, ValueError, "state_min_size must be >= 0, got -1"),
        ("state_rounding", "up", ValueError, "state_rounding must be one of"),
    ],
)
def test_a_wrong_value_is_told(case, name, value, error, message):
    param = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(error, match=message):
        case.cls([param], **{name: value})
    optimizer = case.cls([{"params": [param], name: value}])
    param.grad = torch.ones(3)
    with pytest.raises(error, match=message):
        optimizer.step()
    assert torch.all(param == 1)


@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_without_these_options_groups_are_those_of_torch(case):
    group = case.cls([torch.nn.Parameter(torch.ones(3))]).param_groups[0]
    assert not any(name.startswith("state") for name in group)
