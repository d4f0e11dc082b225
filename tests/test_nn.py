"""Networks: right gradients, one dtype all the way, nothing written behind the caller's back."""

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import zdlfast
from zdlfast import nn
from zdlfast.nn import (
    Affine,
    BatchNormalization,
    Dropout,
    He,
    Normal,
    ReLU,
    Sequential,
    Sigmoid,
    SoftmaxCrossEntropy,
    Tanh,
    Trainer,
    Xavier,
    Zeros,
    dense_network,
    gradient_check,
    numerical_gradient,
)

LAYERS = {
    "Affine": lambda dtype: Affine(5, 5, rng=1, dtype=dtype),
    "ReLU": lambda dtype: ReLU(),
    "Sigmoid": lambda dtype: Sigmoid(),
    "Tanh": lambda dtype: Tanh(),
    "BatchNormalization": lambda dtype: BatchNormalization(5, dtype=dtype),
    "Dropout": lambda dtype: Dropout(0.4, rng=2),
}


@pytest.fixture(params=LAYERS)
def make_layer(request):
    return LAYERS[request.param]


@pytest.fixture(params=[False, True], ids=["inference", "training"])
def training(request):
    return request.param


def batch(rng, n=6, inputs=5, classes=3, dtype=np.float64):
    return rng.standard_normal((n, inputs)).astype(dtype), rng.integers(0, classes, n)


def relative(a, b):
    return np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b))


# ------------------------------------------------------------------ gradients


def test_every_layer_has_the_gradient_of_its_outputs(make_layer, training, rng):
    layer = make_layer(np.float64)
    for value in layer.params.values():
        value += rng.standard_normal(value.shape)
    x, weights = rng.standard_normal((7, 5)), rng.standard_normal((7, 5))
    state = layer.rng.bit_generator.state if isinstance(layer, Dropout) else None

    def total(_):
        if state is not None:
            layer.rng.bit_generator.state = state
        return float(np.sum(layer.forward(x, training) * weights))

    expected = {"x": numerical_gradient(total, x)}
    expected |= {key: numerical_gradient(total, value) for key, value in layer.params.items()}
    if not training and isinstance(layer, BatchNormalization):
        layer.running_mean += 0.3
        expected = {"x": numerical_gradient(total, x)}
        expected |= {key: numerical_gradient(total, value) for key, value in layer.params.items()}
    total(None)
    actual = {"x": layer.backward(weights), **layer.grads}
    assert actual.keys() == expected.keys()
    for key in expected:
        assert relative(actual[key], expected[key]) < 1e-6, key


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_the_loss_has_its_gradient(reduction, one_hot, rng):
    scores, t = rng.standard_normal((6, 3)) * 3, rng.integers(0, 3, 6)
    loss = SoftmaxCrossEntropy(reduction)
    labels = np.eye(3)[t] if one_hot else t
    expected = numerical_gradient(lambda s: loss.forward(s, labels), scores)
    value = loss.forward(scores, labels)
    assert relative(loss.backward(), expected) < 1e-6
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    by_hand = -np.log(softmax[np.arange(6), t])
    assert value == pytest.approx(by_hand.mean() if reduction == "mean" else by_hand.sum())


def test_the_sum_has_the_article_s_undivided_gradient(rng):
    scores, t = rng.standard_normal((6, 3)), rng.integers(0, 3, 6)
    gradients = []
    for reduction in ("mean", "sum"):
        loss = SoftmaxCrossEntropy(reduction)
        loss.forward(scores, t)
        gradients.append(loss.backward())
    np.testing.assert_allclose(6 * gradients[0], gradients[1], rtol=1e-14)
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(gradients[1], softmax - np.eye(3)[t], rtol=1e-12, atol=1e-15)


def test_large_scores_do_not_overflow():
    loss = SoftmaxCrossEntropy()
    assert loss.forward(np.array([[1e4, 0.0], [-1e4, 0.0]]), np.array([1, 0])) == 1e4
    assert np.all(np.isfinite(loss.backward()))


