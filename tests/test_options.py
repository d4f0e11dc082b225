"""Options: checked when they are given and whenever they are assigned."""

import numpy as np
import pytest


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
    import zdlfast

    with pytest.raises((TypeError, ValueError), match=r"^iter must be"):
        zdlfast.Adam().iter = value
