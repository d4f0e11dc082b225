"""The benchmark: it runs, it saves what it says, and it fails loudly if a bit differs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))

import zdlfast
from bench import __main__ as command
from bench.network import Digits, Network
from bench.training import OPTIMIZERS


def run(monkeypatch, folder, *args):
    monkeypatch.setattr(command, "QUICK_STEPS", 5)
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--out", str(folder), *args])
    return command.main()


def test_it_prints_a_table_and_saves_pictures_and_figures(monkeypatch, tmp_path, capsys, dtype):
    assert run(monkeypatch, tmp_path / "new" / "folder", "--dtype", dtype.name) == 0
    printed = capsys.readouterr().out
    for name in OPTIMIZERS:
        assert name in printed
    assert "equal bit for bit" in printed
    assert dtype.name in printed
    folder = tmp_path / "new" / "folder"
    for picture in ("losses.png", "ratios.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    saved = json.loads((folder / "bench.json").read_text())
    assert saved["machine"]["zdlfast"] == zdlfast.build_info()
    assert saved["settings"]["dtype"] == dtype.name
    assert [r["optimizer"] for r in saved["results"]] == list(OPTIMIZERS)
    for result in saved["results"]:
        assert result["equal"] is True
        assert len(result["losses"]) == len(result["numpy"]["update_seconds"]) == 5
        low, median, high = result["zdlfast"]["update_seconds_quartiles"]
        assert 0 < low <= median <= high
        assert result["update_ratio"] > 0


def test_it_fails_loudly_if_a_bit_differs(monkeypatch, tmp_path, capsys):
    class OffByOneBit(zdlfast.Momentum):
        def update(self, params, grads):
            super().update(params, grads)
            params["b3"][0] = np.nextafter(params["b3"][0], 1)

    monkeypatch.setattr(zdlfast, "Momentum", OffByOneBit)
    assert run(monkeypatch, tmp_path) == 1
    printed = capsys.readouterr().out
    assert "NOT EQUAL Momentum: the final weights b3 differ in" in printed
    assert "NOT EQUAL Adam" not in printed
    saved = json.loads((tmp_path / "bench.json").read_text())
    assert [r["equal"] for r in saved["results"]] == [name != "Momentum" for name in OPTIMIZERS]


def test_help_explains_columns_and_files(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--help"])
    with pytest.raises(SystemExit, match="0"):
        command.main()
    printed = capsys.readouterr().out
    for word in ("--quick", "--dtype", "--out", "ratio", "bench.json", "exit status"):
        assert word in printed


def test_the_network_has_the_gradient_of_its_loss():
    data, network = Digits(np.float64), Network(np.float64, seed=1)
    x, t = data.x_train[:7], data.t_train[:7]
    for value in network.params.values():
        value *= 5  # away from the flat start
    _, grads = network.gradient(x, t)
    rng = np.random.default_rng(0)
    for key, value in network.params.items():
        for index in rng.integers(0, value.size, 4):
            slope = []
            for h in (1e-5, -1e-5):
                value.flat[index] += h
                slope.append(7 * network.gradient(x, t)[0])
                value.flat[index] -= h
            numeric = (slope[0] - slope[1]) / 2e-5
            assert grads[key].flat[index] == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def test_the_data_is_split_and_scaled():
    data = Digits(np.float32)
    assert data.x_train.shape == (1500, 784)
    assert data.x_test.shape == (297, 784)
    assert data.x_train.dtype == data.t_train.dtype == np.float32
    assert data.x_train.min() == 0.0
    assert data.x_train.max() == 1.0
    assert np.all(data.t_test.sum(axis=1) == 1)