@pytest.mark.parametrize("activation", [ReLU, Sigmoid, Tanh])
@pytest.mark.parametrize("batch_normalization", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_whole_networks_have_the_gradient_of_their_loss(
    activation, batch_normalization, dropout, weight_decay, rng
):
    network = dense_network(
        5, 8, 7, 3, activation=activation, batch_normalization=batch_normalization,
        dropout=dropout, weight_decay=weight_decay, rng=3,
    )  # fmt: skip
    before = {key: value.copy() for key, value in network.params.items()}
    errors = gradient_check(network, *batch(rng))
    assert errors.keys() == network.params.keys()
    assert max(errors.values()) < 1e-6, errors
    for key, value in network.params.items():
        assert np.array_equal(value, before[key])


def test_gradient_check_finds_a_wrong_gradient(rng):
    class Wrong(Tanh):
        def backward(self, dout):
            return 1.01 * super().backward(dout)

    errors = gradient_check(dense_network(5, 4, 3, activation=Wrong, rng=1), *batch(rng))
    assert errors["W1"] > 1e-3
    assert errors["W2"] < 1e-6


def test_the_numerical_gradient_of_a_known_function():
    x = np.array([[1.0, -2.0], [0.5, 3.0]])
    gradient = numerical_gradient(lambda a: float(np.sum(a**3)), x)
    np.testing.assert_allclose(gradient, 3 * x**2 + 1e-8, rtol=1e-9)
    assert np.array_equal(x, [[1.0, -2.0], [0.5, 3.0]])


def test_the_numerical_gradient_restores_x_if_the_function_raises():
    x = np.ones(3)

    def fails(a):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        numerical_gradient(fails, x)
    assert np.array_equal(x, np.ones(3))


@pytest.mark.parametrize("dtype", [np.int64, np.float16])
def test_the_numerical_gradient_refuses_dtypes_that_lose_h(dtype):
    text = f"x must be an array of float32 or float64, got {np.dtype(dtype)}"
    with pytest.raises(TypeError, match=text):
        numerical_gradient(lambda a: float(np.sum(a * a)), np.ones(3, dtype))


def test_the_numerical_gradient_tells_where_h_is_lost(dtype):
    x = np.array([1.0, 1e13, 2.0], dtype)
    with pytest.raises(ValueError, match=r"h=0.0001 is lost beside the .* at \(1,\) of x"):
        numerical_gradient(lambda a: float(np.sum(a)), x)
    assert np.array_equal(x, np.array([1.0, 1e13, 2.0], dtype))


def test_the_numerical_gradient_divides_by_the_distance_that_there_is():
    # 1000 + 1e-4 rounds to 1000 + 1.2e-4 in float32.
    x = np.array([1000.0], np.float32)
    gradient = numerical_gradient(lambda a: 3.0 * float(a[0]), x)
    assert gradient[0] == 3.0


@pytest.mark.parametrize("h", [0.0, -1e-4, np.nan, np.inf, pytest.param(10**400, id="huge")])
def test_a_wrong_h_is_told(h):
    with pytest.raises(ValueError, match="numerical_gradient: h must be"):
        numerical_gradient(np.sum, np.ones(3), h)


def test_gradient_check_refuses_float32(rng):
    with pytest.raises(TypeError, match="gradient_check: W1 has dtype float32, expected float64"):
        gradient_check(dense_network(5, 4, 3, rng=1, dtype="f4"), *batch(rng))


def test_weight_decay_leaves_biases_and_batch_normalization_alone(rng):
    x, t = batch(rng)
    networks = [
        dense_network(5, 8, 3, batch_normalization=True, weight_decay=decay, rng=1)
        for decay in (0.0, 0.25)
    ]
    plain, decayed = (network.gradient(x, t) for network in networks)
    for key, gradient in plain.items():
        extra = 0.25 * networks[0].params[key] if key.startswith("W") else 0.0
        assert np.array_equal(decayed[key], gradient + extra), key
    weights = sum(np.sum(networks[0].params[key] ** 2) for key in ("W1", "W2"))
    difference = networks[1].batch_loss - networks[0].batch_loss
    assert difference == pytest.approx(0.5 * 0.25 * weights)


# ------------------------------------------------------------------ arrays


def test_float32_stays_float32(make_layer, training, dtype, rng):
    layer = make_layer(dtype)
    out = layer.forward(rng.standard_normal((4, 5)).astype(dtype), training)
    dx = layer.backward(rng.standard_normal((4, 5)).astype(dtype))
    assert {out.dtype, dx.dtype} == {dtype}
    for values in (layer.params, layer.grads):
        assert {value.dtype for value in values.values()} <= {dtype}


def test_a_network_keeps_its_dtype_through_training(rule, dtype, rng):
    network = dense_network(
        5, 8, 3, batch_normalization=True, dropout=0.2, weight_decay=0.1, dtype=dtype, rng=1
    )
    optimizer = rule.fast()
    x, t = batch(rng)
    for _ in range(3):
        grads = network.gradient(x, t)
        optimizer.update(network.params, grads)
    arrays = [*network.params.values(), *grads.values(), network.predict(x)]
    arrays += [network.layers[1].running_mean, network.layers[1].running_var]
    for slot in rule.slots:
        arrays += getattr(optimizer, slot).values()
    assert {array.dtype for array in arrays} == {dtype}


def test_no_layer_writes_to_what_it_is_given(make_layer, training, rng):
    layer = make_layer(np.float64)
    x, dout = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))
    for array in (x, dout):
        array.flags.writeable = False
    layer.forward(x, training)
    first = layer.backward(dout)
    kept = first.copy(), {key: value.copy() for key, value in layer.grads.items()}
    grads = dict(layer.grads)
    layer.forward(2 * x, training)
    layer.backward(3 * dout)
    assert np.array_equal(first, kept[0])
    for key, value in grads.items():
        assert np.array_equal(value, kept[1][key])


