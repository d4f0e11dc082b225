"""The benchmark: it runs, it saves what it says, and it fails loudly if a bit differs."""

import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[1]))

import zdlfast
from bench import __main__ as command
from bench import allocator, internals, libraries, plots, report, rule_libraries, updates, worker
from bench import mpi as launcher
from bench.equality import differences
from bench.internals import BOOK, RULES
from bench.jobs import (
    compare_builds,
    denormals,
    kernels,
    lowbit,
    machine,
    models,
    mpi,
    peers,
    readme,
    rules,
    training,
)
from bench.jobs import torch as torch_job
from bench.timing import Run, interleave

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The same jobs, with less to do."""
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 40)
    monkeypatch.setattr(training, "QUICK_STEPS", 5)
    monkeypatch.setattr(training, "ELEMENTS", [10, 100])
    monkeypatch.setattr(training, "SECONDS", 0.001)
    monkeypatch.setattr(kernels, "QUICK_SIZES", [7, 1000])
    monkeypatch.setattr(kernels, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(models, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(models, "QUICK_ELEMENTS", 50_000)
    monkeypatch.setattr(peers, "QUICK_SIZES", [1000, 3000])
    monkeypatch.setattr(peers, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(peers, "REST", 0.0)
    monkeypatch.setattr(rules, "QUICK_SIZES", [1000, 3000])
    monkeypatch.setattr(rules, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(rules, "REST", 0.0)
    monkeypatch.setattr(torch_job, "NETWORKS", torch_job.NETWORKS[:1])
    monkeypatch.setattr(torch_job, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(mpi, "RANKS", [1, 2])
    monkeypatch.setattr(mpi, "QUICK_HIDDEN", 20)
    monkeypatch.setattr(mpi, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(machine, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(
        machine, "TRIALS", [replace(trial, sizes=(40_000,)) for trial in machine.TRIALS]
    )
    monkeypatch.setattr(compare_builds, "QUICK_PAIRS", 2)
    monkeypatch.setattr(compare_builds, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(compare_builds, "RULES", ["SGD"])
    monkeypatch.setattr(compare_builds, "DTYPES", ["float32"])


@pytest.fixture
def undrawn(monkeypatch):
    """No picture is drawn: that takes longer than to measure, and other tests look at them."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: path.write_bytes(PNG))


def bench(monkeypatch, folder, *args):
    monkeypatch.setattr(sys, "argv", ["bench", *args, "--quick", "--out", str(folder)])
    return command.main()


class OffByOneBit(zdlfast.Momentum):
    def update(self, params, grads):
        super().update(params, grads)
        last = list(params)[-1]
        params[last][0] = np.nextafter(params[last][0], 1, dtype=params[last].dtype)


# ------------------------------------------------------------------ the main job


def test_it_prints_tables_and_saves_pictures_and_figures(monkeypatch, tmp_path, capsys, dtype):
    folder = tmp_path / "new" / "folder"
    monkeypatch.setenv("COLUMNS", "80")
    assert bench(monkeypatch, folder, "--dtype", dtype.name) == 0
    printed = capsys.readouterr().out
    for name in BOOK:
        assert name in printed
    assert "equal bit for bit" in printed
    assert dtype.name in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    for picture in ("losses.png", "ratios.png"):
        assert (folder / picture).read_bytes().startswith(PNG)
    saved = json.loads((folder / "bench.json").read_text())
    assert saved["complete"] is True
    assert saved["machine"]["zdlfast"] == zdlfast.build_info()
    assert {"cpu", "caches", "system", "python", "numpy"} <= saved["machine"].keys()
    assert saved["settings"]["dtype"] == dtype.name
    trainings = [r for r in saved["results"] if r["case"]["name"] == "training"]
    assert [r["optimizer"] for r in trainings] == list(BOOK)
    for result in trainings:
        assert result["equal"] is True
        assert len(result["losses"]) == 5
        for times in result["times"].values():
            assert len(times["samples"]) == 5
            low, median, high = times["quartiles"]
            assert 0 < low <= median <= high
        assert result["update_ratio"] > 0
    alone = [r for r in saved["results"] if r["case"]["name"] != "training"]
    assert [(r["case"]["rule"], r["case"]["elements"]) for r in alone] == [
        (name, size) for name in BOOK for size in (10, 100)
    ]
    text = (folder / "bench.txt").read_text("utf-8")
    assert saved["machine"]["allocator"] in text
    ratios = [r["training_ratio"] for r in trainings]
    gain = f"{report.ratio(min(ratios))} to {report.ratio(max(ratios))} times"
    headline = text[: text.index("one update of one array")]
    for words in (f"whole trainings {gain}", saved["machine"]["cpu"]):
        assert words in " ".join(headline.split())
    assert "test" in text
    assert "of" in text
    assert saved["machine"]["cpu"] in text


def test_training_alone_has_its_own_files(monkeypatch, tmp_path, capsys, undrawn):
    monkeypatch.setenv("COLUMNS", "80")
    assert bench(monkeypatch, tmp_path, "training") == 0
    printed = capsys.readouterr().out
    assert "share" in printed
    assert "…" not in printed
    saved = json.loads((tmp_path / "training.json").read_text())
    assert [r["case"]["name"] for r in saved["results"]] == ["training"] * len(BOOK)
    assert not (tmp_path / "bench.json").exists()


