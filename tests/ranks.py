"""What the tests of zdlfast.mpi do on each rank of an MPI program.

``mpiexec -n 2 python -m mpi4py ranks.py FOLDER NAME...`` calls the functions with these names.
What one process would do, each rank does beside it: the sums of all gradients in the order of the
ranks, divided by their number, for an optimizer of its own.
"""

import copy
import itertools
import signal
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
from mpi4py import MPI
from table import KINDS, RULES, assert_same_bits, assert_same_run

import zdlfast
from zdlfast import reference
from zdlfast.mpi import DataParallel, _exchange, _layout, _norm, _parallel, _ranks
from zdlfast.schedules import Cosine

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

warnings.simplefilter("error")
COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
TIMES = 40  # each failure

# Several buckets, cut within arrays.
_layout.BUCKET = 40_000 * SIZE


def net(dtype=np.float32):
    """Parameters: equal on all ranks; some shared by several of them, some of one."""
    rng = np.random.default_rng(8)
    shapes = {"W1": (130, 120), "b1": (120,), "W2": (120, 70), "b2": (70,)}
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in shapes.items()}


def gradients(params, rank, step):
    rng = np.random.default_rng([rank, step])
    return {
        key: rng.standard_normal(np.shape(value)).astype(np.asarray(value).dtype)
        for key, value in params.items()
    }


def averaged(gradients_of, mean=True):
    """What all ranks together should make of their gradients."""
    total = dict(gradients_of(0))
    with np.errstate(over="ignore"):
        for rank in range(1, SIZE):
            for key, grad in gradients_of(rank).items():
                total[key] = total[key] if grad is None else total[key] + grad
        return {
            key: grad if grad is None or not mean else grad / SIZE for key, grad in total.items()
        }


def copies(params):
    return {key: np.array(value, order="K") for key, value in params.items()}


def assert_saved(optimizer, params, expected, expected_params, folder):
    """A checkpoint of all ranks has the state of one process, and so have the parameters."""
    optimizer.save(folder / "all.npz", params)
    loaded, loaded_params = zdlfast.load(folder / "all.npz")
    COMM.Barrier()  # nobody writes while another one reads
    assert_same_run(loaded, expected, loaded_params, expected_params)
    for key in expected_params:
        assert_same_bits(params[key], expected_params[key], f"params[{key!r}]")


def assert_as_one_process(make, params, steps, folder, gradients_of=gradients, mean=True):
    """With and without shared state, all ranks do what one process does."""
    start = params
    for shard_state in (False, True):
        params, expected_params = copies(start), copies(start)
        optimizer = DataParallel(
            make(), reduction="mean" if mean else "sum", shard_state=shard_state
        )
        expected = make()
        for step in range(steps):

            def of(rank, step=step):
                return gradients_of(start, rank, step)

            done = optimizer.update(params, of(RANK))
            assert done == expected.update(expected_params, averaged(of, mean))
            assert repr(optimizer.optimizer.last) == repr(expected.last)  # a norm may be NaN
        assert_saved(optimizer, params, expected, expected_params, folder)


# ---------------------------------------------------------------- the same bits


def every_rule(folder):
    for row in RULES:
        for dtype in (np.float32, np.float64) if row in KINDS else (np.float32,):
            assert_as_one_process(lambda row=row: row.fast(**row.options), net(dtype), 3, folder)


def plain_numpy(folder):
    def make():
        return reference.Adam(lr=0.1, clip_norm=3.0)

    assert_as_one_process(make, net(), 3, folder)


def options(folder):
    overrides = {"b*": {"weight_decay": 0.0}, "W2": {"frozen": True}, "W1": {"lr": 0.3}}
    for given in (
        {"clip_norm": 3.0},
        {"clip_norm": 1e9},
        {"clip_norm": 2.0, "clip_value": 0.01, "nonfinite": "raise"},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled": True, "maximize": True},
        {"lr": Cosine(0.1, steps=5, warmup=2)},
        {"flush_subnormals": True, "overrides": overrides, "weight_decay": 0.1},
    ):
        assert_as_one_process(lambda given=given: zdlfast.AdamW(**given), net(), 4, folder)
    assert_as_one_process(zdlfast.Adam, net(), 3, folder, mean=False)