def test_gradients_are_new_arrays_at_every_call(rng):
    network = dense_network(5, 8, 3, batch_normalization=True, rng=1)
    x, t = batch(rng)
    first = network.gradient(x, t)
    copies = {key: value.copy() for key, value in first.items()}
    second = network.gradient(x[::-1] * 2, t)
    for key in first:
        assert not np.shares_memory(first[key], second[key])
        assert not np.shares_memory(first[key], network.params[key])
        assert np.array_equal(first[key], copies[key])


def test_params_have_the_book_s_names_and_are_the_layers_own(rng):
    network = dense_network(5, 8, 3, batch_normalization=True, dropout=0.1, rng=1)
    assert list(network.params) == ["W1", "b1", "gamma1", "beta1", "W2", "b2"]
    zdlfast.SGD(lr=1.0).update(network.params, network.gradient(*batch(rng)))
    assert network.params["W1"] is network.layers[0].params["W"]


# ------------------------------------------------------------------ layers


@pytest.mark.parametrize(("init", "std"), [(Normal(0.3), 0.3), (Xavier(), 0.05),
                                           (He(), np.sqrt(2) / 20), (Zeros(), 0.0)])  # fmt: skip
def test_initial_values_have_their_standard_deviation(init, std, dtype):
    values = init((400, 500), np.random.default_rng(1), dtype)
    assert values.shape == (400, 500)
    assert values.dtype == dtype
    assert values.std() == pytest.approx(std, rel=0.01)
    assert abs(values.mean()) <= 0.01 * std
    assert init.std(400) == std


def test_the_same_seed_gives_the_same_network_in_both_dtypes():
    a, b = dense_network(5, 8, 3, rng=1), dense_network(5, 8, 3, rng=np.random.default_rng(1))
    c = dense_network(5, 8, 3, rng=1, dtype=np.float32)
    for key in a.params:
        assert np.array_equal(a.params[key], b.params[key])
        assert np.array_equal(a.params[key].astype(np.float32), c.params[key])


