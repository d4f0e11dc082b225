"""Fixtures that every test module may take: one rule, one dtype, one instruction set."""

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from table import RULES

from zdlfast import _engine

# What --hypothesis-profile may name.
for name, examples in {"default": 1000, "million": 1_000_000}.items():
    settings.register_profile(
        name, max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck)
    )
settings.load_profile("default")


@pytest.fixture(params=RULES, ids=lambda row: row.name)
def rule(request):
    return request.param


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
def rng():
    return np.random.default_rng(8)
