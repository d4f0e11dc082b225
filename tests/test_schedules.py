"""Learning-rate schedules: what they return, how they print and how they are saved."""

import copy
import dataclasses
import importlib.util
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from schedules_of_others import LR, OPTAX, TORCH

from zdlfast import schedules
from zdlfast.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseSqrt,
    Join,
    OneCycle,
    Polynomial,
    Schedule,
    Step,
    from_dict,
    to_dict,
)

ROOT = Path(__file__).parents[1]

# One of each, with every argument other than its default.
ALL = [
    Constant(0.5, warmup=3, start_lr=0.1),
    Step(0.5, 4, 0.25, warmup=3, start_lr=0.1),
    Exponential(0.5, 0.75, warmup=3, start_lr=0.1),
    Cosine(0.5, 20, 0.125, warmup=3, start_lr=0.1),
    Polynomial(0.5, 20, 2.0, 0.125, warmup=3, start_lr=0.1),
    InverseSqrt(0.5, 10, warmup=3, start_lr=0.1),
    OneCycle(0.5, 20, pct_start=0.5, div_factor=10.0, final_div_factor=100.0),
    Join([Exponential(0.5, 0.9), Cosine(0.4, 6, warmup=2), Constant(0.1)], [5, 12]),
]
WITH_WARMUP = [schedule for schedule in ALL if hasattr(schedule, "warmup")]


@pytest.fixture(params=ALL, ids=lambda schedule: type(schedule).__name__)
def schedule(request):
    return request.param


def rates(schedule, count):
    return [schedule(done) for done in range(count)]


def test_every_schedule_of_the_module_is_tested():
    kinds = {name for name in schedules.__all__ if name[0].isupper()} - {"Schedule"}
    assert {type(schedule).__name__ for schedule in ALL} == kinds


# ---------------------------------------------------------------- equal to others

OURS_OF_TORCH = [
    Step(LR, 7, 0.3),
    Step(LR, 1),
    Exponential(LR, 0.9),
    Exponential(LR, 1.1),
    Cosine(LR, 50),
    Cosine(LR, 33, 0.01),
    Polynomial(LR, 40, 2.0),
    Polynomial(LR, 5),
    OneCycle(LR, 100),
    OneCycle(LR, 25, pct_start=0.25, div_factor=10.0, final_div_factor=100.0),
    OneCycle(LR, 2, pct_start=0.9),
    Cosine(LR, 50, 0.003, warmup=10, start_lr=LR * 0.1),
    Step(LR, 6, warmup=10, start_lr=LR * 0.1),
    Join([Exponential(LR, 0.9), Step(LR, 4, 0.5), Polynomial(LR, 9)], [11, 23]),
]
OURS_OF_OPTAX = [
    Constant(LR),
    Exponential(LR, 0.95),
    Cosine(LR, 40),
    Cosine(LR, 40, 0.1 * LR),
    Polynomial(LR, 30, 2.5, 0.01),
    Polynomial(LR, 30),
    Constant(LR, warmup=15),
    Cosine(LR, 60, 0.01, warmup=12, start_lr=0.02),
    Exponential(LR, 0.9, warmup=10),
    Join([Constant(LR), Exponential(LR, 0.5), Cosine(LR, 9)], [3, 8]),
]


@pytest.mark.parametrize(
    ("package", "cases", "ours"),
    [("torch", TORCH, OURS_OF_TORCH), ("optax", OPTAX, OURS_OF_OPTAX)],
    ids=["torch", "optax"],
)
def test_the_rates_are_those_of_the_same_schedule_elsewhere(package, cases, ours):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, ROOT / "tests/schedules_of_others.py", package]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    theirs = json.loads(done.stdout)
    assert len(theirs) == len(cases) == len(ours)
    for case, schedule, expected in zip(cases, ours, theirs, strict=True):
        assert len(expected) == case[2]
        # torch multiplies the present rate up and down: that adds up some roundings.
        np.testing.assert_allclose(
            rates(schedule, len(expected)), expected, rtol=1e-12, atol=1e-15, err_msg=str(case)
        )


def test_inverse_sqrt_is_the_transformer_s_formula():
    width, warmup = 512, 40
    schedule = InverseSqrt((width * warmup) ** -0.5, timescale=warmup, warmup=warmup)
    for done in range(1, 4000):
        expected = width**-0.5 * min(done**-0.5, done * warmup**-1.5)
        assert schedule(done) == pytest.approx(expected, rel=1e-14)


# ---------------------------------------------------------------- what they return


def test_a_rate_is_a_python_float_for_every_whole_number(schedule):
    for done in (0, 1, 2, 19, 20, 21, 10**6, 2**53, 10**400, np.int64(7), True):
        assert type(schedule(done)) is float
        assert 0.0 <= schedule(done) <= 0.5
    assert schedule(np.int64(7)) == schedule(7)