def test_sigmoid_takes_any_input_without_a_warning(dtype):
    x = np.array([[-1e4, -100.0, 0.0, 100.0, 1e4]], dtype)
    with np.errstate(all="raise", under="ignore"):
        out = Sigmoid().forward(x)
    np.testing.assert_allclose(out, [[0, np.exp(-100), 0.5, 1, 1]], rtol=1e-4, atol=1e-40)


def test_batch_normalization_normalizes_batches_and_keeps_running_statistics(rng):
    layer = BatchNormalization(4, momentum=0.9)
    x = rng.standard_normal((50, 4)) * 5 + 3
    out = layer.forward(x, training=True)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(out.std(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(layer.running_mean, 0.1 * x.mean(axis=0))
    np.testing.assert_allclose(layer.running_var, 0.9 + 0.1 * x.var(axis=0))
    expected = (x - layer.running_mean) / np.sqrt(layer.running_var + 1e-6)
    before = layer.running_mean.copy()
    np.testing.assert_allclose(layer.forward(x), expected)
    assert np.array_equal(layer.running_mean, before)


def test_dropout_drops_its_share_anew_at_each_pass():
    layer, x = Dropout(0.3, rng=1), np.ones((200, 500))
    first, second = layer.forward(x, training=True), layer.forward(x, training=True)
    assert set(np.unique(first)) == {0.0, 1.0}
    assert first.mean() == pytest.approx(0.7, abs=0.01)
    assert not np.array_equal(first, second)
    assert np.array_equal(layer.backward(x), second)
    assert np.all(layer.forward(x) == 0.7)


# ------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Dropout(1.5), ValueError, r"Dropout: ratio must be in \[0, 1\), got 1.5"),
        (lambda: Dropout(-0.1), ValueError, "Dropout: ratio"),
        (lambda: Dropout(np.nan), ValueError, "Dropout: ratio"),
        (lambda: Affine(0, 3), ValueError, "Affine: inputs must be at least 1, got 0"),
        (lambda: Affine(3, 2, dtype=np.int64), TypeError, "float32 or float64, got int64"),
        (lambda: Affine(3, 2, dtype="f2"), TypeError, "float32 or float64, got float16"),
        (lambda: BatchNormalization(3, momentum=1.0), ValueError, "momentum must be in"),
        (lambda: BatchNormalization(3, eps=0.0), ValueError, "eps must be > 0, got 0"),
        (lambda: BatchNormalization(0), ValueError, "size must be at least 1"),
        (lambda: Normal(-1.0), ValueError, "Normal: std must be finite and >= 0, got -1.0"),
        (lambda: Normal(np.inf), ValueError, "Normal: std"),
        (lambda: SoftmaxCrossEntropy("max"), ValueError, "reduction must be 'mean' or 'sum'"),
        (lambda: Sequential(), ValueError, "at least one layer"),
        (lambda: Sequential(ReLU(), weight_decay=-1.0), ValueError, "weight_decay must be"),
        (lambda: dense_network(5), ValueError, "at least inputs and classes"),
        (lambda: Trainer(None, None, epochs=0), ValueError, "epochs must be at least 1, got 0"),
        (lambda: Trainer(None, None, epochs=2.5), TypeError, "epochs must be a whole number"),
        (
            lambda: Trainer(dense_network(2, 2), zdlfast.SGD),
            TypeError,
            "optimizer must be of type Opt",
        ),
        (
            lambda: Trainer(dense_network(2, 2), zdlfast.SGD(), learning_rate=0.1),
            TypeError,
            "learning_rate must be a function of the epoch, got 0.1",
        ),
        (lambda: Dropout("a"), TypeError, "Dropout: ratio must be a number, got 'a'"),
        (lambda: Affine(2.5, 3), TypeError, "Affine: inputs must be a whole number, got 2.5"),
        (lambda: Affine(3, 2, He), TypeError, "Affine: init must be of type Initializer"),
        (lambda: Sequential([Affine(3, 2)]), TypeError, "layer 1 must be of type Layer, got"),
        (lambda: Sequential(ReLU), TypeError, "layer 1 must be of type Layer"),
        (
            lambda: Sequential(ReLU(), loss=SoftmaxCrossEntropy),
            TypeError,
            "loss must be of type",
        ),
        (lambda: Sequential(*[Tanh()] * 2), ValueError, r"Tanh\(\) is used twice"),
        (
            lambda: Sequential(Affine(2, 3), BatchNormalization(3, dtype="f4")),
            ValueError,
            "layers of one dtype, got \\['float32', 'float64'\\]",
        ),
        (lambda: dense_network(2, 3, activation="relu"), TypeError, "activation must be a class"),
        (lambda: Trainer(None, None, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: Dropout(10**400), ValueError, r"ratio must be in \[0, 1\), got about 1e\+400"),
        (lambda: Normal(-(10**5000)), ValueError, r"std must be finite and >= 0, got about -1e"),
        (
            lambda: Sequential(ReLU(), weight_decay=10**400),
            ValueError,
            r"Sequential: weight_decay must be finite and >= 0, got about 1e\+400",
        ),
        (
            lambda: Normal(Fraction(10) ** 400),
            ValueError,
            r"Normal: std must be finite and >= 0, got Fraction\(10",
        ),
        (lambda: Affine(10**400, 3), ValueError, r"Affine: inputs must be at most .*1e\+400"),
        (
            lambda: Trainer(None, None, epochs=10**400),
            ValueError,
            r"Trainer: epochs must be at most \d+, got about 1e\+400",
        ),
        (
            lambda: BatchNormalization(3, eps=1e-50, dtype="f4"),
            ValueError,
            "eps must be > 0 in float32, got 1e-50",
        ),
        (
            lambda: Affine(3, 2, Normal(1e300), rng=1, dtype="f4"),
            ValueError,
            r"Normal\(1e\+300\) draws weights that float32 cannot hold",
        ),
    ],
)
def test_wrong_options_are_told(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("x", "t", "error", "text"),
    [
        (np.ones((2, 4)), [0, 1], ValueError,
         r"Affine\(5, 8\): expected inputs of shape \(n, 5\) with n > 0, got \(2, 4\)"),
        (np.ones(5), [0], ValueError, r"expected inputs of shape \(n, 5\)"),
        (np.ones((0, 5)), [], ValueError, "expected at least one sample"),
        (np.ones((2, 5)) * 1j, [0, 1], TypeError, "dtype complex128, expected real numbers"),
        (np.full((2, 5), np.nan), [0, 1], ValueError, "the batch x holds nan, expected finite"),
        (np.full((2, 5), -np.inf), [0, 1], ValueError, "the batch x holds -inf"),
        (np.ones((2, 5)), [0, 3], ValueError, "label 3 is out of range, expected 0 to 2"),
        (np.ones((2, 5)), [-1, 0], ValueError, "label -1 is out of range"),
        (np.ones((2, 5)), [0], ValueError, r"labels have shape \(1,\), expected \(2,\)"),
        (np.ones((2, 5)), [0.0, 1.0], TypeError, "labels have dtype float64"),
        (np.ones((2, 5)), np.ones((2, 4)), ValueError, r"labels have shape \(2, 4\)"),
        (np.ones((2, 5)), np.ones((2, 3)), ValueError, "one-hot labels"),
        (np.ones((2, 5)), np.full((2, 3), np.nan), ValueError, "one-hot labels"),
        (np.ones((2, 5)), [[2, -1, 0]] * 2, ValueError, "one-hot labels .* a least label of -1"),
    ],
)  # fmt: skip
def test_wrong_batches_are_told_and_change_nothing(x, t, error, text):
    network = dense_network(5, 8, 3, batch_normalization=True, rng=1)
    before = {key: value.copy() for key, value in network.params.items()}
    for ask in (network.loss, network.gradient):
        with pytest.raises(error, match=text):
            ask(x, np.array(t))
    for key, value in network.params.items():
        assert np.array_equal(value, before[key])


def test_numbers_that_are_infinite_in_the_network_s_dtype_are_told(rng):
    x, t = batch(rng)
    x[3, 2] = 1e300
    assert np.isfinite(dense_network(5, 4, 3, rng=1).loss(x, t))
    network = dense_network(5, 4, 3, rng=1, dtype="f4")
    for ask in (network.loss, network.gradient, network.accuracy):
        with pytest.raises(ValueError, match=r"x holds 1e\+300, expected finite .* of float32"):
            ask(x, t)


@pytest.mark.parametrize("given", [np.uint8, np.int64, bool, np.float16, ">f4"])
def test_samples_of_other_dtypes_are_taken_as_floats(given, dtype):
    x, t = np.array([[1, 0, 1], [0, 1, 1]], given), [0, 1]
    for network in (dense_network(3, 4, 2, rng=1, dtype=dtype, activation=Sigmoid),
                    Sequential(ReLU())):  # fmt: skip
        expected = network.loss(x.astype(np.float32), t)
        assert network.loss(x, t) == pytest.approx(expected, rel=1e-6)


def test_unsigned_integers_do_not_wrap():
    x = np.array([[3, 0, 200]], np.uint8)
    np.testing.assert_allclose(Sigmoid().forward(x), Sigmoid().forward(x * 1.0), rtol=1e-3)
    with pytest.raises(TypeError, match="scores have dtype uint8, expected floats"):
        SoftmaxCrossEntropy().forward(x, np.array([0]))


@pytest.mark.parametrize("layer", [Affine(5, 3, rng=1), BatchNormalization(5)])
def test_an_empty_batch_is_told_by_the_layer(layer, training):
    with pytest.raises(ValueError, match=r"\(n, 5\) with n > 0, got \(0, 5\)"):
        layer.forward(np.ones((0, 5)), training)
    if isinstance(layer, BatchNormalization):
        assert np.array_equal(layer.running_mean, np.zeros(5))


def test_a_sample_without_a_prediction_is_no_success(rng):
    network = dense_network(5, 4, 3, rng=1)
    x, _ = batch(rng)
    network.params["b2"][:] = np.nan
    assert network.accuracy(x, np.zeros(6, int)) == 0.0


# ------------------------------------------------------------------ training


def blobs(rng, n=240):
    """Three clouds of points that a small network can tell apart."""
    t = rng.integers(0, 3, n)
    return rng.standard_normal((n, 5)) + 4 * np.eye(3, 5)[t], t


def test_a_trainer_learns_and_records(rng):
    network = dense_network(5, 16, 3, rng=1)
    trainer = Trainer(network, zdlfast.Adam(lr=0.01), epochs=5, batch_size=50, rng=2,
                      progress=False)  # fmt: skip
    history = trainer.fit(*blobs(rng), evaluate=blobs(rng))
    assert history.loss.shape == (25,)  # 4 batches of 50 and one of 40, five times
    assert history.train_accuracy.shape == history.test_accuracy.shape == (5,)
    assert history.complete
    assert history.loss[-5:].mean() < 0.5 * history.loss[:5].mean()
    assert history.test_accuracy[-1] > 0.9


def test_training_is_the_same_by_numpy_and_by_zdlfast(rule, dtype, rng):
    data = blobs(rng)
    histories = []
    for cls in (rule.numpy, rule.fast):
        network = dense_network(
            5, 16, 3, batch_normalization=True, dropout=0.2, rng=1, dtype=dtype
        )
        trainer = Trainer(network, cls(lr=0.01), epochs=2, batch_size=32, rng=2, progress=False)
        histories.append((trainer.fit(*data), network))
    (a, first), (b, second) = histories
    assert np.array_equal(a.loss, b.loss)
    for key in first.params:
        assert np.array_equal(first.params[key], second.params[key])


def test_every_sample_is_used_once_an_epoch(rng):
    class Watched(Sequential):
        def gradient(self, x, t):
            seen.append(t)
            return super().gradient(x, t)

    seen = []
    x, t = rng.standard_normal((10, 5)), np.arange(10)
    network = Watched(Affine(5, 10, rng=1))
    Trainer(network, zdlfast.SGD(), epochs=2, batch_size=4, rng=1, progress=False).fit(x, t)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert not np.array_equal(first, second)


def test_the_learning_rate_is_set_for_every_epoch(rng):
    rates = []

    class Watched(zdlfast.SGD):
        def update(self, params, grads):
            rates.append(self.lr)
            super().update(params, grads)

    trainer = Trainer(dense_network(5, 4, 3, rng=1), Watched(), epochs=3, batch_size=120, rng=1,
                      learning_rate=lambda epoch: 0.1 / (1 + epoch), progress=False)  # fmt: skip
    trainer.fit(*blobs(rng))
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.1 / 3, 0.1 / 3]


