"""scikit-learn's MLPs under the patch: the same bits as by its own code, which is the oracle."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from table import assert_same_bits

import zdlfast

pytest.importorskip("sklearn")

from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network import _stochastic_optimizers as optimizers
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]
SHAPES = [(64, 30), (30, 10), (30,), (10,)]
SIMD = pytest.mark.usefixtures("simd")
NUMPY_2 = np.__version__ >= "2"


@pytest.fixture(autouse=True)
def quiet():
    """A short training does not converge."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Stochastic Optimizer: Maximum iterations")
        yield


@pytest.fixture
def own_steps(monkeypatch):
    """How many steps scikit-learn's own formulas have taken; count from within a patch on."""
    taken = []

    def start():
        for cls in (optimizers.AdamOptimizer, optimizers.SGDOptimizer):
            own = cls._get_updates

            def counted(self, grads, own=own):
                taken.append(type(self).__name__)
                return own(self, grads)

            monkeypatch.setattr(cls, "_get_updates", counted)
        return taken

    return start


def assert_same(ours, theirs, what=""):
    """Two values are the same in all that can be told of them."""
    assert type(ours) is type(theirs), what
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs), what
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{what}[{i}]")
    elif isinstance(theirs, np.ndarray | float):
        assert_same_bits(ours, theirs, what)
    else:
        assert ours == theirs, what


def assert_same_model(ours, theirs):
    for name in ("coefs_", "intercepts_", "loss_curve_", "n_iter_", "t_"):
        assert_same(getattr(ours, name), getattr(theirs, name), name)
    state, expected = vars(ours._optimizer), vars(theirs._optimizer)
    assert list(state) == list(expected)
    for name in expected:
        assert_same(state[name], expected[name], name)


def classifier(**options):
    options = {"hidden_layer_sizes": (30,), "max_iter": 4, "random_state": 0, **options}
    return MLPClassifier(**options)


MODELS = {
    "adam": {},
    "betas": {"beta_1": 0.5, "beta_2": 0.75, "epsilon": 1e-4, "learning_rate_init": 0.01},
    "whole numbers": {"beta_1": 0, "epsilon": 1, "learning_rate_init": 1},
    "rate of a grid": {"learning_rate_init": np.float64(0.003)},
    "two layers": {"hidden_layer_sizes": (20, 17), "batch_size": 33},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1},
    "momentum": {"solver": "sgd", "learning_rate_init": 0.1, "nesterovs_momentum": False},
    "no momentum": {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 1, "tol": 10.0},
    "activation": {"activation": "tanh", "alpha": 0.1},
}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_fit_is_scikit_learns_own_bit_for_bit(own_steps, options, dtype):
    x = X.astype(dtype)
    theirs = classifier(**options).fit(x, Y)
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        ours = classifier(**options).fit(x, Y)
    assert taken == []
    assert_same_model(ours, theirs)
    assert_same(ours.predict_proba(x), theirs.predict_proba(x))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_regression_is_scikit_learns_own_bit_for_bit(own_steps, solver, dtype):
    def fitted():
        options = {"max_iter": 4, "random_state": 0, "batch_size": 50}
        model = MLPRegressor(hidden_layer_sizes=(20,), solver=solver, **options)
        return model.fit(X.astype(dtype), X[:, :3].sum(axis=1).astype(dtype))

    theirs = fitted()
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        ours = fitted()
    assert taken == []
    assert_same_model(ours, theirs)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_rules_in_numpy_give_the_same_bits(own_steps, solver, dtype):
    x = X.astype(dtype)
    theirs = classifier(solver=solver).fit(x, Y)
    with zdlfast.patched("sklearn", reference=True):
        taken = own_steps()
        ours = classifier(solver=solver).fit(x, Y)
    assert taken == []
    assert_same_model(ours, theirs)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_where_it_was(own_steps, solver, dtype):
    def train(model):
        for start in range(0, 300, 60):
            batch = slice(start, start + 60)
            model.partial_fit(X[batch].astype(dtype), Y[batch], classes=range(10))
        return model

    theirs = train(train(classifier(solver=solver)))
    half = train(classifier(solver=solver))
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        ours = train(half)  # an object that was there before the patch
    assert taken == []
    assert_same_model(ours, theirs)