def skipped_updates(folder):
    def with_nan(params, rank, step):
        grads = gradients(params, rank, step)
        if step == 1 and rank == SIZE - 1:
            grads["b2"][3] = np.nan
        return grads

    def make():
        return zdlfast.Adam(nonfinite="skip", clip_norm=2.0)

    assert_as_one_process(make, net(), 3, folder, with_nan)


def numbers_that_overflow(folder):
    """Squares that are too large for float64 are no reason to skip, and infinite sums are."""

    def large(params, rank, step):
        value = 1e200 if step == 0 else 1e308
        return {key: np.full(array.shape, value) for key, array in params.items()}

    def make():
        return zdlfast.SGD(nonfinite="skip")

    for _ in range(2):
        assert_as_one_process(make, net(np.float64), 2, folder, large)


def arrays_as_they_come(folder):
    rng = np.random.default_rng(8)
    params = {
        "fortran": np.asfortranarray(rng.standard_normal((90, 130))),
        "strided": rng.standard_normal((90, 260))[:, ::2],
        "swapped": rng.standard_normal((70, 90)).astype(">f8"),
        "half": rng.standard_normal((100, 50)).astype(np.float16),
        "none": np.zeros((0, 3)),
        "one": np.array(2.0),
        "float32": rng.standard_normal(50).astype(np.float32),
    }

    def without_spread(params, rank, step):
        found = gradients(params, rank, step)
        found["strided"] = np.asfortranarray(found["strided"])
        found["float32"] = found["float32"].astype(np.float64)
        found["swapped"] = (10 * found["swapped"]).astype(int)
        return found

    def with_spread(params, rank, step):
        found = without_spread(params, rank, step)
        found["fortran"] = found["fortran"][:1]
        return found

    def clipped():
        return zdlfast.Adam(lr=0.1, clip_norm=5.0)

    assert_as_one_process(zdlfast.Adam, params, 3, folder, with_spread)
    assert_as_one_process(clipped, params, 3, folder, without_spread)
    spread = with_spread(params, RANK, 0)
    error = raised(DataParallel(clipped(), shard_state=True).update, params, spread)
    assert error == (
        "ValueError",
        "rank 0: grads['fortran'] has shape (1, 130), expected (90, 130), that of its parameter, "
        "for clip_norm with shard_state",
    )


def low_bit_state(folder):
    """On all ranks it is as in one process; a part of it on each is refused."""
    for given in (
        {"state": "8bit"},
        {"state": "8bit", "state_rounding": "stochastic"},
        {"overrides": {"W*": {"state": "bfloat16"}}},
    ):
        optimizer, expected = DataParallel(zdlfast.Adam(**given)), zdlfast.Adam(**given)
        params, expected_params = net(), net()
        for step in range(3):

            def of(rank, step=step):
                return gradients(net(), rank, step)

            optimizer.update(params, of(RANK))
            expected.update(expected_params, averaged(of))
        optimizer.save(folder / "all.npz", params)
        save_parts(optimizer, folder / "parts", params)
        for path in ("all.npz", "parts"):
            loaded, loaded_params = zdlfast.load(folder / path)
            assert_same_run(loaded, expected, loaded_params, expected_params)
            again = DataParallel(loaded)
            again.update(loaded_params, of(RANK))
        COMM.Barrier()
        parts = DataParallel(zdlfast.Adam(**given), shard_state=True)
        found = raised(parts.update, params, of(RANK))
        assert found[0] == "NotImplementedError"
        assert found[1].startswith("rank 0: shard_state takes no state in '")
        loaded, _ = zdlfast.load(folder / "all.npz")
        loaded.state = loaded.overrides = None
        found = raised(DataParallel(loaded, shard_state=True).update, params, of(RANK))
        assert found[0] == "NotImplementedError"
        COMM.Barrier()


def numbers_for_parameters(folder):
    params, expected_params = {"a": 1.0, "b": np.float32(2.0)}, {"a": 1.0, "b": np.float32(2.0)}
    optimizer, expected = DataParallel(zdlfast.Adam(lr=0.1)), zdlfast.Adam(lr=0.1)
    for step in range(3):
        grads = [{"a": 0.5 + rank + step, "b": np.float32(rank)} for rank in range(SIZE)]
        optimizer.update(params, grads[RANK])
        expected.update(expected_params, averaged(lambda rank, grads=grads: grads[rank]))
    assert params == expected_params
    assert type(params["a"]) is type(expected_params["a"])
    sharded = DataParallel(zdlfast.Adam(), shard_state=True)
    error = raised(sharded.update, {"a": 1.0}, {"a": 1.0})
    assert error == (
        "TypeError", "rank 0: params['a'] must be an array of floats for shard_state, got a float"
    )  # fmt: skip