def test_it_fails_loudly_if_a_bit_differs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(zdlfast, "Momentum", OffByOneBit)
    assert bench(monkeypatch, tmp_path, "training") == 1
    printed = capsys.readouterr().out
    assert "NOT EQUAL Momentum: the final weights b3 differ in" in printed
    assert "NOT EQUAL Adam" not in printed
    saved = json.loads((tmp_path / "training.json").read_text())
    assert [r["equal"] for r in saved["results"]] == [name != "Momentum" for name in BOOK]


def test_ctrl_c_keeps_what_was_measured(monkeypatch, tmp_path, capsys):
    measure = updates.measure

    def interrupted(case, seconds):
        if case.rule == "Nesterov":
            raise KeyboardInterrupt
        return measure(case, seconds)

    monkeypatch.setattr(updates, "measure", interrupted)
    assert bench(monkeypatch, tmp_path, "kernels") == 130
    printed = capsys.readouterr().out
    assert "interrupted" in printed
    assert "Momentum" in printed
    saved = json.loads((tmp_path / "kernels.json").read_text())
    assert saved["complete"] is False
    assert [r["case"]["rule"] for r in saved["results"]] == ["SGD"] * 2 + ["Momentum"] * 2
    assert (tmp_path / "kernels-float32.png").read_bytes().startswith(PNG)


def test_ctrl_c_at_once_is_no_error(monkeypatch, tmp_path):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(updates, "measure", interrupted)
    monkeypatch.setattr(training, "train", interrupted)
    monkeypatch.setattr(peers, "_measure", interrupted)
    monkeypatch.setattr(peers, "PEERS", {"zdlfast": libraries.PEERS["zdlfast"]})
    for job in ([], ["training"], ["kernels"], ["models"], ["peers"]):
        assert bench(monkeypatch, tmp_path, *job) == 130


def test_figures_are_saved_before_pictures_are_drawn(monkeypatch, tmp_path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "draw", interrupted)
    assert bench(monkeypatch, tmp_path, "models") == 130
    assert json.loads((tmp_path / "models.json").read_text())["complete"] is True
    assert "784-50-100-10" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["cp932", "ascii"])
def test_what_a_terminal_cannot_show_is_replaced(monkeypatch, tmp_path, encoding, undrawn):
    raw = io.BytesIO()
    stdout = io.TextIOWrapper(raw, encoding, write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert bench(patch, tmp_path, "models") == 0
    printed = raw.getvalue().decode(encoding)
    assert " us " in printed  # for microseconds
    assert "?" not in printed
    assert " µs " in (tmp_path / "models.txt").read_text("utf-8")


def test_all_is_saved_before_anything_is_shown(tmp_path):
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(28, "no space")

    tables = [report.make_table("a table", ["µs"])]
    pictures = {"picture.png": lambda path: path.write_bytes(PNG)}
    console = report.Console(file=Closed())
    with pytest.raises(OSError, match="no space"):
        report.publish(console, tmp_path, "job", tables, pictures, [], {}, True)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"job.json", "job.txt", "picture.png"}


