"""The studies: each runs by its command, and finds the numbers that are known."""

import importlib
import json
import math
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from threadpoolctl import threadpool_limits

from zdlfast.nn import Affine
from zdlfast.studies import STUDIES, bias_correction, hyperparameters, initialization, trajectories
from zdlfast.studies import __main__ as command
from zdlfast.studies._study import Setup, label_ends, make_figure, running_median

QUICK = {
    "optimizers": {"QUICK_STEPS": 5, "QUICK_SEEDS": 2},
    "modern_optimizers": {"QUICK_STEPS": 5},
    "minibatch": {"QUICK_STEPS": 30, "CHECKED": 20},
    "initialization": {"QUICK_STEPS": 5},
    "batchnorm": {"QUICK_EPOCHS": 1},
    "regularization": {"QUICK_EPOCHS": 3},
    "low_bit_state": {"QUICK_STEPS": 3},
    "hyperparameters": {"QUICK_SIDE": 3, "QUICK_EPOCHS": 1, "FIRST": 4},
}


@pytest.fixture(autouse=True)
def _one_after_the_other():
    """Trainings are too small here to start processes for, and BLAS's threads."""
    with joblib.parallel_config(backend="sequential"), threadpool_limits(1):
        yield


def study(name):
    return importlib.import_module(f"zdlfast.studies.{name}")


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["studies", *map(str, args)])
    return command.main()


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_prints_a_finding_and_saves_picture_and_numbers(
    monkeypatch, tmp_path, capsys, name
):
    for setting, value in QUICK.get(name, {}).items():
        monkeypatch.setattr(study(name), setting, value)
    assert run(monkeypatch, name, "--quick", "--seed", 3, "--out", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert STUDIES[name].split()[0] in printed
    assert (tmp_path / f"new/{name}.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / f"new/{name}.json").read_text())
    assert saved["study"] == name
    assert saved["settings"] == {"seed": 3, "data": "digits", "quick": True}
    assert saved["finding"].split()[0] in printed
    assert saved["result"]


def test_without_a_name_they_are_listed(monkeypatch, capsys):
    assert run(monkeypatch) == 0
    printed = capsys.readouterr().out
    for name, summary in STUDIES.items():
        assert f"{name} {summary}" in " ".join(printed.split())


def test_help_names_the_studies_and_options(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(monkeypatch, "--help")
    printed = capsys.readouterr().out
    for word in (*STUDIES, "--out", "--seed", "--data", "--quick", "all"):
        assert word in printed


def test_all_runs_all(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(command, "run", lambda name, *args: ran.append(name))
    assert run(monkeypatch, "all", "--out", tmp_path) == 0
    assert ran == list(STUDIES)


def test_a_wrong_name_or_folder_is_told(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "nonsense")
    assert "nonsense" in capsys.readouterr().err
    assert run(monkeypatch, "minibatch", "--quick", "--data", tmp_path, "--out", tmp_path) == 1
    assert "train-images-idx3-ubyte" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "5000000000", "one"])
def test_a_wrong_seed_is_told(monkeypatch, capsys, seed):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "trajectories", "--seed", seed)
    assert "--seed" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_told(monkeypatch, tmp_path, capsys):
    (tmp_path / "[x]").write_text("")
    assert run(monkeypatch, "trajectories", "--out", tmp_path / "[x]") == 1
    assert "[x]" in capsys.readouterr().err


def test_an_interrupted_training_is_no_result(monkeypatch):
    from zdlfast.studies import regularization

    def interrupted(self, *args):
        return type("History", (), {"complete": False})()

    monkeypatch.setattr(regularization.Trainer, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        regularization.compute(Setup(quick=True))


def test_ctrl_c_is_no_traceback(monkeypatch, tmp_path, capsys):
    def interrupted(setup):
        raise KeyboardInterrupt

    monkeypatch.setattr(trajectories, "compute", interrupted)
    assert run(monkeypatch, "trajectories", "--out", tmp_path) == 130
    assert "trajectories: interrupted" in capsys.readouterr().err


def start(*args, code="pass", **environment):
    """Run the command in a process of its own."""
    arguments = [
        "-c",
        f"{code}; import runpy; runpy.run_module('zdlfast.studies', None, '__main__')",
    ]
    return subprocess.run(
        [sys.executable, *arguments, *map(str, args)],
        env={**os.environ, **environment}, capture_output=True, timeout=300,
    )  # fmt: skip


WITHOUT = "import sys; sys.modules.update(dict.fromkeys(({}), None))"
EXTRA = "'matplotlib', 'cycler', 'rich', 'sklearn', 'scipy', 'joblib', 'threadpoolctl'"


def test_they_are_listed_with_numpy_alone():
    for args in ((), ("--help",)):
        done = start(*args, code=WITHOUT.format(EXTRA))
        assert done.returncode == 0, done.stderr
        for name in STUDIES:
            assert name.encode() in done.stdout


@pytest.mark.parametrize("missing", ["matplotlib", "rich", "sklearn"])
def test_what_is_missing_is_told(tmp_path, missing):
    done = start("minibatch", "--quick", "--out", tmp_path, code=WITHOUT.format(f"'{missing}',"))
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: ")
    assert missing.replace("sklearn", "scikit-learn") in line
    assert "pip install '.[studies]'" in line


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "cp932"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["cp932", "ascii", "C"],
)
def test_output_that_cannot_show_all_characters_is_no_error(tmp_path, environment):
    listed = start(**environment)
    assert listed.returncode == 0, listed.stderr
    assert b"x^2/20 + y^2" in listed.stdout
    done = start("bias_correction", "--out", tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert b"0.1022" in done.stdout
    assert (tmp_path / "bias_correction.png").exists()
    saved = json.loads((tmp_path / "bias_correction.json").read_text(encoding="ascii"))
    assert "divided by 1 - beta**t" in saved["result"]["paths"]


def test_results_are_saved_before_they_are_shown(monkeypatch, tmp_path):
    from rich.table import Table

    def fails(*args, **kwargs):
        raise ValueError("cannot be shown")

    monkeypatch.setattr(Table, "__rich_console__", fails)
    assert run(monkeypatch, "trajectories", "--out", tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == ["trajectories.json", "trajectories.png"]


def test_results_that_cannot_be_saved_are_shown(monkeypatch, tmp_path, capsys):
    def fails(result):
        raise OSError("no space left")

    monkeypatch.setattr(trajectories, "draw", fails)
    assert run(monkeypatch, "trajectories", "--out", tmp_path) == 1
    printed = capsys.readouterr()
    assert "SGD zigzags" in printed.out
    assert "no space left" in printed.err


@pytest.mark.parametrize("name", ["minibatch", "optimizers"])
def test_the_same_seed_gives_the_same_numbers(monkeypatch, name):
    for setting, value in QUICK[name].items():
        monkeypatch.setattr(study(name), setting, value)
    first, second, other = (study(name).compute(Setup(seed, quick=True)) for seed in (1, 1, 2))
    for key, losses in first.losses.items():
        assert np.array_equal(losses, second.losses[key])
        assert not np.array_equal(losses, other.losses[key])


def test_numbers_become_json():
    values = {"a": np.arange(2), 1: (np.float32(0.5), math.inf, "x", None, True)}
    assert command.plain(values) == {"a": [0, 1], "1": [0.5, None, "x", None, True]}


def test_a_running_median_forgets_single_spikes():
    values = np.array([1.0, 2.0, 900.0, 4.0, 5.0, 6.0])
    np.testing.assert_array_equal(running_median(values, 3), [np.nan, 2.0, 4.0, 5.0, 5.0, np.nan])
    assert running_median(values, 4).shape == values.shape
    np.testing.assert_array_equal(running_median(values[:2], 5), [np.nan, 1.5])


def test_names_saturated_of_lines_do_not_overlap():
    ax = make_figure(3.0, "title").subplots()
    values = {"a": [1.0, 5.0], "b": [1.0, 5.1], "c": [0.0, np.nan], "d": [np.nan, np.nan]}
    lines = {name: ax.plot(y)[0] for name, y in values.items()}
    label_ends(ax, lines, gap=0.1)
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert list(heights) == ["c", "a", "b"]
    assert heights["b"] == pytest.approx(heights["a"] + 0.1)


# ------------------------------------------------------------------ what they find


@pytest.mark.parametrize(
    ("name", "end", "crossings"),
    [
        ("SGD", (-0.3503929957523197, 0.0847823165504322), 30),
        ("Momentum", (0.896413858493733, 0.08808560171506971), 4),
        ("Nesterov", (0.6896149016966209, -0.0006799058361171969), None),
        ("AdaGrad", (-0.12016232231416045, 2.486e-17), 0),
        ("RMSprop", (-0.15391, 3.0e-17), None),
        ("Adam", (0.13600685239498186, 0.31824537553721943), None),
    ],
)
def test_trajectories_end_where_they_should(name, end, crossings):
    path = trajectories.compute(Setup()).paths[name]
    assert path.shape == (31, 2)
    assert tuple(path[0]) == (-7.0, 2.0)
    tolerance = 1e-5 if name == "RMSprop" else 1e-12
    assert path[-1] == pytest.approx(end, abs=tolerance)
    if crossings is not None:
        assert np.count_nonzero(np.diff(np.sign(path[:, 1]))) == crossings


def test_the_bias_correction_needs_its_power():
    result = bias_correction.compute(Setup())
    heights = [float(trajectories.valley(*path[-1])) for path in result.paths.values()]
    assert heights == pytest.approx([0.1022, 0.1476], abs=5e-5)
    true, prose = result.paths.values()
    assert np.array_equal(true[:1], prose[:1])
    assert true[1] == pytest.approx(prose[1], rel=1e-12)
    assert np.abs(true - prose).max() == pytest.approx(3.15, abs=0.005)


def test_initial_weights_make_the_activations_that_are_known(monkeypatch):
    monkeypatch.setattr(initialization, "STEPS", 1)
    result = initialization.compute(Setup(seed=0))
    assert result.saturated["std 1"] == pytest.approx(0.498, abs=5e-4)
    assert result.near_half["std 0.01"] == 1.0
    sigmoid, relu = (
        {label: stds[-1] for label, stds in result.stds[name].items()}
        for name in ("sigmoid", "ReLU")
    )
    assert sigmoid["std 0.01"] == pytest.approx(0.0115, abs=5e-5)
    assert sigmoid["Xavier"] == pytest.approx(0.116, abs=5e-4)
    assert relu["std 0.01"] == pytest.approx(2e-6, abs=5e-7)
    assert relu["Xavier"] == pytest.approx(0.177, abs=5e-4)
    assert relu["He"] == pytest.approx(1.00, abs=5e-3)
    assert result.zero_rank == 1
    for shares in result.histograms["tanh"].values():
        np.testing.assert_allclose(shares.sum(axis=1), 1.0)


# ------------------------------------------------------------------ searches


def test_a_failed_trial_is_recorded_and_does_not_end_the_search(monkeypatch):
    (x, t), _ = Setup().images
    trial = hyperparameters.train(x[:200], t[:200], 1, 0, lr=-1.0, weight_decay=0.0)
    assert trial.accuracy is None
    assert trial.error == "ValueError: lr must be >= 0 and finite, got -1.0"
    diverged = hyperparameters.train(x[:200], t[:200], 3, 0, lr=1e200, weight_decay=0.0)
    assert diverged.accuracy is None
    assert diverged.error
    trials = hyperparameters.run(
        Setup(quick=True), [{"lr": 1e200, "weight_decay": 1e-8}, {"lr": 0.1, "weight_decay": 1e-8}]
    )
    assert [trial.accuracy is None for trial in trials] == [True, False]
    candidates = [{"lr": 1e-3, "weight_decay": 1e-5}, {"lr": 1e-6, "weight_decay": 1e-8}]
    assert hyperparameters.propose(trials, candidates) in candidates


def test_all_searches_have_the_same_budget(monkeypatch):
    for setting, value in QUICK["hyperparameters"].items():
        monkeypatch.setattr(hyperparameters, setting, value)
    trials = hyperparameters.compute(Setup(quick=True)).trials
    assert {len(of_search) for of_search in trials.values()} == {9}
    assert len({trial.lr for trial in trials[hyperparameters.GRID]}) == 3
    assert len({trial.lr for trial in trials[hyperparameters.RANDOM]}) == 9
    first = hyperparameters.FIRST
    assert trials[hyperparameters.BAYES][:first] == trials[hyperparameters.RANDOM][:first]
    for of_search in trials.values():
        for trial in of_search:
            for name, (low, high) in hyperparameters.RANGES.items():
                assert low * 0.999 <= getattr(trial, name) <= high * 1.001


def test_the_model_finds_the_maximum_of_the_example():
    models = list(hyperparameters.optimize_example())
    places = hyperparameters.PLACES
    highest = places[np.argmax(hyperparameters.example(places))]
    last = models[-1]
    assert len(last.x) == hyperparameters.EVALUATIONS
    assert abs(last.x[np.argmax(last.y)] - highest) <= 0.05
    for model in models[:-1]:
        at = np.argmin(np.abs(places - model.following))
        upper = model.mean + hyperparameters.CAUTION * model.std
        assert upper[at] == upper.max()


def test_trials_run_on_whatever_back_end_joblib_is_told(monkeypatch):
    monkeypatch.setattr(hyperparameters, "QUICK_EPOCHS", 1)
    points = [{"lr": 0.1, "weight_decay": 0.0}] * 2
    trials = hyperparameters.run(Setup(quick=True), points)
    get_reusable_executor().shutdown(wait=True)  # of other tests: its processes end when idle
    for backend in ("loky", "threading"):
        with joblib.parallel_config(backend=backend):
            assert trials == hyperparameters.run(Setup(quick=True), points)
    get_reusable_executor().shutdown(wait=True)


CLUSTER = """
import json, os, signal, sys
from dask.distributed import LocalCluster
from zdlfast.studies import hyperparameters
from zdlfast.studies import __main__ as command
from zdlfast.studies._study import Setup

hyperparameters.QUICK_EPOCHS = 1

def points(cluster):
    for i in range(12):
        if i == 6:      # trials are under way on both
            os.kill(list(cluster.workers.values())[0].process.pid, signal.SIGKILL)
        yield {"lr": 0.01 * (i + 1), "weight_decay": 0.0}

def trials(setup, cluster):
    with hyperparameters.back_end(setup.scheduler):
        return [vars(trial) for trial in hyperparameters.run(setup, points(cluster))]

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        found = trials(Setup(quick=True, scheduler=address), cluster)
        sys.argv = ["studies", "hyperparameters", "--quick", "--scheduler", address,
                    "--out", sys.argv[1]]
        hyperparameters.QUICK_SIDE, hyperparameters.FIRST = 2, 2
        status = command.main()
    print("found", json.dumps([status, found]))
"""


def test_no_trial_is_lost_with_a_worker_of_a_cluster(monkeypatch, tmp_path):
    pytest.importorskip("distributed")
    monkeypatch.setattr(hyperparameters, "QUICK_EPOCHS", 1)
    (tmp_path / "script.py").write_text(CLUSTER)
    done = subprocess.run(
        [sys.executable, "script.py", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert lines, done.stderr
    status, trials = json.loads(lines[0].removeprefix("found "))
    points = [{"lr": 0.01 * (i + 1), "weight_decay": 0.0} for i in range(12)]
    expected = hyperparameters.run(Setup(quick=True), points)
    assert trials == [vars(trial) for trial in expected]
    assert status == 0
    saved = json.loads((tmp_path / "out" / "hyperparameters.json").read_text())
    assert [len(of_search) for of_search in saved["result"]["trials"].values()] == [4, 4, 4]


def test_a_scheduler_that_is_not_there_or_not_used_is_told(monkeypatch, tmp_path, capsys):
    pytest.importorskip("distributed")
    monkeypatch.setattr(hyperparameters, "CONNECT", 0.5)
    with pytest.raises(SystemExit):
        run(monkeypatch, "batchnorm", "--scheduler", "tcp://127.0.0.1:1", "--out", tmp_path)
    assert "--scheduler is for hyperparameters" in capsys.readouterr().err
    assert run(monkeypatch, "hyperparameters", "--scheduler", "tcp://127.0.0.1:1",
               "--out", tmp_path) == 1  # fmt: skip
    assert "tcp://127.0.0.1:1" in capsys.readouterr().err


def test_setup_draws_the_same_numbers_for_the_same_purpose():
    setup = Setup(seed=4)
    assert setup.rng(1).random() == Setup(seed=4).rng(1).random()
    assert setup.rng(1).random() != setup.rng(2).random()
    assert Affine(3, 2, rng=setup.rng(1)).params["W"].shape == (3, 2)