def lists(folder):
    """And parameters that come later, or have no gradient for some time."""
    start = [*net().values()]
    for shard_state in (False, True):
        params, expected_params = copy.deepcopy(start), copy.deepcopy(start)
        overrides = {1: {"frozen": True}}
        optimizer = DataParallel(zdlfast.Adam(overrides=overrides), shard_state=shard_state)
        expected = zdlfast.Adam(overrides=overrides)
        for step in range(4):
            count = 3 if step < 2 else 4

            def of(rank, step=step, count=count):
                grads = gradients(dict(enumerate(start[:count])), rank, step)
                grads[2] = None if step == 1 else grads[2]
                return grads

            mean = averaged(of)
            optimizer.update(params[:count], [*of(RANK).values()])
            expected.update(expected_params[:count], [*mean.values()])
        optimizer.save(folder / "list.npz", params)
        optimizer.save(folder / "list", params, per_rank=True)
        for path in ("list.npz", "list"):
            loaded, loaded_params = zdlfast.load(folder / path)
            assert isinstance(loaded_params, list)
            assert_same_run(loaded, expected, loaded_params, expected_params)
        COMM.Barrier()


def points_of_schedule_free(folder):
    for shard_state in (False, True):
        params, expected_params = net(), net()
        optimizer = DataParallel(zdlfast.ScheduleFreeAdamW(lr=0.1), shard_state=shard_state)
        expected = zdlfast.ScheduleFreeAdamW(lr=0.1)
        for step in range(3):
            optimizer.update(params, gradients(params, RANK, step))
            expected.update(
                expected_params,
                averaged(lambda rank, step=step: gradients(net(), rank, step)),
            )
        optimizer.eval(params)
        expected.eval(expected_params)
        assert_saved(optimizer, params, expected, expected_params, folder)
        optimizer.train(params)
        expected.train(expected_params)
        assert_saved(optimizer, params, expected, expected_params, folder)


# ---------------------------------------------------------------- who has and sends what


def shares(folder):
    """Each rank has its part of the state, and sends no more than has to be sent."""
    params = {"W": np.zeros((1000, 400), np.float32), "b": np.zeros(1000, np.float32)}
    total = sum(array.nbytes for array in params.values())
    for shard_state in (False, True):
        optimizer = DataParallel(zdlfast.Adam(), shard_state=shard_state)
        optimizer.update(params, gradients(params, RANK, 0))
        own = sum(array.nbytes for array in optimizer.optimizer.m.values())
        assert COMM.allreduce(own) == (total if shard_state else SIZE * total)
        if shard_state:
            assert abs(own - total / SIZE) <= 4 * _layout.CUT
        sent = optimizer.bytes_sent
        least = 2 * (SIZE - 1) * total / SIZE
        assert abs(sent - least) <= 4 * _layout.CUT * SIZE
        assert abs(COMM.allreduce(sent) - SIZE * least) <= 100 * SIZE


def cuts(folder):
    """All elements belong to one rank each, and are sent once."""
    rng = np.random.default_rng(8)
    for ranks in (1, 2, 3, 7, 64):
        for _ in range(20):
            items = [
                _layout.Item(int(size), np.dtype(rng.choice(["f2", "f4", "f8", "c16"])))
                for size in rng.choice([0, 1, 5, 511, 4096, 4097, 30_000, 100_000], 6)
            ]
            bounds = _layout.cut(items, ranks)
            for item, of_item in zip(items, bounds, strict=True):
                assert of_item[0] == 0
                assert of_item[-1] == item.size
                assert list(of_item) == sorted(of_item)
                assert all(b % _layout.CUT == 0 or b == item.size for b in of_item)
            sizes = [
                sum(
                    (of_item[rank + 1] - of_item[rank]) * item.dtype.itemsize
                    for item, of_item in zip(items, bounds, strict=True)
                )
                for rank in range(ranks)
            ]
            assert max(sizes) - sum(sizes) / ranks <= 16 * _layout.CUT
            covered = [np.zeros(item.size, int) for item in items]
            for bucket in _layout.make_buckets(items, bounds):
                assert bucket.size <= _layout.BUCKET + ranks * 1024
                for rank, segments in enumerate(bucket.segments):
                    for segment in segments:
                        assert segment.at % _layout.ALIGNED == 0
                        assert bounds[segment.item][rank] <= segment.start
                        assert segment.stop <= bounds[segment.item][rank + 1]
                        covered[segment.item][segment.start : segment.stop] += 1
            assert all((count == 1).all() for count in covered)