def test_ctrl_c_ends_training_with_what_there_is(rng):
    class Interrupted(zdlfast.SGD):
        def update(self, params, grads):
            super().update(params, grads)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 7:
                raise KeyboardInterrupt

    trainer = Trainer(dense_network(5, 4, 3, rng=1), Interrupted(), epochs=9, batch_size=60,
                      rng=1, progress=False)  # fmt: skip
    history = trainer.fit(*blobs(rng))
    assert not history.complete
    assert len(history.loss) in (6, 7)
    assert len(history.train_accuracy) == 1


def test_the_progress_bar_can_be_turned_off(rng, capsys):
    for progress in (True, False):
        trainer = Trainer(dense_network(5, 4, 3, rng=1), zdlfast.SGD(), epochs=1, rng=1,
                          progress=progress)  # fmt: skip
        trainer.fit(*blobs(rng))
        printed = capsys.readouterr().out
        assert (printed.strip() == "") or progress


@pytest.mark.parametrize(
    ("t", "error"),
    [([100] * 6, ValueError), ([np.nan] * 6, TypeError), (["0"] * 6, TypeError), ([0], ValueError),
     (0, ValueError), (np.eye(6, 7), ValueError), (np.zeros((6, 1), int), ValueError)],
)  # fmt: skip
def test_the_accuracy_of_wrong_labels_is_an_error(t, error, rng):
    network = dense_network(5, 4, 3, rng=1)
    x, _ = batch(rng)
    with pytest.raises(error, match="label"):
        network.accuracy(x, t)
    trainer = Trainer(network, zdlfast.SGD(), epochs=1, progress=False)
    before = network.params["W1"].copy()
    with pytest.raises(error, match="label"):
        trainer.fit(*batch(rng), evaluate=(x, t))
    assert np.array_equal(network.params["W1"], before)


