"""The twin itself, against arithmetic that does not use NumPy's array code."""

import math

import numpy as np
import pytest
from table import assert_same_bits

from zdlfast import reference


def sgd(o, t, p, g):
    return (p - o.lr * g,)


def momentum(o, t, p, g, v):
    v = o.momentum * v - o.lr * g
    return p + v, v


def nesterov(o, t, p, g, v):
    p = p + o.momentum * o.momentum * v
    p = p - (1 + o.momentum) * o.lr * g
    return p, v * o.momentum - o.lr * g


def adagrad(o, t, p, g, h):
    h = h + g * g
    return p - o.lr * g / (math.sqrt(h) + o.eps), h


def rmsprop(o, t, p, g, h):
    h = h * o.decay_rate
    h = h + (1 - o.decay_rate) * g * g
    return p - o.lr * g / (math.sqrt(h) + o.eps), h


def adam(o, t, p, g, m, v):
    lr_t = o.lr * math.sqrt(1.0 - o.beta2**t) / (1.0 - o.beta1**t)
    m = m + (1 - o.beta1) * (g - m)
    v = v + (1 - o.beta2) * (g * g - v)
    return p - lr_t * m / (math.sqrt(v) + o.eps), m, v


def nesterovbook2(o, t, p, g, v):
    v = v * o.momentum - o.lr * g
    p = p + o.momentum * o.momentum * v
    return p - (1 + o.momentum) * o.lr * g, v


def means(o, g, m, v):
    return m + (1 - o.beta1) * (g - m), v + (1 - o.beta2) * (g * g - v)


def adamw(o, t, p, g, m, v):
    m, v = means(o, g, m, v)
    root2 = math.sqrt(1.0 - o.beta2**t)
    lr_t = o.lr * root2 / (1.0 - o.beta1**t)
    p = p * (1.0 - o.lr * o.weight_decay)
    return p - lr_t * m / (math.sqrt(v) + o.eps * root2), m, v


def amsgrad(o, t, p, g, m, v, v_max):
    lr_t = o.lr * math.sqrt(1.0 - o.beta2**t) / (1.0 - o.beta1**t)
    m, v = means(o, g, m, v)
    v_max = max(v_max, v)
    return p - lr_t * m / (math.sqrt(v_max) + o.eps), m, v, v_max


def nadam(o, t, p, g, m, v):
    m, v = means(o, g, m, v)
    mu, mu_next = (o.beta1 * (1.0 - 0.5 * 0.96 ** (i * o.momentum_decay)) for i in (t, t + 1))
    product, root2 = o.mu_product, math.sqrt(1.0 - o.beta2**t)  # as it is after the step
    lr_g = o.lr * root2 * (1.0 - mu) / (1.0 - product)
    lr_m = o.lr * root2 * mu_next / (1.0 - product * mu_next)
    return p - (lr_g * g + lr_m * m) / (math.sqrt(v) + o.eps * root2), m, v


def radam(o, t, p, g, m, v):
    m, v = means(o, g, m, v)
    power, longest = o.beta2**t, 2.0 / (1.0 - o.beta2) - 1.0
    length = longest - 2.0 * t * power / (1.0 - power)
    lr_t = o.lr / (1.0 - o.beta1**t)
    if length <= 5.0:
        return p - lr_t * m, m, v
    r = (length - 4.0) * (length - 2.0) * longest
    r = math.sqrt(r / ((longest - 4.0) * (longest - 2.0) * length))
    return p - lr_t * r * math.sqrt(1.0 - power) * m / (math.sqrt(v) + o.eps), m, v


def adamax(o, t, p, g, m, u):
    m = m + (1 - o.beta1) * (g - m)
    u = max(o.beta2 * u, abs(g) + o.eps)
    return p - o.lr / (1.0 - o.beta1**t) * m / u, m, u


def adadelta(o, t, p, g, h, d):
    h = h * o.decay_rate
    h = h + (1 - o.decay_rate) * g * g
    step = math.sqrt((d + o.eps) / (h + o.eps)) * g
    d = d * o.decay_rate
    return p - o.lr * step, h, d + (1 - o.decay_rate) * step * step


def bounded(o, t, largest):
    final = o.final_lr * o.lr / o.base_lr
    lower, upper = final * (1.0 - 1.0 / (o.gamma * t + 1.0)), final * (1.0 + 1.0 / (o.gamma * t))
    lr_t = o.lr * math.sqrt(1.0 - o.beta2**t) / (1.0 - o.beta1**t)
    return min(max(lr_t / (math.sqrt(largest) + o.eps), lower), upper)


