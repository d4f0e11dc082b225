"""Fixtures that every test module may take: one rule, one dtype, one instruction set."""

import os
from contextlib import suppress

# One thread for BLAS, in the processes that tests start too: what it computes here is small, and
# its threads would wait by spinning, on the CPUs of other tests.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings
from table import KINDS, RULES

from zdlfast import _engine

# What is for type checkers, and what other processes run: its import starts MPI, or warns.
collect_ignore = ["typing_user.py", "ranks.py", "torch_processes.py"]


@pytest.fixture
def rule(request):
    return request.param


EXAMPLES = 1000  # at a time, because Hypothesis remembers them all


def pytest_addoption(parser):
    text = f"examples that the property test draws, {EXAMPLES} at a time"
    parser.addoption("--examples", type=int, default=EXAMPLES, help=text)


def pytest_configure(config):
    # The same examples in every run: none depends on luck. Who asks for more gets new ones.
    same = config.getoption("examples") == EXAMPLES
    settings.register_profile("zdlfast", derandomize=same)
    settings.load_profile("zdlfast")
    # Hypothesis draws constants of the modules that are imported by then, too: of none here, so
    # that no example depends on which tests came before.
    with suppress(ImportError):
        from hypothesis.internal.conjecture import providers

        providers._get_local_constants = lambda: providers._local_constants


def pytest_generate_tests(metafunc):
    given = str([mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")])
    if "rule" in metafunc.fixturenames and "rule" not in given:
        rules = KINDS if metafunc.definition.get_closest_marker("each_kind") else RULES
        metafunc.parametrize("rule", rules, ids=lambda row: row.name, indirect=True)
    if "thousand" in metafunc.fixturenames:
        thousands = -(-metafunc.config.getoption("examples") // EXAMPLES)
        metafunc.parametrize("thousand", range(thousands))


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=_engine.available())
def simd(request):
    """Run the test on the kernels of each instruction set that this machine has."""
    before = _engine.in_use()
    _engine.use(request.param)
    yield request.param
    _engine.use(before)


@pytest.fixture
def simds():
    """The instruction sets that this machine has: the test runs itself on one after the other."""
    before = _engine.in_use()
    yield _engine.available()
    _engine.use(before)


@pytest.fixture
def rng():
    return np.random.default_rng(8)