def test_a_warm_start_begins_with_a_new_optimizer():
    theirs = classifier(warm_start=True)
    theirs.fit(X, Y)
    theirs.fit(X, Y)
    with zdlfast.patched("sklearn"):
        ours = classifier(warm_start=True)
        first = ours.fit(X, Y)._optimizer
        assert ours.fit(X, Y)._optimizer is not first
    assert_same_model(ours, theirs)


# ---------------------------------------------------------------- steps that are its own


def with_and_without(train, own_steps):
    """Train both ways; return how many steps scikit-learn's own code took under the patch."""
    theirs = train()
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        ours = train()
    assert_same_model(ours, theirs)
    return len(taken)


def test_arrays_of_mixed_dtypes_are_left_to_scikit_learn(own_steps):
    def train():
        model = classifier(max_iter=1, batch_size=300).fit(X.astype(np.float32), Y)
        return model.partial_fit(X, Y)

    # With NumPy 2 the second gradients are float64, and state becomes so.
    assert with_and_without(train, own_steps) == 1


LIFTING = {
    "adam": {"beta_1": np.float64(0.9)},
    "adam's eps": {"epsilon": np.float64(1e-8)},
    "sgd": {"solver": "sgd", "momentum": np.float64(0.9)},
    "power": {"solver": "sgd", "learning_rate": "invscaling", "power_t": np.float64(0.5)},
}


@pytest.mark.parametrize("options", LIFTING.values(), ids=LIFTING)
def test_an_option_that_lifts_float32_is_left_to_scikit_learn(own_steps, options):
    def train(dtype):
        return classifier(max_iter=2, batch_size=300, **options).fit(X.astype(dtype), Y)

    # invscaling has its power in the second iteration.
    expected = 1 if "power_t" in options else 2
    assert with_and_without(lambda: train(np.float32), own_steps) == expected


@pytest.mark.parametrize("options", LIFTING.values(), ids=LIFTING)
def test_beside_float64_it_lifts_nothing(own_steps, options):
    def train():
        return classifier(max_iter=2, batch_size=300, **options).fit(X, Y)

    assert with_and_without(train, own_steps) == 0


def test_what_zdlfast_refuses_is_left_to_scikit_learn(own_steps):
    def train():
        model = classifier(solver="sgd", momentum=1.0, max_iter=2, batch_size=300)
        return model.fit(X, Y)

    assert with_and_without(train, own_steps) == 2


# ---------------------------------------------------------------- the optimizers alone


def arrays(rng, dtype, positive=False):
    drawn = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    return [abs(array) for array in drawn] if positive else drawn


OPTIMIZERS = {
    "adam": lambda params: optimizers.AdamOptimizer(params, 0.01, 0.8, 0.95, 1e-6),
    "nesterov": lambda params: optimizers.SGDOptimizer(params, 0.01, momentum=0.8),
    "momentum": lambda params: optimizers.SGDOptimizer(params, 0.01, "constant", 0.8, False),
}


def steps(make, params, gradients, before=lambda optimizer: None):
    params = [param.copy() for param in params]
    optimizer = make(params)
    before(optimizer)
    for grads in gradients:
        optimizer.update_params(params, grads)
    return params, vars(optimizer)


@SIMD
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_kernel_gives_scikit_learns_bits(own_steps, rng, make, dtype):
    params, gradients = arrays(rng, dtype), [arrays(rng, dtype) for _ in range(20)]
    gradients[3][0][:] = 0.0
    gradients[4][1][:, 0] *= dtype.type(1e-30)
    expected = steps(make, params, gradients)
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        found = steps(make, params, gradients)
    assert taken == []
    assert_same(found[0], expected[0])
    assert list(found[1]) == list(expected[1])
    for name in expected[1]:
        assert_same(found[1][name], expected[1][name], name)


