"""The rules beyond the book, against the code that their authors or PyTorch published.

A fixture has numbers that this code computed. PyTorch is run here, where it is installed. Rules
that PyTorch has not got are written down a second time, in floats and as their authors write them.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import zdlfast
from zdlfast import reference

OFFICIAL = json.loads((Path(__file__).parent / "fixtures" / "official.json").read_text())
STEPS = 100
SIZES = (1, 13, 67)


@pytest.fixture(params=[reference, zdlfast], ids=["numpy", "fast"])
def module(request):
    return request.param


def assert_close(found, expected):
    """Equal but for the last digits, of which the order of operations decides."""
    expected = np.asarray(expected)
    allowed = 1e-12 * np.maximum(np.abs(expected), 1e-3)
    assert np.all(np.abs(found - expected) <= allowed), np.max(np.abs(found - expected) / allowed)


# ------------------------------------------------------------------ published numbers


@pytest.mark.parametrize("case", OFFICIAL["cases"], ids=lambda case: case["name"])
def test_the_official_code_comes_to_the_same_numbers(case, module):
    optimizer = getattr(module, case["rule"])(**case["options"])
    params = {"W": np.array(OFFICIAL["start"])}
    for t in range(1, 26):
        if t == 13:
            optimizer.lr /= 2
        grads = [0.0 if t % 7 == 3 or (i == 5 and t <= 2) else math.sin(0.7 * t + 0.3 * i)
                 for i in range(13)]  # fmt: skip
        optimizer.update(params, {"W": np.array(grads)})
        if str(t) in case["after"]:
            assert_close(params["W"], case["after"][str(t)])
        if str(t) in case.get("after_eval", {}):
            optimizer.eval(params)
            assert_close(params["W"], case["after_eval"][str(t)])
            optimizer.train(params)


# ------------------------------------------------------------------ PyTorch


def run(rng):
    """Parameters; a learning rate and gradients, some of them zero, of each step."""
    params = {f"W{n}": rng.standard_normal(n) for n in SIZES}
    steps = []
    for t in range(STEPS):
        grads = {key: rng.standard_normal(p.size) for key, p in params.items()}
        for grad in grads.values():
            grad[rng.random(grad.size) < 0.2] = 0.0
        if t % 9 == 4:
            grads["W13"][:] = 0.0
        steps.append((0.02 * (1 + math.cos(t / 7)), grads))
    return params, steps


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    # NAdam's product of momenta is of this type.
    torch.set_default_dtype(torch.float64)
    yield torch
    torch.set_default_dtype(before)


BETAS = {"beta1": 0.8, "beta2": 0.95}
COUPLED = {"weight_decay": 0.1}
DECOUPLED = {"weight_decay": 0.1, "decoupled": True}


@pytest.mark.parametrize(
    ("rule", "options", "torch_rule", "torch_options"),
    [
        ("AdamW", BETAS, "AdamW", {"weight_decay": 0.01}),
        ("AdamW", {**BETAS, "amsgrad": True}, "AdamW", {"weight_decay": 0.01, "amsgrad": True}),
        ("AdamW", {"eps": 0.1, **DECOUPLED}, "AdamW", {"eps": 0.1, "weight_decay": 0.1}),
        ("AdamW", {**COUPLED, "decoupled": False}, "Adam", {"weight_decay": 0.1}),
        ("AdamW", {"maximize": True}, "AdamW", {"weight_decay": 0.01, "maximize": True}),
        ("NAdam", {}, "NAdam", {}),
        ("NAdam", {**BETAS, "momentum_decay": 0.1}, "NAdam", {"momentum_decay": 0.1}),
        ("NAdam", COUPLED, "NAdam", {"weight_decay": 0.1}),
        ("NAdam", DECOUPLED, "NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("RAdam", {}, "RAdam", {}),
        ("RAdam", {**BETAS, **COUPLED}, "RAdam", {"weight_decay": 0.1}),
        ("RAdam", DECOUPLED, "RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        ("RAdam", {"beta2": 0.5}, "RAdam", {"betas": (0.9, 0.5)}),
        ("Adamax", {}, "Adamax", {}),
        (
            "Adamax",
            {**BETAS, **COUPLED, "eps": 0.01},
            "Adamax",
            {"weight_decay": 0.1, "eps": 0.01},
        ),
        ("AdaDelta", {}, "Adadelta", {}),
        (
            "AdaDelta",
            {"decay_rate": 0.7, "eps": 1e-3, **COUPLED},
            "Adadelta",
            {"rho": 0.7, "eps": 1e-3, "weight_decay": 0.1},
        ),
    ],
)
def test_pytorch_comes_to_the_same_numbers(
    rule, options, torch_rule, torch_options, module, torch, rng
):
    if "beta1" in options:
        torch_options = {**torch_options, "betas": (options["beta1"], options["beta2"])}
    params, steps = run(rng)
    theirs = {key: torch.tensor(p, requires_grad=True) for key, p in params.items()}
    optimizer = getattr(module, rule)(**options)
    torchs = getattr(torch.optim, torch_rule)(theirs.values(), **torch_options)
    for lr, grads in steps:
        optimizer.lr = torchs.param_groups[0]["lr"] = lr
        optimizer.update(params, grads)
        for key, tensor in theirs.items():
            tensor.grad = torch.tensor(grads[key])
        torchs.step()
        for key, tensor in theirs.items():
            assert_close(params[key], tensor.detach().numpy())


def test_amsgrad_is_pytorchs_with_the_eps_of_the_book(module, torch, rng):
    """Which is beside the uncorrected root."""
    params, steps = run(rng)
    theirs = {key: torch.tensor(p, requires_grad=True) for key, p in params.items()}
    optimizer = module.AMSGrad(**BETAS, eps=1e-3)
    torchs = torch.optim.Adam(theirs.values(), betas=(0.8, 0.95), amsgrad=True)
    for t, (lr, grads) in enumerate(steps, 1):
        optimizer.lr = torchs.param_groups[0]["lr"] = lr
        torchs.param_groups[0]["eps"] = 1e-3 / math.sqrt(1 - 0.95**t)
        optimizer.update(params, grads)
        for key, tensor in theirs.items():
            tensor.grad = torch.tensor(grads[key])
        torchs.step()
        for key, tensor in theirs.items():
            assert_close(params[key], tensor.detach().numpy())


# ------------------------------------------------------------------ as their authors write them


def adabound(o, t, p, g, s, amsbound=False):
    m, v, largest = s.get("m", 0.0), s.get("v", 0.0), s.get("largest", 0.0)
    if o.decoupled:
        p = p * (1 - o.lr * o.weight_decay)
    else:
        g = g + o.weight_decay * p
    m = m * o.beta1 + (1 - o.beta1) * g
    v = v * o.beta2 + (1 - o.beta2) * g * g
    largest = max(largest, v) if amsbound else v
    step_size = o.lr * math.sqrt(1 - o.beta2**t) / (1 - o.beta1**t)
    final_lr = o.final_lr * o.lr / o.base_lr
    lower_bound = final_lr * (1 - 1 / (o.gamma * t + 1))
    upper_bound = final_lr * (1 + 1 / (o.gamma * t))
    rate = step_size / (math.sqrt(largest) + o.eps)
    s.update(m=m, v=v, largest=largest)
    return p - min(max(rate, lower_bound), upper_bound) * m


def amsbound(o, t, p, g, s):
    return adabound(o, t, p, g, s, amsbound=True)


def adabelief(o, t, p, g, s):
    m, variance = s.get("m", 0.0), s.get("variance", 0.0)
    if o.decoupled:
        p = p * (1 - o.lr * o.weight_decay)
    else:
        g = g + o.weight_decay * p
    m = m * o.beta1 + (1 - o.beta1) * g
    variance = variance * o.beta2 + (1 - o.beta2) * (g - m) * (g - m) + o.eps
    denominator = math.sqrt(variance) / math.sqrt(1 - o.beta2**t) + o.eps
    s.update(m=m, variance=variance)
    return p - o.lr / (1 - o.beta1**t) * (m / denominator)


def lion(o, t, p, g, s):
    m = s.get("m", 0.0)
    if o.decoupled:
        p = p * (1 - o.lr * o.weight_decay)
    else:
        g = g + o.weight_decay * p
    c = m * o.beta1 + g * (1 - o.beta1)
    s["m"] = m * o.beta2 + g * (1 - o.beta2)
    return p - o.lr * ((c > 0) - (c < 0))


def adopt(o, t, p, g, s):
    if not o.decoupled:
        g = g + o.weight_decay * p
    if t == 1:
        s.update(m=0.0, v=g * g)
        return p
    if o.decoupled:
        p = p * (1 - o.lr * o.weight_decay)
    limit = (t - 1) ** 0.25
    ratio = min(max(g / max(math.sqrt(s["v"]), o.eps), -limit), limit)
    s["m"] += (1 - o.beta1) * (ratio - s["m"])
    s["v"] = o.beta2 * s["v"] + (1 - o.beta2) * g * g
    return p - o.lr * s["m"]


def schedulefreeadamw(o, t, y, g, s):
    """In the points x, y and z of the paper."""
    x, z, v = s.get("x", y), s.get("z", y), s.get("v", 0.0)
    lr = o.lr * min(1.0, t / o.warmup_steps) if o.warmup_steps else o.lr
    s["lr_max"] = lr_max = max(lr, s.get("lr_max", -1.0))
    weight = t**o.r * lr_max**o.weight_lr_power
    s["weight_sum"] = s.get("weight_sum", 0.0) + weight
    c = weight / s["weight_sum"]
    v = o.beta2 * v + (1 - o.beta2) * g * g
    step = g / (math.sqrt(v / (1 - o.beta2**t)) + o.eps) + o.weight_decay * y
    z = z - lr * step
    x = (1 - c) * x + c * z
    s.update(x=x, z=z, v=v)
    return o.beta1 * x + (1 - o.beta1) * z


@pytest.mark.parametrize("decay", [{}, COUPLED, DECOUPLED], ids=["plain", "coupled", "decoupled"])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("AdaBound", {"lr": 0.04}),
        ("AdaBound", {**BETAS, "lr": 0.04, "final_lr": 0.05, "gamma": 0.1}),
        ("AMSBound", {"lr": 0.04}),
        ("AMSBound", {**BETAS, "lr": 0.04, "final_lr": 0.05, "gamma": 0.1}),
        ("AdaBelief", {}),
        ("AdaBelief", {**BETAS, "eps": 1e-3}),
        ("Lion", {"decoupled": False}),
        ("Lion", {"beta1": 0.95, "beta2": 0.98, "decoupled": False}),
        ("ADOPT", {}),
        ("ADOPT", {**BETAS, "eps": 0.3}),
        ("ScheduleFreeAdamW", {}),
        ("ScheduleFreeAdamW", {**BETAS, "warmup_steps": 8}),
        (
            "ScheduleFreeAdamW",
            {"warmup_steps": 20, "r": 1.0, "weight_lr_power": 1.0, "eps": 1e-3},
        ),
    ],
)
def test_the_authors_form_comes_to_the_same_numbers(rule, options, decay, module, rng):
    if rule == "ScheduleFreeAdamW" and decay is COUPLED:
        pytest.skip("the authors have no coupled decay")
    params, steps = run(rng)
    formula = globals()[rule.lower()]
    optimizer = getattr(module, rule)(**{**options, **decay})
    elements = {key: [(p, {}) for p in array.tolist()] for key, array in params.items()}
    for t, (lr, grads) in enumerate(steps, 1):
        optimizer.lr = lr
        optimizer.update(params, grads)
        for key, pairs in elements.items():
            pairs[:] = [
                (formula(optimizer, t, p, g, state), state)
                for (p, state), g in zip(pairs, grads[key].tolist(), strict=True)
            ]
            assert_close(params[key], [p for p, _ in pairs])
    if rule == "ScheduleFreeAdamW":
        optimizer.eval(params)
        for key, pairs in elements.items():
            assert_close(params[key], [state["x"] for _, state in pairs])


def test_the_nesterov_of_book_2_uses_the_new_velocity(module, rng):
    params = [rng.standard_normal(5)]
    expected, v = params[0].copy(), np.zeros(5)
    optimizer = module.NesterovBook2(lr=0.1, momentum=0.7)
    for _ in range(20):
        grad = rng.standard_normal(5)
        optimizer.update(params, [grad])
        v = 0.7 * v - 0.1 * grad
        expected = expected + 0.7 * 0.7 * v - 1.7 * 0.1 * grad
        np.testing.assert_allclose(params[0], expected, rtol=1e-12)
