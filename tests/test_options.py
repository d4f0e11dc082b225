"""Options: checked when they are given and whenever they are assigned."""

import copy
import pickle

import numpy as np
import pytest
from process import python
from table import RULES, assert_same_bits

import zdlfast
from zdlfast import _rules, reference

pytestmark = pytest.mark.each_kind


def test_a_wrong_option_is_named_with_its_value(rule):
    for name in ("lr", *rule.options):
        for value, error, text in [
            (-1, ValueError, "-1"),
            (float("nan"), ValueError, "nan"),
            (float("inf"), ValueError, "inf"),
            (10**400, ValueError, "too large"),
            (10**5000, ValueError, "too large"),
            ("0.1", TypeError, "'0.1'"),
            (None, TypeError, "None"),
            (True, TypeError, "True"),
            (1j, TypeError, "1j"),
            (np.array([0.1, 0.2]), TypeError, "0.2"),
        ]:
            for cls in (rule.fast, rule.numpy):
                with pytest.raises(error, match=f"^{name} must be") as caught:
                    cls(**{name: value})
                assert text in str(caught.value)


def test_a_share_of_one_or_more_is_refused(rule):
    for name in rule.fractions:
        for value in (1, 1.0, 1.5):
            with pytest.raises(ValueError, match=rf"^{name} must be in \[0, 1\), got {value}"):
                rule.fast(**{name: value})


def test_an_option_assigned_later_is_checked_and_the_old_one_stays(rule):
    optimizer = rule.fast(lr=0.5)
    with pytest.raises(ValueError, match=r"^lr must be >= 0 and finite, got -0.1"):
        optimizer.lr = -0.1
    with pytest.raises(TypeError, match=r"^lr must be a number, got 'fast'"):
        optimizer.lr = "fast"
    assert optimizer.lr == 0.5


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float32(0.25), np.float64(0.25), np.array(0.25)])
def test_every_kind_of_number_becomes_a_python_float(rule, value):
    optimizer = rule.fast(lr=value)
    assert type(optimizer.lr) is float
    assert optimizer.lr == float(value)


@pytest.mark.parametrize("rule", [row for row in RULES if _rules.RULES[row.name].book])
def test_options_are_positional_in_the_books_order(rule):
    given = {k: v for k, v in rule.options.items() if k != "eps"}
    optimizer = rule.fast(*given.values())
    assert {name: getattr(optimizer, name) for name in given} == given


def test_eps_is_keyword_only(rule):
    given = [v for k, v in rule.options.items() if k != "eps"]
    with pytest.raises(TypeError, match="positional argument"):
        rule.fast(*given, 1e-7)


def test_repr_shows_how_to_make_it_again(rule):
    optimizer = rule.fast(**rule.options)
    again = eval(repr(optimizer), {rule.name: rule.fast})
    assert repr(again) == repr(optimizer)
    assert all(f"{k}={float(v)!r}" in repr(optimizer) for k, v in rule.options.items())


@pytest.mark.parametrize("value", [-1, 1.5, "1", None])
def test_the_step_count_is_a_whole_number(value):
    with pytest.raises((TypeError, ValueError), match=r"^iter must be"):
        zdlfast.Adam().iter = value


# ------------------------------------------------------------------ names that people bring along