def adabound(o, t, p, g, m, v):
    m, v = means(o, g, m, v)
    return p - bounded(o, t, v) * m, m, v


def amsbound(o, t, p, g, m, v, v_max):
    m, v = means(o, g, m, v)
    v_max = max(v_max, v)
    return p - bounded(o, t, v_max) * m, m, v, v_max


def adabelief(o, t, p, g, m, s):
    m = m + (1 - o.beta1) * (g - m)
    s = s + (1 - o.beta2) * ((g - m) * (g - m) - s)
    s, root2 = s + o.eps, math.sqrt(1.0 - o.beta2**t)
    lr_t = o.lr * root2 / (1.0 - o.beta1**t)
    return p - lr_t * m / (math.sqrt(s) + o.eps * root2), m, s


def lion(o, t, p, g, m):
    mean = o.beta1 * m + (1 - o.beta1) * g
    return p - o.lr * ((mean > 0) - (mean < 0)), m + (1 - o.beta2) * (g - m)


def adopt(o, t, p, g, m, v):
    if t == 1:
        return p, m, g * g
    limit = math.sqrt(math.sqrt(t - 1))
    ratio = min(max(g / max(math.sqrt(v), o.eps), -limit), limit)
    m = m + (1 - o.beta1) * (ratio - m)
    return p - o.lr * m, m, v + (1 - o.beta2) * (g * g - v)


def schedulefreeadamw(o, t, p, g, d, v):
    lr_t = o.lr * (t / o.warmup_steps) if t < o.warmup_steps else o.lr
    c = float(t) ** o.r * o.lr_max**o.weight_lr_power / o.weight_sum  # as they are after the step
    v, root2 = v + (1 - o.beta2) * (g * g - v), math.sqrt(1.0 - o.beta2**t)
    step = root2 * g / (math.sqrt(v) + o.eps * root2) + o.weight_decay * p
    p = p + c * d
    p = p - lr_t * (1.0 - o.beta1 * (1.0 - c)) * step
    return p, (d - o.beta1 * lr_t * step) * (1 - c), v


def sklearnadam(o, t, p, g, m, v):
    lr_t = o.lr * math.sqrt(1.0 - o.beta2**t) / (1.0 - o.beta1**t)
    m = o.beta1 * m + (1 - o.beta1) * g
    v = o.beta2 * v + (1 - o.beta2) * (g * g)
    return p - lr_t * m / (math.sqrt(v) + o.eps), m, v


def sklearnnesterov(o, t, p, g, v):
    v = o.momentum * v - o.lr * g
    return p + (o.momentum * v - o.lr * g), v


def torchmomentum(o, t, p, g, b):
    b = o.momentum * b + (1.0 if t == 1 else 1 - o.dampening) * g
    return p - o.lr * b, b


def torchnesterov(o, t, p, g, b):
    _, b = torchmomentum(o, t, p, g, b)
    return p - o.lr * (g + o.momentum * b), b


def torchadagrad(o, t, p, g, h):
    h = h + g * g
    return p - o.lr / (1.0 + (t - 1) * o.lr_decay) * g / (math.sqrt(h) + o.eps), h


def torchrmspropmomentum(o, t, p, g, v, b):
    v = o.alpha * v + (1 - o.alpha) * g * g
    b = o.momentum * b + g / (math.sqrt(v) + o.eps)
    return p - o.lr * b, v, b


def torchrmspropcentered(o, t, p, g, v, a):
    v, a = o.alpha * v + (1 - o.alpha) * g * g, a + (1 - o.alpha) * (g - a)
    return p - o.lr * g / (math.sqrt(max(v - a * a, 0.0)) + o.eps), v, a


def torchrmspropcenteredmomentum(o, t, p, g, v, a, b):
    v, a = o.alpha * v + (1 - o.alpha) * g * g, a + (1 - o.alpha) * (g - a)
    b = o.momentum * b + g / (math.sqrt(max(v - a * a, 0.0)) + o.eps)
    return p - o.lr * b, v, a, b


torchnadam = nadam


def test_float64_equals_python_floats_bit_for_bit(rule, rng):
    formula = globals()[rule.name.lower()]
    optimizer = rule.numpy(**rule.options)
    params = {"W": rng.standard_normal((3, 5))}
    elements = [(p, *(0.0 for _ in rule.slots)) for p in params["W"].ravel().tolist()]
    for t in range(1, 51):
        grads = {"W": rng.standard_normal((3, 5))}
        optimizer.lr = 0.1 / t
        optimizer.update(params, grads)
        elements = [
            formula(optimizer, t, element[0], g, *element[1:])
            for element, g in zip(elements, grads["W"].ravel().tolist(), strict=True)
        ]
    columns = [np.reshape(column, (3, 5)) for column in zip(*elements, strict=True)]
    assert_same_bits(params["W"], columns[0])
    for slot, column in zip(rule.slots, columns[1:], strict=True):
        assert_same_bits(getattr(optimizer, slot)["W"], column)