def test_a_folder_that_is_none_is_told_at_once(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert bench(monkeypatch, tmp_path / "file", "models") == 2
    assert "error:" in capsys.readouterr().out
    (tmp_path / "models.json").mkdir()
    assert bench(monkeypatch, tmp_path, "models") == 2
    assert "models.json" in "".join(capsys.readouterr().out.split("\n"))


@pytest.mark.parametrize("job", [[], *([name] for name in command.JOBS)])
def test_help_explains(monkeypatch, capsys, job):
    monkeypatch.setattr(sys, "argv", ["bench", *job, "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    printed = capsys.readouterr().out
    if job in ([], ["training"]):
        for word in ("--quick", "--dtype", "--out", "ratio", "bench.json", "exit status"):
            assert word in printed
    if not job:
        for name in command.JOBS:
            assert name in printed
    else:
        assert "files" in printed


def test_options_stand_before_the_job_or_after_it():
    parse = command.make_parser().parse_args
    for line in (["--quick", "--out", "X", "kernels"], ["kernels", "--quick", "--out", "X"]):
        options = parse(line)
        assert (options.quick, options.out, options.main) == (True, Path("X"), kernels.main)
    assert parse(["kernels"]).out == Path("bench-results")
    assert parse(["kernels"]).quick is False
    assert parse([]).main == training.main_job


# ------------------------------------------------------------------ kernels and models


def test_kernels_times_every_rule_dtype_and_size_against_the_limit(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert bench(monkeypatch, tmp_path, "kernels") == 0
    printed = capsys.readouterr().out
    assert "limit" in printed
    assert "…" not in printed
    saved = json.loads((tmp_path / "kernels.json").read_text())
    assert [
        tuple(r["case"][k] for k in ("dtype", "rule", "elements")) for r in saved["results"]
    ] == [
        (dtype, rule, size)
        for dtype in ("float32", "float64")
        for rule in BOOK
        for size in (7, 1000)
    ]
    names = {"NumPy"}
    for count in updates.thread_counts():
        names |= {updates.fast(count), updates.limit(count)}
    for result in saved["results"]:
        assert set(result["times"]) == names
        streams = {"SGD": 3, "Adam": 7}.get(result["case"]["rule"], 5)
        itemsize = np.dtype(result["case"]["dtype"]).itemsize
        assert result["bytes_moved"] == streams * itemsize * result["case"]["elements"]
    for picture in ("kernels-float32.png", "kernels-float64.png"):
        assert (tmp_path / picture).read_bytes().startswith(PNG)
    # And compare reads what was saved.
    file = str(tmp_path / "kernels.json")
    assert run_compare(monkeypatch, file, file) == 0
    printed = capsys.readouterr().out
    assert "0 faster and 0 slower" in printed
    assert "…" not in printed


def test_nothing_is_timed_that_is_not_equal(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(zdlfast, "Momentum", OffByOneBit)
    assert bench(monkeypatch, tmp_path, "kernels") == 1
    assert "NOT EQUAL Momentum 7: the final weights 0 differ in 1 of 7" in capsys.readouterr().out
    for result in json.loads((tmp_path / "kernels.json").read_text())["results"]:
        assert bool(result["times"]) == (result["case"]["rule"] != "Momentum")


def test_models_have_the_true_shapes():
    elements = {name: sum(map(prod, shapes)) for name, shapes in models.MODELS.items()}
    assert elements["784-50-100-10"] == 45_360
    assert elements["CBOW 10,000"] == 2_000_000
    assert elements["ResNet-50"] == 25_557_032
    assert elements["GPT-2 small"] == 124_439_808
    assert len(models.MODELS["ResNet-50"]) == 161
    assert len(models.MODELS["GPT-2 small"]) == 148


def test_models_run_and_are_drawn(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert bench(monkeypatch, tmp_path, "models") == 0
    printed = capsys.readouterr().out
    assert "784-50-100-10" in printed
    assert "…" not in printed
    saved = json.loads((tmp_path / "models.json").read_text())
    assert {r["case"]["arrays"] for r in saved["results"]} == {6}
    assert (tmp_path / "models-float32.png").read_bytes().startswith(PNG)


def test_what_memory_is_too_short_for_is_skipped_with_a_message(monkeypatch, tmp_path, capsys):
    class Memory:
        available = 100_000

    monkeypatch.setattr(updates.psutil, "virtual_memory", Memory)
    assert bench(monkeypatch, tmp_path, "models") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "784-50-100-10, Adam, float32: skipped, needs 0.0 GB of memory" in printed
    assert json.loads((tmp_path / "models.json").read_text())["results"] == []


@pytest.mark.parametrize("rule", RULES)
def test_numpy_as_the_book_writes_it_is_the_twin_without_its_checks(rule):
    rng = np.random.default_rng(8)
    twins = [internals.twin(rule)(), internals.twin(rule)()]
    updates_of = [twins[0].update, internals.update_by_the_book(twins[1])]
    drawn = {"W": rng.standard_normal((3, 5)), "b": rng.standard_normal(7)}
    networks = [drawn, {key: value.copy() for key, value in drawn.items()}]
    for _ in range(5):
        grads = {key: rng.standard_normal(value.shape) for key, value in drawn.items()}
        for update, params in zip(updates_of, networks, strict=True):
            update(params, grads)
    assert differences(*twins, *networks) == []
    for name in (twins[0]._counter, *twins[0]._numbers):
        if name is not None:
            assert getattr(twins[0], name) == getattr(twins[1], name)


def test_the_limit_moves_as_many_arrays_as_the_rule(dtype):
    for slots in (0, 1, 2):
        params, grads = {"W": np.ones(5, dtype)}, {"W": np.full(5, 2, dtype)}
        stream = internals.stream(slots)
        stream.update(params, grads)
        state = [getattr(stream, f"s{i}")["W"][0] for i in range(slots)]
        assert state == [2.0] * slots
        assert params["W"].tolist() == [3.0] * 5


def test_denormals_are_timed_beside_ordinary_state(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(denormals, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(denormals, "ELEMENTS", 100)
    assert bench(monkeypatch, tmp_path, "denormals") == 0
    assert "subnormal" in capsys.readouterr().out
    saved = json.loads((tmp_path / "denormals.json").read_text())["results"]
    assert len(saved) == 2 * (len(BOOK) - 1)  # SGD has no state
    assert all(len(r["times"]) == 6 for r in saved)


def test_few_bits_are_timed_beside_float32(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lowbit, "QUICK_SECONDS", 0.001)
    monkeypatch.setattr(lowbit, "QUICK_SIZES", [4096])
    monkeypatch.setattr(lowbit, "PEERS", {})
    assert bench(monkeypatch, tmp_path, "lowbit") == 0
    assert "8bit, by chance" in capsys.readouterr().out
    for result in json.loads((tmp_path / "lowbit.json").read_text())["results"]:
        assert result["equal"]
        assert {*lowbit.FORMATS, lowbit.LIMIT} == result["times"].keys()
        assert result["state_bytes"] == {
            "float32": 8.0, "bfloat16": 4.0, "8bit": 2.25, "8bit, by chance": 2.25
        }  # fmt: skip


def test_codes_that_differ_are_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(lowbit, "QUICK_SIZES", [4096])
    monkeypatch.setattr(lowbit, "PEERS", {})
    # Another seed has another chance.
    monkeypatch.setattr(
        lowbit.reference, "Adam", functools.partial(zdlfast.reference.Adam, state_seed=1)
    )
    assert bench(monkeypatch, tmp_path, "lowbit") == 1
    printed = capsys.readouterr().out
    assert "NOT EQUAL 4,096 elements: bfloat16: m, array 0 differ" in printed
    assert "NOT EQUAL 4,096 elements: 8bit: " not in printed


# ------------------------------------------------------------------ timing


FAULTS = """
import resource, sys
sys.path.append(sys.argv[1])
import numpy as np
from bench import allocator
kept = allocator.keep_memory()
def temporaries():
    for size in (50_000, 1_000_000, 10_000_000):
        a = np.ones(size)
        a + a * a
temporaries()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
temporaries()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, sep=": ")
"""


@pytest.mark.skipif(allocator.keep_memory() != allocator.KEEPS, reason="not glibc")
def test_temporary_arrays_cost_no_page_faults():
    root = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", FAULTS, root], capture_output=True, text=True)
    kept, faults = done.stdout.rsplit(": ", 1)
    assert kept == allocator.KEEPS
    assert int(faults) < 100


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    assert allocator.keep_memory() == allocator.DEFAULT
    allocator.give_back()


def test_runs_take_turns():
    calls = []
    runs = {name: Run(lambda name=name: calls.append(name)) for name in "AB"}
    samples = interleave(runs, seconds=0.05)
    assert len(samples["A"]) == len(samples["B"]) >= 5
    assert calls[:2] == ["A", "B"]  # once each, to know how long they take
    assert min(min(times) for times in samples.values()) > 0


def test_what_comes_before_a_sample_is_not_timed():
    calls = []
    run = Run(lambda: calls.append("call"), lambda: calls.append("before"))
    assert run.seconds(3) > 0
    assert calls == ["before", "call", "call", "call"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5e-9, "2 ns"), (4.2e-7, "420 ns"), (1e-6, "1.00 µs"), (1.2345e-5, "12.3 µs"),
     (9.996e-4, "1.00 ms"), (0.5, "500 ms"), (0.9999, "1.00 s"), (75.0, "75.0 s")],
)  # fmt: skip
def test_durations_have_three_digits(seconds, text):
    assert report.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "down", "up"),
    [(2.999, "2.99", "3.00"), (2.3, "2.30", "2.30"), (9.999, "9.99", "10.00"),
     (12.39, "12.3", "12.4"), (99.99, "99.9", "100.0"), (1234.5, "1234", "1235"),
     (0.009, "0.00", "0.01"), (float("inf"), "inf", "inf")],
)  # fmt: skip
def test_no_ratio_is_rounded_in_our_favour(value, down, up):
    assert report.ratio(value) == down
    assert report.ratio(value, up=True) == up


# ------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    ("values", "places"),
    [([], []), ([5.0], [5.0]), ([1.0, 3.0], [1.0, 3.0]), ([3.0, 3.0], [2.5, 3.5]),
     ([9.0, 4.0, 4.5, 4.25], [9.0, 3.25, 5.25, 4.25]), ([0.5, 1.2, 1.3], [0.0, 1.0, 2.0])],
)  # fmt: skip
def test_labels_are_moved_as_little_as_it_takes(values, places):
    assert plots.spread(values, 1.0) == pytest.approx(places)


# ------------------------------------------------------------------ peers


def test_peers_are_compared_in_processes_of_their_own(monkeypatch, tmp_path, capsys):
    some = ["limit", "zdlfast", "thinc", "NumPy, out=", "NumPy"]
    monkeypatch.setattr(peers, "PEERS", {name: libraries.PEERS[name] for name in some})
    assert bench(monkeypatch, tmp_path, "peers") == 0
    printed = capsys.readouterr().out
    if importlib.util.find_spec("thinc") is None:
        assert printed.count("thinc: skipped, not installed") == 1
        some.remove("thinc")
    saved = json.loads((tmp_path / "peers.json").read_text())
    counts = updates.thread_counts()
    assert [(r["threads"], r["elements"]) for r in saved["results"]] == [
        (count, size) for count in counts for size in (1000, 3000)
    ]
    for result in saved["results"]:
        assert set(result["times"]) == set(some)
        assert result["equal"] is True
    assert saved["settings"]["versions"]["numpy"] == np.__version__
    assert (tmp_path / "peers.png").read_bytes().startswith(PNG)


def test_peers_are_compared_in_float64_too(monkeypatch, tmp_path, capsys, undrawn):
    some = ["zdlfast", "NumPy"]
    monkeypatch.setattr(peers, "PEERS", {name: libraries.PEERS[name] for name in some})
    assert bench(monkeypatch, tmp_path, "peers", "--float64") == 0
    assert "Adam, float64" in capsys.readouterr().out
    saved = json.loads((tmp_path / "peers.json").read_text())
    assert {r["case"]["dtype"] for r in saved["results"]} == {"float64"}


def test_a_peer_with_other_weights_is_told_and_not_timed(monkeypatch, tmp_path, capsys):
    ask = peers.Worker.ask

    def wrong(self, **command):
        answer = ask(self, **command)
        if "weights" in answer and command["elements"] == 3000 and self is processes[2]:
            answer["weights"][5] += 1e-4
        return answer

    processes = []
    init = peers.Worker.__init__

    def remember(self, *args, **kwargs):
        processes.append(self)
        init(self, *args, **kwargs)

    some = ["zdlfast", "NumPy", "NumPy, out="]
    monkeypatch.setattr(peers, "PEERS", {name: libraries.PEERS[name] for name in some})
    monkeypatch.setattr(peers.Worker, "ask", wrong)
    monkeypatch.setattr(peers.Worker, "__init__", remember)
    assert bench(monkeypatch, tmp_path, "peers") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "NOT EQUAL NumPy, out=: 3,000 elements: weights differ by 0.0001" in printed
    saved = json.loads((tmp_path / "peers.json").read_text())
    assert [len(r["times"]) for r in saved["results"][:2]] == [3, 2]


@pytest.mark.parametrize("name", libraries.PEERS)
def test_every_installed_peer_takes_the_step_of_the_twin(name):
    if name in ("limit", "DeepSpeed CPUAdam"):  # the one is no optimizer, the other compiles
        pytest.skip("not here")
    module = {"JAX, optax": "optax"}.get(name, name.split(",")[0].lower())
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    process = libraries.start(name, 1)
    try:
        for dtype in ("float32", "float64"):
            answer = process.ask(do="prepare", elements=1000, dtype=dtype)
            if name == "thinc" and dtype == "float64":
                assert answer["error"] == "TypeError: only for float32"
                continue
            assert peers.WorkerRun(process, "step").seconds(2) > 0
            assert process.ask(do="drop") == {}
            params, grads = ({"W": array} for array in libraries.arrays(1000, dtype))
            twin = zdlfast.reference.Adam(lr=libraries.LR, eps=libraries.EPS)
            for _ in range(libraries.CHECKED_STEPS):
                twin.update(params, grads)
            away = np.max(np.abs(params["W"] - answer["weights"]))
            assert away < 0.01 * libraries.LR, dtype
    finally:
        process.end()


# ------------------------------------------------------------------ rules


def test_every_rule_is_compared_in_processes_of_their_own(monkeypatch, tmp_path, capsys):
    some = ["limit", "zdlfast", "NumPy"]
    found = {name: rule_libraries.LIBRARIES[name] for name in some}
    monkeypatch.setattr(rules, "LIBRARIES", found)
    assert bench(monkeypatch, tmp_path, "rules") == 0
    printed = capsys.readouterr().out
    for rule in RULES:
        assert f" {rule} " in printed
    saved = json.loads((tmp_path / "rules.json").read_text())
    assert [(r["threads"], r["case"]["rule"], r["elements"]) for r in saved["results"]] == [
        (count, rule, size)
        for count in updates.thread_counts() for rule in RULES for size in (1000, 3000)
    ]  # fmt: skip
    for result in saved["results"]:
        assert set(result["times"]) == set(some)
        assert result["equal"] is True
    assert (tmp_path / "rules.png").read_bytes().startswith(PNG)


def test_a_library_with_other_weights_is_told_and_not_timed(monkeypatch, tmp_path, capsys):
    def wrong(self, **command):
        answer = ask(self, **command)
        if command.get("rule") == "Momentum" and self is processes[-1]:
            answer["after"][5] += 0.01
        return answer

    def remember(self, *args, **kwargs):
        processes.append(self)
        init(self, *args, **kwargs)

    processes, ask, init = [], rules.Worker.ask, rules.Worker.__init__
    some = {name: rule_libraries.LIBRARIES[name] for name in ("NumPy", "zdlfast")}
    monkeypatch.setattr(rules, "LIBRARIES", some)
    monkeypatch.setattr(rules, "RULES", ["SGD", "Momentum"])
    monkeypatch.setattr(rules.Worker, "ask", wrong)
    monkeypatch.setattr(rules.Worker, "__init__", remember)
    assert bench(monkeypatch, tmp_path, "rules") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "NOT EQUAL Momentum, 1,000 elements, 1 thread: zdlfast: weights differ by 0.01" in printed
    )
    saved = json.loads((tmp_path / "rules.json").read_text())
    for result in saved["results"]:
        assert ("zdlfast" in result["times"]) == (result["case"]["rule"] != "Momentum")


@pytest.mark.parametrize("name", ["torch, fused", "torch, foreach", "numba", "JAX, optax"])
def test_every_library_takes_the_steps_of_the_twin(name):
    module = {"JAX, optax": "optax"}.get(name, name.split(",")[0])
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    process = libraries.start(name, 1, "bench.rule_libraries")
    has = []
    try:
        for rule in RULES:
            answer = process.ask(do="prepare", rule=rule, elements=1000)
            assert "error" not in answer, (rule, answer)
            if not answer["has"]:
                continue
            has.append(rule)
            params, grads = ({"W": array} for array in libraries.arrays(1000, "float32"))
            twin, before = internals.twin(rule)(), params["W"].copy()
            for _ in range(libraries.CHECKED_STEPS):
                twin.update(params, grads)
            largest = np.max(np.abs(params["W"] - before))
            assert largest > 0
            away = np.max(np.abs(params["W"] - answer["after"]))
            assert away < rules.AWAY * largest, (rule, away, largest)
    finally:
        process.end()
    assert {"SGD", "Adam"} <= set(has)


# ------------------------------------------------------------------ mpi

NEEDS_MPI = pytest.mark.skipif(launcher.mpiexec() is None, reason="needs mpi4py and an MPI")


@NEEDS_MPI
def test_ranks_are_timed_and_more_are_modelled(monkeypatch, tmp_path, capsys):
    assert bench(monkeypatch, tmp_path, "mpi") == 0
    printed = capsys.readouterr().out
    for text in ("strong", "weak", "a model, not measured", "1,024", "equal bit for bit"):
        assert text in printed
    assert (tmp_path / "mpi.png").read_bytes().startswith(PNG)
    saved = json.loads((tmp_path / "mpi.json").read_text())
    assert len(saved["results"]) == 4
    for result in saved["results"]:
        assert result["equal"] is True
        ranks = int(result["case"]["name"].split()[1])
        least = 2 * (ranks - 1) / ranks * 4 * result["parameters"]
        for sent in result["sent"].values():
            assert least <= sent <= 1.01 * least + 200


@NEEDS_MPI
def test_ranks_with_other_parameters_are_told(monkeypatch, tmp_path, capsys):
    measure = mpi.run

    def different(ranks, **settings):
        return {**measure(ranks, **settings), "equal": ranks == 1}

    monkeypatch.setattr(mpi, "run", different)
    assert bench(monkeypatch, tmp_path, "mpi") == 1
    assert "NOT EQUAL strong, 2 ranks: the parameters differ" in capsys.readouterr().out


def test_the_model_of_ranks_counts_messages_and_bytes():
    model = mpi.Model(latency=1e-3, bandwidth=1e6, gradient=0.5, update=0.25, bytes=1_000_000)
    # One bucket: 2 messages to the other one, and as many for each of two votes.
    assert model.step(2, 4) == pytest.approx(4 * 0.5 + 0.25 + 1.0 + 6e-3)
    assert model.step(1, 4) == pytest.approx(2.25)
    assert model.speed(2, 4) == pytest.approx(8 / model.step(2, 4))


# ------------------------------------------------------------------ compare builds


@pytest.fixture
def kinds(monkeypatch):
    """Three small kinds of update."""
    some = [compare_builds.ONE, compare_builds.THOUSAND, "first 10 × 100"]
    found = {name: compare_builds.KINDS[name] for name in some}
    monkeypatch.setattr(compare_builds, "KINDS", found)
    return found


def test_builds_are_compared_in_processes_of_their_own(monkeypatch, tmp_path, capsys, kinds):
    monkeypatch.setenv("COLUMNS", "80")
    assert bench(monkeypatch, tmp_path, "compare-builds", sys.executable) == 0
    printed = capsys.readouterr().out
    assert "All values: equal bit for bit." in printed
    assert "an array, SGD float32" in printed
    assert "…" not in printed
    saved = json.loads((tmp_path / "compare-builds.json").read_text())
    assert [r["case"]["name"] for r in saved["results"]] == list(kinds)
    for result in saved["results"]:
        assert len(result["ratios"]) == 2
        assert result["times"].keys() == {"old", "new", "old, np.add", "new, np.add"}
    origins = {build["origin"] for build in saved["settings"]["builds"].values()}
    assert origins == {zdlfast.__file__}


def test_builds_whose_values_differ_are_told(monkeypatch, tmp_path, capsys, kinds):
    ask, asked = worker.Worker.ask, []

    def wrong(self, **command):
        answer = ask(self, **command)
        asked.append(command)
        return {**answer, "values": str(len(asked))} if "values" in answer else answer

    monkeypatch.setattr(worker.Worker, "ask", wrong)
    assert bench(monkeypatch, tmp_path, "compare-builds", sys.executable) == 1
    printed = capsys.readouterr().out
    assert f"NOT EQUAL SGD float32 {compare_builds.ONE}: the two builds' values differ" in printed
    assert not any(command["do"] == "time" for command in asked)


def test_a_build_that_fails_is_told(monkeypatch, tmp_path, capsys):
    some = {"no such kind": compare_builds.KINDS[compare_builds.ONE]}
    monkeypatch.setattr(compare_builds, "KINDS", some)
    assert bench(monkeypatch, tmp_path, "compare-builds", sys.executable) == 1
    printed = capsys.readouterr().out
    assert "NOT EQUAL SGD float32 no such kind: old: KeyError: 'no such kind'" in printed
    assert bench(monkeypatch, tmp_path, "compare-builds", str(tmp_path / "python")) == 2


def test_a_python_without_zdlfast_is_told(monkeypatch, tmp_path, capfd, kinds):
    bare = tmp_path / "bare"
    venv.create(bare, symlinks=os.name != "nt")
    python = bare / ("Scripts" if os.name == "nt" else "bin") / "python"
    assert bench(monkeypatch, tmp_path, "compare-builds", str(python)) == 1
    out, err = capfd.readouterr()
    assert "old: its process ended with status 1" in out
    assert "ModuleNotFoundError" in err


@pytest.mark.parametrize("name", compare_builds.KINDS)
def test_every_kind_of_update_is_one_that_can_be_timed(name):
    from bench import build_cases

    if "10,000,000" in name:
        pytest.skip("too large for a test")
    command = {"kind": name, "rule": "Adam", "dtype": "float64"}
    runs, about = build_cases.prepare(command, "here")
    again = build_cases.prepare(command, "here")[1]
    assert about == again
    assert all(run.seconds(2) > 0 for run in runs.values())


def test_what_moved_moved_in_all_pairs():
    def moved(*ratios):
        return compare_builds.Result("kind", "SGD", "float32", ratios=list(ratios)).moved

    assert moved(0.9, 0.8) == "faster"
    assert moved(1.1, 1.2) == "slower"
    assert moved(0.9, 1.1) == ""


# ------------------------------------------------------------------ compare


def figures(path, samples, cpu="a CPU"):
    results = [
        {"case": {"rule": "Adam", "dtype": "float32", "name": name},
         "times": {"zdlfast": {"samples": times}}}
        for name, times in samples.items()
    ]  # fmt: skip
    path.write_text(json.dumps({"machine": {"cpu": cpu}, "results": results}))
    return str(path)


def run_compare(monkeypatch, *files):
    monkeypatch.setattr(sys, "argv", ["bench", "compare", *files])
    return command.main()


def test_compare_marks_what_moved_by_more_than_the_noise(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    old = figures(
        tmp_path / "old.json",
        {"up": [1.0, 1.1, 1.2], "down": [1.0, 1.1, 1.2], "same": [1.0, 1.1, 1.2], "gone": [1.0]},
    )
    new = figures(
        tmp_path / "new.json",
        {"up": [2.0, 2.2, 2.4], "down": [0.5, 0.55, 0.6], "same": [1.1, 1.2, 1.3], "new": [1.0]},
    )
    assert run_compare(monkeypatch, old, new) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {
        word: lines[i + 1]
        for i, line in enumerate(lines)
        for word in ("up", "down", "same")
        if line.split() == ["Adam", "float32", word]
    }
    assert "slower" in rows["up"]
    assert "2.00" in rows["up"]
    assert "faster" in rows["down"]
    assert "0.50" in rows["down"]
    assert not {"slower", "faster"} & set(rows["same"].split())
    assert "1 faster and 1 slower by more than the noise, of 3" in " ".join(lines)
    assert not any("not the same" in line for line in lines)


def test_compare_tells_of_another_machine(monkeypatch, tmp_path, capsys):
    old = figures(tmp_path / "old.json", {"x": [1.0]})
    new = figures(tmp_path / "new.json", {"x": [1.0]}, cpu="another CPU")
    assert run_compare(monkeypatch, old, new) == 0
    assert "not the same cpu: a CPU and another CPU" in capsys.readouterr().out


def test_compare_names_the_time_that_is_none(monkeypatch, tmp_path, capsys):
    good = figures(tmp_path / "good.json", {"x": [1.0]})
    for value in (0.0, float("inf")):
        bad = figures(tmp_path / "bad.json", {"x": [1.0], "y": [1.0, value]})
        monkeypatch.setenv("COLUMNS", "300")
        assert run_compare(monkeypatch, good, bad) == 2
        text = f"Adam float32 y zdlfast: {value}, expected a positive, finite time"
        assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [None, "no JSON", "[]", "{}", '{"machine": null, "results": []}', "[" * 100_000,
     '{"machine": {}, "results": [{}]}', '{"machine": {}, "results": [{"case": {}, "times": 1}]}',
     '{"machine": {}, "results": [{"case": {}, "times": {"x": {"samples": []}}}]}',
     '{"machine": {}, "results": [{"case": {}, "times": {"x": {"samples": [0]}}}]}',
     '{"machine": {}, "results": [{"case": {}, "times": {"x": {"samples": [1e999]}}}]}',
     '{"machine": {}, "results": [{"case": {}, "times": {"x": {"samples": [NaN]}}}]}',
     '{"machine": {}, "results": [{"case": {}, "times": {"x": {"samples": [1e0]}}}]}'.replace(
         "1e0", "1" + "0" * 400)],
)  # fmt: skip
def test_compare_refuses_what_are_no_figures(monkeypatch, tmp_path, capsys, content):
    good = figures(tmp_path / "good.json", {"x": [1.0]})
    bad = tmp_path / "[bold]bad.json"
    if content is not None:
        bad.write_text(content)
    assert run_compare(monkeypatch, good, str(bad)) == 2
    assert "[bold]bad.json" in "".join(capsys.readouterr().out.split("\n"))


# ------------------------------------------------------------------ torch


def test_torch_times_steps_and_loops_of_networks(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch")
    monkeypatch.setenv("COLUMNS", "80")
    assert bench(monkeypatch, tmp_path, "torch") == 0
    printed = capsys.readouterr().out
    assert "forward, backward and step" in printed
    assert "…" not in printed
    saved = json.loads((tmp_path / "torch.json").read_text())
    assert [(r["case"]["what"], r["tensors"], r["elements"]) for r in saved["results"]] == [
        ("step", 6, 4866),
        ("loop", 6, 4866),
    ]
    for result in saved["results"]:
        assert set(result["times"]) == {"torch, default", "torch, fused", "zdlfast"}
    assert (tmp_path / "torch.png").read_bytes().startswith(PNG)


def test_torch_times_nothing_that_is_not_equal(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(internals, "twin", lambda rule: zdlfast.reference.Adam)
    assert bench(monkeypatch, tmp_path, "torch") == 1
    assert "NOT EQUAL 8-64-64-2, 1 thread: parameter 0 differ in" in capsys.readouterr().out
    results = json.loads((tmp_path / "torch.json").read_text())["results"]
    assert [result["times"] for result in results] == [{}, {}]


def test_torch_says_that_it_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert bench(monkeypatch, tmp_path, "torch") == 2
    assert "torch" in capsys.readouterr().out


# ------------------------------------------------------------------ the job machine


@pytest.fixture
def machines(monkeypatch, tmp_path):
    """Where the job adds its figures: not this repository's own documents."""
    document = tmp_path / "machines.md"
    document.write_text(
        "Before.\n<!-- tuning of bench/machines -->\nold\n<!-- end -->\nBetween.\n"
        "<!-- trainings of bench/machines -->\nold\n<!-- end -->\nAfter.\n"
    )
    monkeypatch.setattr(machine, "MACHINES", tmp_path / "machines")
    monkeypatch.setattr(machine, "DOCUMENTS", [document])
    return document


def test_machine_measures_with_and_without_each_thing(monkeypatch, tmp_path, capsys, machines):
    before = internals.get_tuning()
    with zdlfast.threads(2):
        assert bench(monkeypatch, tmp_path, "machine") == 0
    assert internals.get_tuning() == before
    assert zdlfast.build_info()["simd"] in capsys.readouterr().out
    saved = json.loads((tmp_path / "machine.json").read_text())
    assert {r["case"]["name"] for r in saved["results"]} == {t.name for t in machine.TRIALS}
    for result in saved["results"]:
        assert result["times"].keys() == {"with", "without"}
    assert saved["settings"]["tuning"] == before
    assert "old" in machines.read_text()
    assert not machine.MACHINES.exists()


def test_machine_adds_a_file_of_this_cpu_and_a_column(monkeypatch, tmp_path, capsys, machines):
    with zdlfast.threads(1):
        assert bench(monkeypatch, tmp_path, "machine", "--add") == 0
    (path,) = machine.MACHINES.iterdir()
    about = json.loads(path.read_text())
    text = machines.read_text()
    assert machine.title(about) in text
    assert "old" not in text
    assert text.startswith("Before.\n")
    assert "\nBetween.\n" in text
    assert text.endswith("After.\n")
    for trial in machine.TRIALS:
        ratios = [r["ratio"] for r in about["tuning"] if r["what"] == trial.name]
        assert len(ratios) == (0 if trial.threads else len(machine.RULES) * 2)
        assert ratios == [] or f"{min(ratios):.2f}" in text
    assert about["trainings"] == {}


def test_machine_adds_the_trainings_that_ran_here(
    monkeypatch, tmp_path, capsys, machines, undrawn
):
    assert bench(monkeypatch, tmp_path, "training") == 0
    (tmp_path / "training.json").rename(tmp_path / "bench.json")
    assert bench(monkeypatch, tmp_path, "machine", "--add") == 0
    (path,) = machine.MACHINES.iterdir()
    assert json.loads(path.read_text())["trainings"].keys() == set(BOOK)
    assert "\n| Adam | " in machines.read_text()
    saved = json.loads((tmp_path / "bench.json").read_text())
    saved["machine"]["cpu"] = "another"
    (tmp_path / "bench.json").write_text(json.dumps(saved))
    assert bench(monkeypatch, tmp_path, "machine", "--add") == 0
    assert json.loads(path.read_text())["trainings"] == {}


def test_machine_fails_if_a_bit_differs(monkeypatch, tmp_path, capsys, machines):
    monkeypatch.setattr(zdlfast, "Momentum", OffByOneBit)
    monkeypatch.setattr(machine, "RULES", ["Momentum"])
    assert bench(monkeypatch, tmp_path, "machine", "--add") == 1
    assert "NOT EQUAL" in capsys.readouterr().out
    assert "old" in machines.read_text()


# ------------------------------------------------------------------ the documents


def test_tables_are_pasted_where_a_document_asks_for_them(tmp_path):
    (tmp_path / "a.txt").write_text("new a  \nsecond line\n", "utf-8")
    (tmp_path / "b.txt").write_text("new b\n", "utf-8")
    document = (
        "# Title\n\n<!-- from a.txt -->\n```text\nold\n```\n\nText.\n"
        "```text\nother\n```\n<!-- from b.txt -->\n```text\n```\nEnd.\n"
    )
    assert readme.paste(document, tmp_path) == (
        "# Title\n\n<!-- from a.txt -->\n```text\nnew a\nsecond line\n```\n\nText.\n"
        "```text\nother\n```\n<!-- from b.txt -->\n```text\nnew b\n```\nEnd.\n"
    )


def test_the_documents_ask_for_files_that_the_jobs_make():
    asked = [
        m["file"] for d in readme.DOCUMENTS for m in readme.BLOCK.finditer(d.read_text("utf-8"))
    ]
    assert sorted(set(asked)) == [
        "bench.txt",
        "denormals.txt",
        "kernels.txt",
        "lowbit.txt",
        "models.txt",
        "mpi.txt",
        "peers.txt",
    ]
    for figure in readme.FIGURES.glob("*.png"):
        assert figure.read_bytes().startswith(PNG)
        assert any(figure.name in document.read_text("utf-8") for document in readme.DOCUMENTS)


def test_readme_leaves_the_documents_alone_if_a_job_fails(monkeypatch, tmp_path):
    document = tmp_path / "README.md"
    document.write_text("<!-- from bench.txt -->\n```text\nold\n```\n", "utf-8")
    monkeypatch.setattr(readme, "DOCUMENTS", [document])
    monkeypatch.setattr(readme, "FIGURES", tmp_path / "none")

    def measure(options, console):
        report.publish(console, options.out, "bench", [table], {}, [], {}, True)
        return 0

    def fail(options, console):
        return 1

    table = report.make_table("Adam", ["µs"])
    monkeypatch.setattr(command, "PUBLISHED", [measure, fail])
    assert bench(monkeypatch, tmp_path, "readme") == 1
    assert (tmp_path / "bench.txt").exists()
    assert "old" in document.read_text("utf-8")
    monkeypatch.setattr(command, "PUBLISHED", [measure])
    assert bench(monkeypatch, tmp_path, "readme") == 0
    assert "old" not in document.read_text("utf-8")
    assert "Adam" in document.read_text("utf-8")


def test_it_runs_as_a_module(tmp_path):
    root = str(Path(__file__).parents[1])
    code = (
        f"import runpy, sys; sys.path.append({root!r}); sys.argv = ['bench', '--help']\n"
        "runpy.run_module('bench', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m bench")
