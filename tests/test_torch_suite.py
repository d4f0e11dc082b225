"""torch's own table of optimizers and options, run over the classes of zdlfast.torch.

It is what torch's test suite walks: options that are right for each optimizer, with those that
ask for another implementation, and options that are wrong, with the errors that they are to give.
"""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # torch's table cannot be imported without it

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what else torch imports for its tests
    from torch.testing._internal import common_optimizers

import zdlfast.torch  # noqa: E402

INFOS = [
    info for info in common_optimizers.optim_db if info.optim_cls.__name__ in zdlfast.torch.__all__
]
STEPS = 7  # as in torch's suite


def all_inputs(info):
    """Options, with those for other implementations."""
    return common_optimizers._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float64, info
    )


INPUTS = [(info, i) for info in INFOS for i in range(len(all_inputs(info)))]


def name_of(value):
    return value.optim_cls.__name__ if hasattr(value, "optim_cls") else str(value)


def parameters(kind):
    random = torch.Generator().manual_seed(1)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=random, dtype=kind))
        for shape in ((11, 5), (5,), (), (3, 1, 4))
    ]


def train(cls, options, kind, steps=STEPS):
    params = parameters(kind)
    if options.get("differentiable"):
        for param in params:
            param.requires_grad_(False)
    optimizer = cls(params, **copy.deepcopy(options))
    random = torch.Generator().manual_seed(2)
    for step in range(steps):
        for place, param in enumerate(params):
            # In the middle one of them has none, as in torch's suite.
            grad = torch.randn(param.shape, generator=random, dtype=kind)
            param.grad = None if (step, place) == (2, 1) else grad
        optimizer.step()
    return params, optimizer


def assert_same(ours, theirs, kind):
    tolerance = {torch.float64: (1e-7, 1e-7), torch.float32: (1e-4, 5e-5)}[kind]
    for mine, its in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(mine, its, rtol=tolerance[0], atol=tolerance[1])
    for mine, its in zip(ours[0], theirs[0], strict=True):
        state, expected = ours[1].state.get(mine, {}), theirs[1].state.get(its, {})
        assert state.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(
                state[name], expected[name], rtol=tolerance[0], atol=tolerance[1]
            )


@pytest.mark.filterwarnings("ignore:.*(differentiable|a Tensor to a scalar):UserWarning")
@pytest.mark.parametrize("kind", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("info", "place"), INPUTS, ids=name_of)
def test_options_of_torchs_table_give_what_torch_gives(info, place, kind):
    options = all_inputs(info)[place].kwargs
    ours = train(getattr(zdlfast.torch, info.optim_cls.__name__), options, kind)
    assert_same(ours, train(info.optim_cls, options, kind), kind)


@pytest.mark.parametrize("info", INFOS, ids=name_of)
def test_wrong_options_of_torchs_table_give_the_errors_that_it_names(info):
    inputs = info.optim_error_inputs_func(device="cpu", dtype=torch.float64)
    assert inputs
    for wrong in inputs:
        params, options = wrong.optimizer_error_input.params, wrong.optimizer_error_input.kwargs
        cls = getattr(zdlfast.torch, info.optim_cls.__name__)
        if wrong.error_on == common_optimizers.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            expected = pytest.warns if issubclass(wrong.error_type, Warning) else pytest.raises
            with expected(wrong.error_type, match=wrong.error_regex):
                cls(params, **options)
        else:
            optimizer = cls(params, **options)
            with pytest.raises(wrong.error_type, match=wrong.error_regex):
                optimizer.step()


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("info", INFOS, ids=name_of)
def test_schedulers_of_torchs_table_give_what_torch_gives(info):
    for makers in info.scheduler_inputs or ():
        found = []
        for cls in (getattr(zdlfast.torch, info.optim_cls.__name__), info.optim_cls):
            params = parameters(torch.float64)
            optimizer = cls(params, lr=0.01)
            schedulers = [maker(optimizer) for maker in makers]
            random = torch.Generator().manual_seed(3)
            for _ in range(STEPS):
                for param in params:
                    param.grad = torch.randn(param.shape, generator=random, dtype=torch.float64)
                optimizer.step()
                for scheduler in schedulers:
                    if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                        scheduler.step(1.0)
                    else:
                        scheduler.step()
            found.append((params, optimizer))
        assert_same(*found, torch.float64)
