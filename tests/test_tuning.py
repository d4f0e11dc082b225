"""What decides how long an update takes never decides what it computes."""

import sys

import numpy as np
import pytest
from table import assert_same_run, copies

import zdlfast
from zdlfast import _engine

pytestmark = pytest.mark.each_kind

NEVER = sys.maxsize
TUNINGS = {
    "prefetching": {"fetch_from": 0},
    "prefetching far ahead": {"fetch_from": 0, "fetch_step": 512, "fetch_ahead": 8},
    "no aligned start": {"align_from": NEVER},
    "an aligned start of small arrays too": {"align_from": 64},
    "helpers for everything": {"help_from_awake": 0, "help_from": 0, "shortest_chunk": 64},
    "helpers that sleep at once": {"help_from_awake": 0, "help_from": 0, "spin": 0.0},
    "long chunks": {"shortest_chunk": 1 << 22, "longest_chunk": 1 << 24},
    "the GIL released": {"help_from_awake": 0, "release_from": 0},
}


@pytest.fixture(params=TUNINGS)
def tuning(request):
    before = _engine.get_tuning()
    _engine.set_tuning(before | TUNINGS[request.param])
    yield
    _engine.set_tuning(before)


def test_the_bits_are_those_of_numpy(rule, dtype, simds, tuning, rng):
    shapes = {"a": (9,), "b": (1037,), "c": (40_001,), "d": (300, 41)}

    def draw():
        return {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}

    expected, numpy = draw(), rule.numpy()
    runs = [(simd, rule.fast(), copies(expected)) for simd in simds]
    for _ in range(3):
        grads = draw()
        grads["d"] = np.asfortranarray(grads["d"])
        numpy.update(expected, grads)
        for simd, fast, params in runs:
            _engine.use(simd)
            with zdlfast.threads(3):
                fast.update(params, grads)
    for simd, fast, params in runs:
        assert_same_run(fast, numpy, params, expected, simd)


def test_all_numbers_are_set_at_once():
    before = _engine.get_tuning()
    with pytest.raises(ValueError, match="align_from"):
        _engine.set_tuning({"spin": 0.0})
    assert _engine.get_tuning() == before