@pytest.mark.parametrize("schedule", WITH_WARMUP, ids=lambda schedule: type(schedule).__name__)
def test_a_warm_up_is_a_straight_line_to_the_rate(schedule):
    cold = dataclasses.replace(schedule, warmup=0)
    assert rates(schedule, 3) == pytest.approx([0.1, 0.1 + 0.4 / 3, 0.1 + 0.8 / 3], rel=1e-15)
    if not hasattr(schedule, "steps"):  # those count it as some of their steps
        assert rates(schedule, 50)[3:] == rates(cold, 47)
    assert schedule(3) == cold(0) == 0.5
    assert dataclasses.replace(schedule, start_lr=0.0)(0) == 0.0


@pytest.mark.parametrize(
    ("schedule", "last", "end"),
    [
        (Cosine(0.5, 20, 0.125), 20, 0.125),
        (Cosine(0.5, 20, 0.125, warmup=3), 20, 0.125),
        (Polynomial(0.5, 20, 3.0, 0.125, warmup=3), 20, 0.125),
        (OneCycle(0.5, 20, div_factor=5.0, final_div_factor=2.0), 19, 0.05),
    ],
)
def test_a_schedule_stays_where_it_ends(schedule, last, end):
    assert schedule(last - 1) > end
    assert {schedule(last + more) for more in range(50)} == {end}


def test_a_joined_schedule_counts_from_its_own_beginning():
    parts = [Step(0.5, 2), Cosine(0.4, 6, warmup=2), Exponential(0.3, 0.5)]
    schedule = Join(parts, [5, 12])
    expected = [*rates(parts[0], 5), *rates(parts[1], 7), *rates(parts[2], 10)]
    assert rates(schedule, 22) == expected
    assert rates(Join([parts[0]], []), 9) == rates(parts[0], 9)


def test_the_number_of_updates_is_checked(schedule):
    with pytest.raises(ValueError, match="the number of updates done must be >= 0, got -1"):
        schedule(-1)
    with pytest.raises(TypeError, match="integer"):
        schedule(1.5)


def test_a_rate_that_no_float_can_hold_is_an_error():
    growing = Exponential(1.0, 10.0)
    assert growing(300) == 1e300
    for done in (309, 2**60):
        with pytest.raises(OverflowError, match=rf"Exponential\(.*after {done} updates"):
            growing(done)
    with pytest.raises(OverflowError, match="too large"):
        Step(1e300, 1, 1e5)(2)


# ---------------------------------------------------------------- values


def test_a_schedule_cannot_be_changed(schedule):
    name = dataclasses.fields(schedule)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, name, 1.0)


def test_a_schedule_prints_as_the_call_that_makes_it(schedule):
    again = eval(repr(schedule), vars(schedules))
    assert again == schedule
    assert repr(again) == repr(schedule)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_copies_of_all_kinds_are_equal_and_hash_alike(schedule, protocol):
    through_json = json.loads(json.dumps(to_dict(schedule)))
    for again in (
        pickle.loads(pickle.dumps(schedule, protocol)),
        copy.copy(schedule),
        copy.deepcopy(schedule),
        from_dict(through_json),
    ):
        assert type(again) is type(schedule)
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert rates(again, 40) == rates(schedule, 40)


def test_schedules_with_other_arguments_are_not_equal(schedule):
    others = [other for other in ALL if other == schedule]
    assert others == [schedule]
    if hasattr(schedule, "lr"):
        assert dataclasses.replace(schedule, lr=0.25) != schedule