@pytest.mark.skipif(not NUMPY_2, reason="NumPy 1 lifts nothing")
def test_numpy_2_lifts_the_last_line_of_adam_and_no_other(rng):
    """That is: what is tested here is there."""
    params, gradients = arrays(rng, np.float32), [arrays(rng, np.float32) for _ in range(20)]
    found, state = steps(OPTIMIZERS["adam"], params, gradients)
    assert {array.dtype for array in found + state["ms"] + state["vs"]} == {np.dtype("f4")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizers.np, "sqrt", lambda x: np.float32(x) ** np.float32(0.5))
        other, _ = steps(OPTIMIZERS["adam"], params, gradients)
    assert any(not np.array_equal(a, b) for a, b in zip(found, other, strict=True))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_state_that_was_put_there_is_used_and_stays_as_it_was(own_steps, rng, make):
    params, gradients = arrays(rng, float), [arrays(rng, float) for _ in range(3)]
    given = {
        "ms": arrays(rng, float),
        "vs": arrays(rng, float, positive=True),
        "velocities": arrays(rng, float),
        "t": 9,
    }
    kept = copy.deepcopy(given)

    def put(optimizer):
        for name, value in given.items():
            if hasattr(optimizer, name):
                setattr(optimizer, name, value)

    expected, _ = steps(make, params, gradients, put)
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        found, _ = steps(make, params, gradients, put)
    assert taken == []
    assert_same(found, expected)
    for name, value in given.items():
        assert_same(value, kept[name], name)


UNFIT = {
    "dtype": lambda velocities: [v.astype(np.float32) for v in velocities],
    "numbers": lambda velocities: [0.0 for v in velocities],
    "length": lambda velocities: velocities[:2],
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT)
def test_state_that_does_not_fit_is_left_to_scikit_learn(own_steps, rng, change):
    params, gradients = arrays(rng, float), [arrays(rng, float)]

    def put(optimizer):
        optimizer.velocities = change(optimizer.velocities)

    expected = steps(OPTIMIZERS["momentum"], params, gradients, put)
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        found = steps(OPTIMIZERS["momentum"], params, gradients, put)
    assert taken == ["SGDOptimizer"]
    assert_same(found[0], expected[0])
    assert_same(found[1]["velocities"], expected[1]["velocities"])


def test_a_subclass_keeps_its_own_code(rng):
    class Mine(optimizers.SGDOptimizer):
        def _get_updates(self, grads):
            return [np.full_like(grad, 2.0) for grad in grads]

    params = [np.ones((2, 3))]
    with zdlfast.patched("sklearn"):
        Mine(params).update_params(params, [np.ones((2, 3))])
    assert params[0].tolist() == [[3.0] * 3] * 2


def test_arguments_may_be_given_by_name(rng):
    params = [np.ones(3)]
    with zdlfast.patched("sklearn"):
        optimizers.SGDOptimizer(params, 0.5).update_params(params=params, grads=[np.ones(3)])
    assert params[0].tolist() == [1 - 0.5 * 0.9 - 0.5] * 3


def test_the_loss_of_a_wild_training_is_still_told():
    wild = MLPRegressor(solver="sgd", learning_rate_init=1e5, random_state=0)
    with zdlfast.patched("sklearn"), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            wild.fit(X, 1e5 * Y)


# ---------------------------------------------------------------- around it


def test_unpatch_leaves_the_classes_as_they_were():
    classes = (optimizers.BaseOptimizer, optimizers.AdamOptimizer, optimizers.SGDOptimizer)
    before = [dict(vars(cls)) for cls in classes]
    with zdlfast.patched("sklearn"):
        assert optimizers.BaseOptimizer.update_params is not before[0]["update_params"]
    assert [dict(vars(cls)) for cls in classes] == before


def test_a_version_that_is_not_known_is_left_alone(monkeypatch):
    import sklearn

    own = optimizers.BaseOptimizer.update_params
    for version in ("1.3.2", "1.10.0", "2.0"):
        monkeypatch.setattr(sklearn, "__version__", version)
        words = f"zdlfast knows scikit-learn 1.4 to 1.9, this is {version}"
        with pytest.warns(RuntimeWarning, match=words), zdlfast.patched("sklearn"):
            assert optimizers.BaseOptimizer.update_params is own