def test_parameters_may_be_exchanged(rng):
    network, other = dense_network(5, 4, 3, rng=1), dense_network(5, 4, 3, rng=2)
    x, t = batch(rng)
    for key in network.params:
        network.params[key] = other.params[key].copy()
    assert np.array_equal(network.predict(x), other.predict(x))
    zdlfast.SGD(lr=1.0).update(network.params, network.gradient(x, t))
    assert not np.array_equal(network.predict(x), other.predict(x))


def test_a_trainer_refuses_data_that_does_not_fit():
    trainer = Trainer(dense_network(5, 4, 3, rng=1), zdlfast.SGD(), progress=False)
    for x, t in ((np.ones((3, 5)), [0, 1]), (np.ones((0, 5)), []), (1.0, 1)):
        with pytest.raises(ValueError, match="as many labels as samples"):
            trainer.fit(x, t)


@pytest.mark.parametrize(
    ("evaluate", "text"),
    [
        ((np.ones((3, 5)),), "got a tuple of length 1"),
        (((x, 0) for x in np.ones((3, 5))), "got a generator"),
        (np.ones((2, 5)), "got a ndarray of length 2"),
        ({"x": 1, "t": 2}, "got a dict of length 2"),
        (3, "got a int"),
    ],
)
def test_evaluate_has_to_be_a_pair(evaluate, text, rng):
    trainer = Trainer(dense_network(5, 4, 3, rng=1), zdlfast.SGD(), progress=False)
    with pytest.raises(TypeError, match="evaluate must be a pair of samples and labels, " + text):
        trainer.fit(*batch(rng), evaluate=evaluate)