def test_numbers_of_all_kinds_become_python_s():
    schedule = Cosine(np.float32(0.5), np.int32(20), 1, warmup=np.int8(2))
    assert repr(schedule) == "Cosine(lr=0.5, steps=20, end_lr=1.0, warmup=2, start_lr=0.0)"


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Constant("high"), TypeError, "lr must be a number, got 'high'"),
        (lambda: Constant(True), TypeError, "lr must be a number, got True"),
        (lambda: Constant(-0.1), ValueError, r"lr must be >= 0 and finite, got -0\.1"),
        (lambda: Constant(math.nan), ValueError, "lr must be >= 0 and finite, got nan"),
        (lambda: Constant(math.inf), ValueError, "lr must be >= 0 and finite, got inf"),
        (lambda: Constant(10**400), ValueError, "lr must be >= 0 and finite, got 1000"),
        (lambda: Constant(10**5000), ValueError, "lr .* got a number of very many digits"),
        (lambda: Constant(0.1, warmup=-1), ValueError, r"warmup must be in \[0, 2\*\*53\]"),
        (lambda: Constant(0.1, warmup=2.0), TypeError, r"warmup must be a whole number, got 2\.0"),
        (lambda: Constant(0.1, start_lr=-1), ValueError, "start_lr must be >= 0 and finite"),
        (lambda: Step(0.1, 0), ValueError, r"step_size must be in \[1, 2\*\*53\], got 0"),
        (lambda: Step(0.1, 10**30), ValueError, r"step_size must be in \[1, 2\*\*53\], got 1000"),
        (lambda: Step(0.1, True), TypeError, "step_size must be a whole number, got True"),
        (lambda: Step(0.1, 2, 0.0), ValueError, r"gamma must be > 0 and finite, got 0\.0"),
        (lambda: Exponential(0.1, -1), ValueError, "gamma must be > 0 and finite, got -1"),
        (lambda: Cosine(0.1, 0), ValueError, r"steps must be in \[1, 2\*\*53\], got 0"),
        (lambda: Cosine(0.1, 9, warmup=9), ValueError, "must be < steps, which is 9, got 9"),
        (lambda: Cosine(0.1, 9, -1.0), ValueError, r"end_lr must be >= 0 and finite, got -1\.0"),
        (lambda: Polynomial(0.1, 9, 0), ValueError, "power must be > 0 and finite, got 0"),
        (lambda: InverseSqrt(0.1, 0), ValueError, r"timescale must be in \[1, 2\*\*53\], got 0"),
        (lambda: OneCycle(0.1, 9, pct_start=1.0), ValueError, r"pct_start .* in \(0, 1\), got"),
        (lambda: OneCycle(0.1, 9, pct_start=0.1), ValueError, r"pct_start \* steps must be > 1"),
        (lambda: OneCycle(0.1, 9, div_factor=0), ValueError, "div_factor must be > 0"),
        (lambda: OneCycle(0.1, 9, final_div_factor=0), ValueError, "final_div_factor must be > 0"),
        (lambda: Join([], []), TypeError, r"schedules must be a list of schedules, got \[\]"),
        (lambda: Join(Constant(1), []), TypeError, "schedules must be a list of schedules"),
        (lambda: Join([abs], []), TypeError, "schedules of zdlfast.schedules, got <built-in"),
        (lambda: Join([Join([Constant(1)], [])], []), ValueError, "schedules must hold no Join"),
        (lambda: Join([Constant(1)], 3), TypeError, "boundaries must be a list of whole numbers"),
        (lambda: Join([Constant(1)], [3]), ValueError, "one fewer than the 1 schedules, got 1"),
        (lambda: Join([Constant(1)] * 3, [3, 3]), ValueError, r"boundaries must rise, got \[3"),
        (lambda: Join([Constant(1)] * 2, [0]), ValueError, r"boundaries\[0\] must be in \[1, "),
    ],
)  # fmt: skip
def test_a_mistake_names_the_argument_and_the_value(make, error, text):
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (None, TypeError, "a schedule must be a dict, got None"),
        ([], TypeError, r"a schedule must be a dict, got \[\]"),
        ({}, ValueError, r"the schedule must be one of \['Constant', .*\], got None"),
        ({"schedule": "Schedule"}, ValueError, "must be one of .*, got 'Schedule'"),
        ({"schedule": "os.system"}, ValueError, "must be one of .*, got 'os.system'"),
        ({"schedule": ["Constant"]}, ValueError, r"must be one of .*, got \['Constant'\]"),
        ({"schedule": "Exponential", "lr": 1.0}, ValueError, r"arguments of Exponential must be "),
        ({**to_dict(ALL[0]), "gamma": 1.0}, ValueError, "arguments of Constant must be"),
        ({**to_dict(ALL[0]), 3: 1.0}, ValueError, "arguments of Constant must be"),
        ({**to_dict(ALL[0]), "lr": "0.1"}, TypeError, "lr must be a number, got '0.1'"),
        ({**to_dict(ALL[0]), "lr": math.nan}, ValueError, "lr must be >= 0 and finite, got nan"),
        ({**to_dict(ALL[0]), "warmup": 1e9}, TypeError, "warmup must be a whole number"),
        ({**to_dict(ALL[-1]), "schedules": 5}, TypeError, "schedules must be a list, got 5"),
        ({**to_dict(ALL[-1]), "schedules": [5]}, TypeError, "a schedule must be a dict, got 5"),
        ({**to_dict(ALL[-1]), "schedules": [to_dict(ALL[-1])]}, ValueError, "hold no Join"),
        ({**to_dict(ALL[-1]), "boundaries": "ab"}, TypeError, "boundaries must be a list"),
    ],
)
def test_what_is_loaded_is_checked(content, error, text):
    with pytest.raises(error, match=text):
        from_dict(content)


def test_deep_nesting_is_refused_at_once():
    content = to_dict(Constant(1.0))
    for _ in range(100_000):
        content = {"schedule": "Join", "schedules": [content], "boundaries": []}
    with pytest.raises(ValueError, match="schedules must hold no Join"):
        from_dict(content)
    while content["schedule"] == "Join":  # layer by layer, for a garbage collector without limits
        (content,) = content["schedules"]


def test_a_function_of_one_s_own_is_not_saved():
    class Mine(Schedule):
        pass

    for own in (abs, lambda done: 0.1, 0.1, Mine(), Constant):
        with pytest.raises(TypeError, match=r"only schedules of zdlfast\.schedules can be saved"):
            to_dict(own)


def test_the_module_needs_the_math_of_python_alone():
    """By themselves, these two files import no NumPy and nothing compiled."""
    code = (
        "import sys, types; package = types.ModuleType('zdlfast');"
        f"package.__path__ = [{str(Path(schedules.__file__).parent)!r}];"
        "sys.modules['zdlfast'] = package;"
        "from zdlfast.schedules import Cosine; Cosine(0.1, 10)(3);"
        "assert 'numpy' not in sys.modules and 'zdlfast._engine' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