# ---------------------------------------------------------------- errors


def raised(call, *args):
    """The type and the text of the error, which all ranks compare with the same one."""
    try:
        call(*args)
    except (Exception, KeyboardInterrupt) as error:
        return type(error).__name__, str(error.args[0]) if error.args else ""
    return "nothing", ""


class Failing(dict):
    """Raises when a parameter is looked up."""

    def __getitem__(self, key):
        raise self.error


class Interrupted(dict):
    """Is interrupted when a parameter is looked up, once."""

    def __getitem__(self, key):
        if key == "W1":
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(key)


class OwnError(Exception):
    def __init__(self, number, text):
        super().__init__(number, text)


def without(params, key):
    return {other: value for other, value in params.items() if other != key}


def failing(params, error):
    made = Failing(params)
    made.error = error
    return made


# What the one rank gives in the place of params and grads, or sets of its optimizer; and the
# error on all. A rank that has a part of the state looks itself whether it fits.
def failures(params, grads, optimizer, rank):
    here = f"on rank {rank}"
    transposed = [{**each, "W2": each["W2"].T} for each in (params, grads)]
    longer = {**params, "W2": params["W2"].astype(float)}
    locked = {**params, "b1": params["b1"].copy()}
    locked["b1"].flags.writeable = False
    with_nan = copies(grads)
    with_nan["W2"][5, 5] = np.nan
    other_shape = {**grads, "b1": grads["b1"][:7]}
    yield (without(params, "b1"), grads, {}), (
        "ValueError",
        f"params['b1'] is there on rank 0, but not {here}" if rank else
        "params['b1'] is there on rank 1, but not on rank 0",
    )  # fmt: skip
    yield (params, without(grads, "b2"), {}), (
        "KeyError", f"rank {rank}: params['b2'] has no gradient: grads['b2'] is missing"
    )  # fmt: skip
    for what, given, ours, theirs in (
        ("params['W2']", (*transposed, {}), "float32 of shape (70, 120)",
         "float32 of shape (120, 70)"),
        ("params['W2']", (longer, grads, {}), "float64 of shape (120, 70)",
         "float32 of shape (120, 70)"),
        ("grads['b1']", (params, {**grads, "b1": None}, {}), "None", "float32 of shape (120,)"),
        ("grads['b1']", (params, other_shape, {}), "float32 of shape (7,)",
         "float32 of shape (120,)"),
        ("lr", (params, grads, {"lr": 0.5}), "0.5", "0.001"),
        ("clip_norm", (params, grads, {"clip_norm": 0.5}), "0.5", "None"),
        ("iter", (params, grads, {"iter": 7}), "7", str(optimizer.optimizer.iter)),
    ):  # fmt: skip
        text = f"{what} is {theirs} on rank 0, but {ours} {here}"
        if rank == 0:
            text = f"{what} is {ours} on rank 0, but {theirs} on rank 1"
        if "params" in what and optimizer.shard_state and optimizer.optimizer.iter:
            text = f"rank {rank}: {what} is {ours}, but its state is {theirs}"
        if given[1] is other_shape and optimizer.shard_state:
            text = (
                f"rank {rank}: grads['b1'] has shape (7,), which does not fit params['b1'] of "
                "shape (120,)"
            )
        yield given, ("ValueError", text)
    if bfloat16 is not None:
        for what, given in (
            ("params", ({**params, "W2": params["W2"].astype(bfloat16)}, grads, {})),
            ("grads", (params, {**grads, "W2": grads["W2"].astype(bfloat16)}, {})),
        ):
            text = "is an array of bfloat16, expected one of NumPy's own dtypes"
            yield given, ("TypeError", f"rank {rank}: {what}['W2'] {text}")
    yield (
        (locked, grads, {}),
        (
            "ValueError",
            f"rank {rank}: params['b1'] is read-only, expected an array that can be updated in "
            "place",
        ),
    )
    yield (
        (params, with_nan, {}),
        (
            "FloatingPointError",
            f"grads['W2'] holds NaN or infinity {here}, expected finite numbers",
        ),
    )
    yield (
        (params, {**grads, "b1": "text"}, {}),
        (
            "TypeError",
            f"rank {rank}: grads['b1'] must be an array of NumPy's or a number, got str",
        ),
    )
    yield (failing(params, MemoryError("no memory")), grads, {}), (
        "MemoryError", f"rank {rank}: no memory"
    )  # fmt: skip
    yield (failing(params, OwnError(3, "of a kind of its own")), grads, {}), (
        "RuntimeError", f"OwnError: rank {rank}: (3, 'of a kind of its own')"
    )  # fmt: skip
    yield (Interrupted(params), grads, {}), (
        "KeyboardInterrupt", f"rank {rank}: interrupted"
    )  # fmt: skip