def test_samples_and_labels_are_no_generators(rng):
    trainer = Trainer(dense_network(5, 4, 3, rng=1), zdlfast.SGD(), progress=False)
    x, t = batch(rng)
    for pair, text in (((row for row in x), t), "samples"), ((x, iter(t)), "labels"):
        with pytest.raises(TypeError, match=f"the {text} must be an array, got an iterator "):
            trainer.fit(x, t, evaluate=pair)
        with pytest.raises(TypeError, match=f"the {text} must be an array, got an iterator "):
            trainer.fit(*pair)


def test_evaluate_takes_lists_and_labels_that_fit(rng):
    trainer = Trainer(dense_network(5, 4, 3, rng=1), zdlfast.SGD(), epochs=1, progress=False)
    x, t = batch(rng)
    history = trainer.fit(x, t, evaluate=[x.tolist(), t.tolist()])
    assert np.array_equal(history.test_accuracy, history.train_accuracy)
    for labels in (t[:5], []):
        with pytest.raises(ValueError, match="as many labels as samples"):
            trainer.fit(x, t, evaluate=(x, labels))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e300])
def test_wrong_samples_are_told_before_the_first_epoch(wrong, rng):
    network = dense_network(5, 4, 3, rng=1, dtype="f4")
    trainer = Trainer(network, zdlfast.SGD(), batch_size=2, progress=False)
    before = network.params["W1"].copy()
    x, t = batch(rng)
    bad = x.copy()
    bad[5, 0] = wrong
    for data in ((bad, t, None), (x, t, (bad, t))):
        with pytest.raises(ValueError, match="the batch x holds"):
            trainer.fit(*data)
    assert np.array_equal(network.params["W1"], before)


