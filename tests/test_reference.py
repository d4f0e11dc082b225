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


def sklearnadam(o, t, p, g, m, v):
    lr_t = o.lr * math.sqrt(1.0 - o.beta2**t) / (1.0 - o.beta1**t)
    m = o.beta1 * m + (1 - o.beta1) * g
    v = o.beta2 * v + (1 - o.beta2) * (g * g)
    return p - lr_t * m / (math.sqrt(v) + o.eps), m, v


def sklearnnesterov(o, t, p, g, v):
    v = o.momentum * v - o.lr * g
    return p + (o.momentum * v - o.lr * g), v


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
    optimizer = rule.numpy()
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
        "SGD": "(lr: float = 0.01) -> None",
        "Momentum": "(lr: float = 0.01, momentum: float = 0.9) -> None",
        "Nesterov": "(lr: float = 0.01, momentum: float = 0.9) -> None",
        "AdaGrad": "(lr: float = 0.01, *, eps: float = 1e-07) -> None",
        "RMSprop": "(lr: float = 0.01, decay_rate: float = 0.99, *, eps: float = 1e-07) -> None",
        "Adam": "(lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, *, "
        "eps: float = 1e-07) -> None",
    }
    import zdlfast

    for name, signature in expected.items():
        for module in (zdlfast, reference):
            found = inspect.signature(getattr(module, name))
            # This one is not the book's; tests/test_nonfinite.py has it.
            own = [p for p in found.parameters.values() if p.name != "nonfinite"]
            assert str(found.replace(parameters=own)) == signature
            assert "References" in getattr(module, name).__doc__