def errors(folder):
    """All ranks raise the same one, nothing has changed, and the training may go on."""
    if SIZE == 1:
        return
    for shard_state in (False, True):
        params, expected_params = net(), net()
        optimizer = DataParallel(zdlfast.Adam(nonfinite="raise"), shard_state=shard_state)
        expected = zdlfast.Adam(nonfinite="raise")
        for step in range(2):
            for time in range(TIMES // 4):
                bad = time % SIZE
                grads = gradients(params, RANK, step)
                for (p, g, settings), error in failures(params, grads, optimizer, bad):
                    if bad != RANK:
                        p, g, settings = params, grads, {}
                    before = {name: getattr(optimizer.optimizer, name) for name in settings}
                    for name, value in settings.items():
                        setattr(optimizer.optimizer, name, value)
                    found = raised(optimizer.update, p, g)
                    for name, value in before.items():
                        setattr(optimizer.optimizer, name, value)
                    assert found == error, (found, error)
                    for key, value in expected_params.items():
                        assert_same_bits(params[key], value)
            mean = averaged(lambda rank, step=step: gradients(net(), rank, step))
            optimizer.update(params, gradients(params, RANK, step))
            expected.update(expected_params, mean)
            assert_saved(optimizer, params, expected, expected_params, folder)


def failing_late(base):
    """An optimizer that fails when it stores its state, after all checks and computations."""

    class Late(base):
        error = None

        @property
        def v(self):
            return vars(self)["v"]

        @v.setter
        def v(self, value):
            if self.error is not None:
                raise self.error
            vars(self)["v"] = value

    return Late()


def errors_at_the_last_moment(folder):
    """One rank fails when all others are ready to change what they have."""
    for base in (zdlfast.Adam, reference.Adam):
        for shard_state in (False, True):
            params, expected_params = net(), net()
            late, expected = failing_late(base), zdlfast.Adam()
            optimizer = DataParallel(late, shard_state=shard_state)
            for step in range(2):
                grads = gradients(params, RANK, step)
                for time in range(TIMES // 4):
                    bad = time % SIZE
                    # As if there were no memory for the new state.
                    late.__dict__["error"] = MemoryError("none left") if bad == RANK else None
                    found = raised(optimizer.update, params, grads)
                    assert found == ("MemoryError", f"rank {bad}: none left")
                    late.__dict__["error"] = None
                    assert late.iter == expected.iter
                    for key, value in expected_params.items():
                        assert_same_bits(params[key], value)
                optimizer.update(params, grads)
                expected.update(
                    expected_params,
                    averaged(lambda rank, step=step: gradients(net(), rank, step)),
                )
                for key, value in expected_params.items():
                    assert_same_bits(params[key], value)


def errors_while_sending(folder):
    """A rank without memory in the middle sends on, and all are told before anything changes."""

    def without_memory(*args):
        raise MemoryError("none left")

    steps = [(_exchange, "_pack"), (_norm, "_add_squares"), (_parallel, "_like")]
    for module, name in steps:
        works = getattr(module, name)
        shard_state = module is _norm
        params, expected_params = net(), net()
        optimizer = DataParallel(zdlfast.Adam(clip_norm=1.0), shard_state=shard_state)
        expected = zdlfast.Adam(clip_norm=1.0)
        for time in range(TIMES):
            bad = time % SIZE
            setattr(module, name, without_memory if bad == RANK else works)
            found = raised(optimizer.update, params, net())
            setattr(module, name, works)
            assert found == ("MemoryError", f"rank {bad}: none left")
            assert optimizer.optimizer.iter == 0
        for key, value in expected_params.items():
            assert_same_bits(params[key], value)
        optimizer.update(params, gradients(params, RANK, 0))
        expected.update(expected_params, averaged(lambda rank: gradients(net(), rank, 0)))
        assert_saved(optimizer, params, expected, expected_params, folder)


# ---------------------------------------------------------------- interrupts, and the end


def interrupts(folder):
    """One rank is interrupted at any moment: the update is done on all ranks, or on none."""
    wait = _ranks.Ranks.wait
    waits = moment = 0

    def counted(self, *args):
        nonlocal waits
        if waits == moment:
            signal.raise_signal(signal.SIGINT)
        waits += 1
        wait(self, *args)

    _ranks.Ranks.wait = counted
    for shard_state in (False, True):
        params, expected_params = net(), net()
        optimizer = DataParallel(zdlfast.Adam(nonfinite="raise"), shard_state=shard_state)
        expected = zdlfast.Adam()
        outcomes = set()
        for time in range(TIMES):
            waits, moment = 0, -1
            if time % SIZE == RANK:
                moment = time % 30
            grads = gradients(params, RANK, time)
            found = raised(optimizer.update, params, grads)
            if optimizer.optimizer.iter > expected.iter:
                expected.update(
                    expected_params,
                    averaged(lambda rank, time=time: gradients(net(), rank, time)),
                )
                here = moment >= 0 and waits > moment
                assert found == (("KeyboardInterrupt", "") if here else ("nothing", ""))
            else:
                assert found == ("KeyboardInterrupt", f"rank {time % SIZE}: interrupted")
            outcomes.add((found[0], expected.iter == optimizer.optimizer.iter))
            for key, value in expected_params.items():
                assert_same_bits(params[key], value)
        assert COMM.allgather(expected.iter) == [expected.iter] * SIZE
        assert 0 < expected.iter < TIMES
    _ranks.Ranks.wait = wait


def in_a_thread(folder):
    """No signal is held back there."""
    params, optimizer = net(), DataParallel(zdlfast.SGD())
    thread = threading.Thread(target=optimizer.update, args=(params, net()))
    thread.start()
    thread.join()
    assert optimizer.optimizer.updates == 1


def errors_outside(folder):
    """One rank fails between two updates, leaves early, or is interrupted: all are told."""
    if SIZE == 1:
        return

    def train(last, bad, what, params):
        with DataParallel(zdlfast.SGD()) as optimizer:
            for step in range(3):
                if (step, RANK) == (last, bad):
                    if what == "leaves":
                        return
                    raise what
                optimizer.update(params, params)

    for last, bad in itertools.product(range(3), range(SIZE)):
        here, params = bad == RANK, {"W": np.ones(10)}
        found = raised(train, last, bad, ValueError("bad data"), params)
        assert found == ("ValueError", "bad data" if here else f"rank {bad}: bad data")
        found = raised(train, last, bad, KeyboardInterrupt("by hand"), params)
        assert found == ("KeyboardInterrupt", "by hand" if here else f"rank {bad}: by hand")
        found = raised(train, last, bad, "leaves", params)
        calls = "update on rank 0, but the end of the with block on rank"
        if bad == 0:
            calls = "the end of the with block on rank 0, but update on rank"
        assert found == ("ValueError", f"the call is {calls} {bad or 1}")


def no_answer(folder):
    """A rank that is interrupted, and that nobody answers, does not wait for ever."""
    _ranks.PATIENCE = 0.2
    optimizer = DataParallel(zdlfast.SGD())
    params = {"W": np.ones(3)}
    if RANK == 0 and SIZE > 1:
        nap = _ranks.time.sleep
        _ranks.time.sleep = lambda seconds: (
            signal.raise_signal(signal.SIGINT), setattr(_ranks.time, "sleep", nap)
        )  # fmt: skip
        found = raised(optimizer.update, params, params)
        assert found == (
            "KeyboardInterrupt",
            "rank 0 was interrupted, and the other ranks did not answer within 0.2 s",
        )
        found = raised(optimizer.update, params, params)
        assert found[0] == "RuntimeError"
        assert "lost each other" in found[1]
        assert np.array_equal(params["W"], np.ones(3))
    COMM.Barrier()
    # For MPI to end:
    vote = np.zeros(3, np.int64)
    if RANK > 0 or SIZE == 1:
        optimizer._ranks.comm.Iallreduce(MPI.IN_PLACE, vote, MPI.MAX).Wait()
    else:
        MPI.Request.Waitall(optimizer._ranks._kept[0][0])


def trains_on_and_on(folder):
    """Until somebody interrupts it."""
    with DataParallel(zdlfast.Adam()) as optimizer:
        params = net()
        for step in range(10**9):
            optimizer.update(params, gradients(params, RANK, 0))
            if step == 3 and RANK == 0:
                (folder / "started").touch()


# ---------------------------------------------------------------- checkpoints


def one_process(steps, optimizer=None, params=None):
    """A training by one process, or the end of one."""
    optimizer, params = optimizer or zdlfast.Adam(lr=0.1, clip_norm=3.0), params or net()
    for step in range(optimizer.iter, steps):
        optimizer.update(params, gradients(net(), 0, step))
    return optimizer, params


def go_on(optimizer, params, steps):
    """The same by all ranks: whatever their number, their gradients have the same sum."""
    for step in range(optimizer.optimizer.iter, steps):
        grads = gradients(net(), 0, step)
        if RANK > 0:
            grads = {key: np.zeros_like(grad) for key, grad in grads.items()}
        optimizer.update(params, grads)


def save_checkpoints(folder):
    for shard_state in (False, True):
        params = net()
        optimizer = DataParallel(
            zdlfast.Adam(lr=0.1, clip_norm=3.0), reduction="sum", shard_state=shard_state
        )
        optimizer.save(folder / f"{SIZE}-{shard_state}-0.npz", params)
        optimizer.save(folder / f"{SIZE}-{shard_state}-0", params, per_rank=True)
        go_on(optimizer, params, 2)
        optimizer.save(folder / f"{SIZE}-{shard_state}-2.npz", params)
        optimizer.save(folder / f"{SIZE}-{shard_state}-2", params, per_rank=True)


def load_checkpoints(folder):
    expected, expected_params = one_process(4)
    for path in sorted(folder.iterdir()):
        for shard_state in (False, True):
            loaded, params = zdlfast.load(path)
            optimizer = DataParallel(loaded, reduction="sum", shard_state=shard_state)
            go_on(optimizer, params, 4)
            COMM.Barrier()
            again = folder.parent / "again.npz"
            optimizer.save(again, params)
            assert_same_run(*alternating(zdlfast.load(again), (expected, expected_params)))
            COMM.Barrier()


def alternating(one, other):
    return one[0], other[0], one[1], other[1]


def save_errors(folder):
    """All ranks raise the error of one, and may go on."""
    optimizer, params = DataParallel(zdlfast.SGD()), net()
    found = raised(optimizer.save, folder / "missing" / "a.npz")
    assert found == ("FileNotFoundError", f"rank 0: there is no folder {folder / 'missing'}")
    last = SIZE - 1
    place = folder / "no parts" / f"rank-{last}-of-{SIZE}.npz"
    if last == RANK:
        place.mkdir(parents=True)
    found = raised(save_parts, optimizer, place.parent, params)
    assert found == ("OSError", f"rank {last}: {place} is no file that could be replaced")
    found = raised(optimizer.save, folder / "a.npz", {} if last == RANK else params)
    assert found[0] == "ValueError"
    assert found[1] == f"params['W1'] is there on rank 0, but not on rank {last}"
    optimizer.update(params, params)


def save_parts(optimizer, folder, params):
    optimizer.save(folder, params, per_rank=True)


def fewer_files(folder):
    """A checkpoint by fewer ranks takes the place of one by more."""
    optimizer = DataParallel(zdlfast.SGD())
    optimizer.save(folder / "checkpoint", net(), per_rank=True)


def main():
    folder, *names = sys.argv[1:]
    for name in names:
        globals()[name](Path(folder))
        sys.stdout.write(f"{RANK} has done {name}\n")


if __name__ == "__main__":
    main()