def test_training_ends_where_the_loss_is_no_number(rng):
    network = dense_network(5, 4, 3, rng=1)
    trainer = Trainer(network, zdlfast.SGD(lr=1e200), epochs=50, batch_size=60, rng=1,
                      progress=False)  # fmt: skip
    text = r"the loss became nan at step \d+, in epoch 1 of 50, with SGD\(lr=1e\+200"
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=text):
        trainer.fit(*blobs(rng))


def test_an_optimizer_that_skips_goes_on(rng):
    class Sometimes(Sequential):
        def gradient(self, x, t):
            grads = super().gradient(x, t)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 2:
                self.batch_loss = np.nan
                grads["W1"][:] = np.nan
            return grads

    network = Sometimes(Affine(5, 3, rng=1))
    optimizer = zdlfast.SGD(nonfinite="skip")
    history = Trainer(network, optimizer, epochs=1, batch_size=60, progress=False).fit(*blobs(rng))
    assert np.array_equal(np.isnan(history.loss), [False, True, False, False])
    assert np.all(np.isfinite(network.params["W1"]))


def test_it_needs_numpy_alone():
    code = (
        "import sys, zdlfast.nn, zdlfast.datasets\n"
        "heavy = {'matplotlib', 'sklearn', 'scipy', 'rich', 'pooch', 'joblib'}\n"
        "assert not heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_there():
    for name in nn.__all__:
        assert hasattr(nn, name)
