"""Properties: whatever is drawn, both twins agree, in bits or in errors."""

import warnings

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from table import RULES, assert_same_run

from zdlfast import _engine

DTYPES = st.sampled_from(["f4", "f8", ">f4", ">f8", "f2", "i4", "?"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)


@st.composite
def memory(draw, dtype, shape):
    """An array of this shape in a layout that slicing and transposing can make."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in shape]
    room_shape = [max(shape[axis] * abs(steps[axis]), 1) for axis in order]
    dtype = np.dtype(dtype)
    raw = np.zeros(int(np.prod(room_shape)) * dtype.itemsize + 1, np.uint8)
    start = draw(st.integers(0, 1))
    room = raw[start : start + raw.size - 1].view(dtype).reshape(room_shape)
    room = room.transpose(np.argsort(order)) if shape else room.reshape(())
    array = room[(..., *(slice(None, None, s) for s in steps))]
    array = array[(..., *(slice(0, n) for n in shape))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    special = [0.0, -0.0, 1e-30, 1e30] + [np.nan, np.inf] * draw(st.booleans())
    values = np.where(
        rng.random(shape) < 0.1, rng.choice(special, shape), rng.standard_normal(shape) * 3
    )
    with np.errstate(all="ignore"):
        array[...] = values.astype(dtype)
    return array


@st.composite
def updates(draw):
    shapes = draw(st.lists(SHAPES, min_size=0, max_size=4))
    params, steps = {}, []
    for i, shape in enumerate(shapes):
        params[f"W{i}"] = draw(memory(draw(DTYPES), shape))
    for _ in range(draw(st.integers(1, 3))):
        grads = {}
        for i, shape in enumerate(shapes):
            other = draw(st.sampled_from([shape, shape, shape, shape[1:], (*shape, 2)]))
            grads[f"W{i}"] = draw(memory(draw(DTYPES), other))
        steps.append(grads)
    return params, steps


@given(st.sampled_from(RULES), st.sampled_from(_engine.available()), updates())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_twins_agree_on_anything(row, simd, update):
    params, steps = update
    copies = {k: v.copy(order="K") for k, v in params.items()}
    fast, numpy = row.fast(lr=0.1), row.numpy(lr=0.1)
    before = _engine.in_use()
    _engine.use(simd)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            for grads in steps:
                errors = []
                for optimizer, own in ((fast, params), (numpy, copies)):
                    try:
                        optimizer.update(own, grads)
                    except (TypeError, ValueError) as error:
                        errors.append((type(error), str(error)))
                assert len(errors) in (0, 2)
                assert errors[:1] == errors[1:]
                assert_same_run(fast, numpy, params, copies)
    finally:
        _engine.use(before)