OF_ALL = (
    "all take weight_decay, decoupled, maximize, clip_norm, clip_value, nonfinite, "
    "flush_subnormals, state, state_min_size, state_rounding, state_seed, overrides"
)
HINTS = [
    ("SGD", "learning_rate", "here it is lr"),
    ("Adam", "learning_rate", "here it is lr"),
    ("Adam", "alpha", "here it is lr"),
    ("RMSprop", "alpha", "torch's alpha is decay_rate here; the learning rate is lr"),
    ("Momentum", "alpha", "here it is lr"),
    ("RMSprop", "rho", "here it is decay_rate"),
    ("RMSprop", "epsilon", "here it is eps"),
    ("AdaGrad", "epsilon", "here it is eps"),
    ("Adam", "beta_1", "here it is beta1"),
    ("Adam", "beta_2", "here it is beta2"),
    ("Nesterov", "mu", "here it is momentum"),
    ("Adam", "betas", "give beta1= and beta2="),
    ("SGD", "momentum", "use zdlfast.Momentum"),
    ("SGD", "nesterov", "use zdlfast.Nesterov"),
    ("Momentum", "nesterov", "use zdlfast.Nesterov"),
    ("Adam", "max_norm", "here it is clip_norm"),
    ("Adam", "global_clipnorm", "here it is clip_norm"),
    ("Adam", "clipvalue", "here it is clip_value"),
    ("SGD", "weightdecay", "here it is weight_decay"),
    ("Adam", "Beta1", "here it is beta1"),
    ("Adam", "amsgrad", "use zdlfast.AMSGrad"),
    ("Adam", "params", "pass params to update(params, grads)"),
    ("Adam", "speed", f"; its options are lr, beta1, beta2, eps; {OF_ALL}"),
    ("AdamW", "speed", f"; its options are lr, beta1, beta2, eps, amsgrad; {OF_ALL}"),
    ("SGD", "rho", f"; its options are lr; {OF_ALL}"),
    ("SGD", "betas", f"; its options are lr; {OF_ALL}"),
    ("RMSprop", "momentum", f"; its options are lr, decay_rate, eps; {OF_ALL}"),
]
USED = [
    ("step", "call update(params, grads)"),
    ("zero_grad", "gradients are not accumulated here, so there is nothing to clear"),
    ("param_groups", "give overrides= for options of some parameters"),
]


@pytest.fixture(params=[zdlfast, reference], ids=["fast", "numpy"])
def module(request):
    return request.param


@pytest.mark.parametrize(("kind", "name", "hint"), HINTS)
def test_another_name_for_an_option_is_told_where_it_is_given(module, kind, name, hint):
    with pytest.raises(TypeError) as caught:
        getattr(module, kind)(**{name: 0.5})
    assert str(caught.value).startswith(f"{kind} has no option {name!r}")
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(("kind", "name", "hint"), HINTS)
def test_another_name_for_an_option_is_told_where_it_is_assigned_or_read(module, kind, name, hint):
    optimizer = getattr(module, kind)()
    before = dict(vars(optimizer))
    for act in (lambda: setattr(optimizer, name, 0.5), lambda: getattr(optimizer, name)):
        with pytest.raises(AttributeError) as caught:
            act()
        assert str(caught.value).startswith(f"{kind} has no attribute {name!r}")
        assert str(caught.value).endswith(hint)
        assert (caught.value.name, caught.value.obj) == (name, optimizer)
    assert vars(optimizer) == before
    assert not hasattr(optimizer, name)


@pytest.mark.parametrize(("name", "hint"), USED)
def test_a_method_of_another_library_says_what_to_do_here(rule, name, hint):
    for cls in (rule.fast, rule.numpy):
        with pytest.raises(AttributeError) as caught:
            getattr(cls(), name)()
        assert str(caught.value) == f"{rule.name} has no attribute {name!r}: {hint}"


def test_the_number_of_updates_has_the_name_that_is_there(rule):
    for cls in (rule.fast, rule.numpy):
        optimizer = cls()
        with pytest.raises(AttributeError) as caught:
            optimizer.iterations  # noqa: B018
        name = str(caught.value).rpartition(" ")[2]
        assert str(caught.value).endswith(f": the number of updates is {name}")
        optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
        assert getattr(optimizer, name) == 1


@pytest.mark.parametrize(
    ("name", "here"),
    [("Adagrad", "AdaGrad"), ("RMSProp", "RMSprop"), ("ADAM", "Adam"), ("sgd", "SGD")],
)
def test_another_spelling_of_a_rule_is_told(name, here):
    text = f"module 'zdlfast' has no attribute '{name}': here it is {here}"
    with pytest.raises(AttributeError, match=text):
        getattr(zdlfast, name)
    done = python(f"from zdlfast import {name}")
    assert f"ImportError: {text}\n" in done.stderr
    done = python(f"import zdlfast; zdlfast.{name}")
    assert f"AttributeError: {text}" in done.stderr
    text = text.replace("'zdlfast'", "'zdlfast.reference'")
    if name == "sgd":  # its page
        return
    with pytest.raises(AttributeError, match=text):
        getattr(reference, name)
    done = python(f"from zdlfast.reference import {name}")
    assert f"ImportError: {text}\n" in done.stderr