# f(x, y) = x**2 / 20 + y**2 from (-7, 2), 30 steps: where the book's own code arrives.
@pytest.mark.parametrize(
    ("name", "options", "x", "y"),
    [
        ("SGD", {"lr": 0.95}, -0.3503929957523197, 0.0847823165504322),
        ("Momentum", {"lr": 0.1}, 0.896413858493733, 0.08808560171506971),
        ("Nesterov", {"lr": 0.1}, 0.6896149016966209, -0.0006799058361171969),
        ("AdaGrad", {"lr": 1.5}, -0.12016232231416045, None),
        ("Adam", {"lr": 0.3}, 0.13600685239498186, 0.31824537553721943),
    ],
)
@pytest.mark.parametrize("module", ["zdlfast", "zdlfast.reference"])
@pytest.mark.parametrize("kind", [float, np.float64, np.array], ids=["float", "float64", "0-d"])
def test_the_2d_example_ends_where_the_book_ends(name, options, x, y, module, kind):
    import importlib

    optimizer = getattr(importlib.import_module(module), name)(**options)
    params = {"x": kind(-7.0), "y": kind(2.0)}
    grads = {"x": 0, "y": 0}  # the article starts with ints
    for _ in range(30):
        grads["x"], grads["y"] = params["x"] / 10.0, 2.0 * params["y"]
        optimizer.update(params, grads)
    assert float(params["x"]) == x
    if y is not None:
        assert float(params["y"]) == y


def test_nesterov_is_the_textbook_method_at_the_look_ahead_point():
    """p is theta + mu * v of the textbook's theta and v."""
    mu, lr = 0.9, 0.05
    params = {"w": np.array([2.0, -3.0])}
    optimizer = reference.Nesterov(lr=lr, momentum=mu)
    theta, v = params["w"].copy(), np.zeros(2)
    for _ in range(40):
        ahead = theta + mu * v
        np.testing.assert_allclose(params["w"], ahead, rtol=0, atol=1e-14)
        v = mu * v - lr * 2 * ahead
        theta = theta + v
        optimizer.update(params, {"w": 2 * params["w"]})


def test_float32_training_computes_in_float32(rule, rng):
    """Each operation rounds to float32: no np.float64 scalar lifts an array to double."""
    if rule.name == "SklearnAdam":
        pytest.skip("it lifts its last line on purpose: tests/test_sklearn.py")
    optimizer = rule.numpy(weight_decay=0.0)
    params = {"W": rng.standard_normal(64).astype(np.float32)}
    expected = [params["W"].copy(), *(np.zeros(64, np.float32) for _ in rule.slots)]
    for _ in range(5):
        g = rng.standard_normal(64).astype(np.float32)
        scalars = [np.float32(scalar) for scalar in optimizer._scalars()]
        expected = list(rule.numpy._rule(expected[0], g, *expected[1:], *scalars))
        optimizer.update(params, {"W": g})
        assert_same_bits(params["W"], expected[0])


def test_public_names_and_defaults_are_the_books():
    import inspect

    expected = {
        "SGD": ({"lr": 0.01}, {}),
        "Momentum": ({"lr": 0.01, "momentum": 0.9}, {}),
        "Nesterov": ({"lr": 0.01, "momentum": 0.9}, {}),
        "AdaGrad": ({"lr": 0.01}, {"eps": 1e-7}),
        "RMSprop": ({"lr": 0.01, "decay_rate": 0.99}, {"eps": 1e-7}),
        "Adam": ({"lr": 0.001, "beta1": 0.9, "beta2": 0.999}, {"eps": 1e-7}),
    }
    import zdlfast

    for name, (by_place, by_name) in expected.items():
        for module in (zdlfast, reference):
            found = inspect.signature(getattr(module, name)).parameters.values()
            kinds = {"by place": {}, "by name": {}}
            for p in found:
                if p.kind is not p.VAR_KEYWORD:
                    kinds["by name" if p.kind is p.KEYWORD_ONLY else "by place"][p.name] = (
                        p.default
                    )
            assert kinds == {"by place": by_place, "by name": by_name}
            assert "References" in getattr(module, name).__doc__