def test_formulas_that_are_others_are_left_alone(monkeypatch):
    def _get_updates(self, grads):
        return grads

    monkeypatch.setattr(optimizers.AdamOptimizer, "_get_updates", _get_updates)
    words = "AdamOptimizer._get_updates of this scikit-learn .* is not the code that zdlfast knows"
    with pytest.warns(RuntimeWarning, match=words), zdlfast.patched("sklearn"):
        pass


def python(code, *args, cwd, env=()):
    done = subprocess.run(
        [sys.executable, *args, "-W", "error", "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, **dict(env)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_pickle_knows_nothing_of_zdlfast(tmp_path, solver):
    with zdlfast.patched("sklearn"):
        model = classifier(solver=solver).fit(X, Y)
        text = pickle.dumps((model, X, Y))
        assert b"zdlfast" not in text
        assert_same_model(pickle.loads(text)[0], model)
        assert_same_model(copy.deepcopy(model), model)
        model.partial_fit(X, Y)
    (tmp_path / "model").write_bytes(text)
    code = """
        import sys, pickle
        sys.modules["zdlfast"] = None       # as where it is not installed
        with open("model", "rb") as file:
            model, X, Y = pickle.load(file)
        print(model.predict(X[:5]), model.partial_fit(X, Y).loss_.hex())
    """
    printed = python(code, cwd=tmp_path)
    assert printed.split("] ")[1].strip() == float(model.loss_).hex()


def test_what_was_unpickled_goes_on_the_fast_way(own_steps):
    theirs = classifier().fit(X, Y)
    text = pickle.dumps(theirs)
    theirs.partial_fit(X, Y)
    with zdlfast.patched("sklearn"):
        taken = own_steps()
        ours = pickle.loads(text).partial_fit(X, Y)
    assert taken == []
    assert_same_model(ours, theirs)


class Watched(MLPClassifier):
    """Remembers whether it was trained in a process that is patched."""

    def fit(self, X, y):
        super().fit(X, y)
        self.patched_ = hasattr(optimizers.BaseOptimizer.update_params, "__wrapped__")
        return self


def score(model, x, y):
    """Twice as good if patched."""
    return model.score(x, y) / 2 + model[-1].patched_


def test_a_grid_search_in_processes_is_patched_and_the_same():
    def search():
        get_reusable_executor().shutdown(wait=True)  # children that were there before stay as is
        watched = Watched(hidden_layer_sizes=(10,), max_iter=2, random_state=0)
        model = make_pipeline(StandardScaler(), watched)
        grid = {"watched__alpha": np.logspace(-4, 0, 2), "watched__solver": ["adam", "sgd"]}
        return GridSearchCV(model, grid, cv=2, n_jobs=2, scoring=score).fit(X, Y)

    with zdlfast.patched("sklearn"):
        ours = search()
    theirs = search()
    for split in ("split0_test_score", "split1_test_score"):
        assert_same(ours.cv_results_[split], theirs.cv_results_[split] + 1.0)
    assert_same(ours.best_estimator_[-1].coefs_, theirs.best_estimator_[-1].coefs_)


SCRIPT = """
    import warnings
    from sklearn.datasets import load_iris
    from sklearn.neural_network import MLPClassifier
    warnings.simplefilter("ignore")
    X, y = load_iris(return_X_y=True)
    model = MLPClassifier(max_iter=5, random_state=0, batch_size=50).fit(X, y)
    print(model.loss_.hex())
"""


def test_a_script_runs_unchanged_and_reports_its_steps(tmp_path, capsys):
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT), "utf-8")
    exec(textwrap.dedent(SCRIPT), {})
    plain = capsys.readouterr().out

    def run(*args):
        done = subprocess.run(
            [sys.executable, *args, "train.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done

    fast = run("-m", "zdlfast")
    assert fast.stdout == plain
    assert fast.stderr == ""
    reported = run("-m", "zdlfast", "--only", "sklearn", "--report")
    assert reported.stdout == plain
    title, _, row = reported.stderr.splitlines()
    assert title == "zdlfast: updates in this process"
    assert row.split()[:3] == ["sklearn", "AdamOptimizer", "15"]
    assert "never imported common.optimizer:" in run("-m", "zdlfast", "--only=book").stderr