def test_a_name_that_means_nothing_is_pythons_own_error():
    with pytest.raises(AttributeError, match=r"^module 'zdlfast' has no attribute 'Tiger'$"):
        zdlfast.Tiger  # noqa: B018
    done = python("from zdlfast import Tiger")
    assert "ImportError: cannot import name 'Tiger' from 'zdlfast'" in done.stderr


@pytest.mark.parametrize(
    "params",
    [
        {"W": np.arange(1e5)},
        [np.arange(1e5)],
        np.arange(1e5),
        iter([np.arange(1e5)]),
        UserWarning("x" * 1000),
        "x" * 1000,
    ],
    ids=lambda params: type(params).__name__,
)
def test_parameters_given_to_a_constructor_are_told_and_not_printed(rule, params):
    for cls in (rule.fast, rule.numpy):
        with pytest.raises(TypeError) as caught:
            cls(params)
        assert str(caught.value) == (
            f"lr must be a number, got a {type(params).__name__}: parameters are passed to "
            "update(params, grads)"
        )


def test_what_torch_takes_first_is_told_beside_options_too(module):
    for make in (module.Adam, module.SGD):
        with pytest.raises(TypeError) as caught:
            make({"W": np.arange(1e5)}, lr=0.1)
        assert str(caught.value) == (
            f"{make.__name__} takes options, got a dict: parameters are passed to "
            "update(params, grads)"
        )
    with pytest.raises(TypeError, match=r"multiple values for argument 'lr'"):
        module.Adam(0.1, lr=0.2)

    class Own(module.Adam):
        def __init__(self, model, lr):
            super().__init__(lr=lr)
            self.model = model

    assert Own([1, 2], lr=0.5).lr == 0.5
    with pytest.raises(TypeError, match=r"Own has no option 'amsgrad': use zdlfast\.AMSGrad"):
        Own([1, 2], lr=0.5, amsgrad=True)


def test_a_tuple_of_betas_is_told(module):
    text = r"^beta1 must be a number, got \(0\.9, 0\.99\): give beta1= and beta2=$"
    with pytest.raises(TypeError, match=text):
        module.Adam(0.1, (0.9, 0.99))


def test_a_class_of_ones_own_has_attributes_and_options_of_its_own(rule):
    for base in (rule.fast, rule.numpy):

        class Own(base):
            """With an attribute of the class, of an instance, and a keyword."""

            schedule = "constant"

            def __init__(self, weight_decay=0.0, **options):
                super().__init__(**options)
                self.weight_decay = weight_decay
                self.history = []

        own = Own(weight_decay=0.5, lr=0.25)
        own.schedule, own.note = "cosine", "mine"
        assert (own.weight_decay, own.schedule, own.note, own.lr) == (0.5, "cosine", "mine", 0.25)
        again = copy.deepcopy(own)
        assert vars(again).keys() == vars(own).keys()
        assert again.history is not own.history
        with pytest.raises(TypeError, match="has no option 'learning_rate': here it is lr"):
            Own(learning_rate=0.1)
        with pytest.raises(AttributeError, match="Own has no attribute 'step'"):
            own.step()
        with pytest.raises(ValueError, match="lr must be"):
            own.lr = -1


@pytest.mark.parametrize("early", [{}, {"decay": 0.25}])
def test_an_option_may_be_a_property_of_what_is_set_later(rule, early):
    for base in (rule.fast, rule.numpy):

        class Own(base):
            locals().update(early)

            def __init__(self):
                super().__init__()
                self.decay = 0.5

            weight_decay = property(lambda self: self.decay)

        params, expected = {"W": np.ones(3)}, {"W": np.ones(3)}
        Own().update(params, {"W": np.ones(3)})
        base(weight_decay=0.5).update(expected, {"W": np.ones(3)})
        assert_same_bits(params["W"], expected["W"])


def test_attributes_that_python_itself_asks_for_are_simply_not_there(rule):
    for optimizer in (rule.fast(), rule.numpy()):
        assert not hasattr(optimizer, "__array__")
        assert not hasattr(optimizer, "_repr_html_")
        assert repr(pickle.loads(pickle.dumps(optimizer))) == repr(optimizer)
        assert "lr" in dir(optimizer)
