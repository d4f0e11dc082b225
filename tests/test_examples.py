"""The examples: the notebook's cells run, one after the other, and say what they should."""

import ast
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import zdlfast

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


@pytest.fixture
def cells():
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


@pytest.fixture
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    before = matplotlib.get_backend()
    matplotlib.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")
    matplotlib.use(before)


def test_the_notebook_runs(cells, pyplot, monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    shown = []
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]), f"cell {i}")
            # Jupyter shows what the last line of a cell is.
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, f"cell {i}", "exec"), names)
            if last:
                shown.append(eval(compile(ast.Expression(last.value), f"cell {i}", "eval"), names))
    assert True in shown  # the same bits as NumPy
    assert names["history"].test_accuracy[-1] > 0.9
    assert names["optimizer"].iter == len(names["history"].loss)
    assert len(pyplot.get_fignums()) == 2


def test_the_notebook_holds_no_output(cells):
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def test_the_adapter_for_thinc_takes_its_steps(monkeypatch):
    """To rounding: thinc's own Adam is a call of BLAS."""
    optimizers = pytest.importorskip("thinc.optimizers")
    monkeypatch.syspath_prepend(NOTEBOOK.parent)
    adapter = importlib.import_module("thinc_adapter").adapter

    def train():
        rng = np.random.default_rng(8)
        optimizer = optimizers.Optimizer(0.01, L2=0.01, grad_clip=1.0)
        weights = {key: rng.standard_normal((5, key)).astype("f4") for key in (3, 40)}
        for _ in range(20):
            for key, array in weights.items():
                optimizer((key, "W"), array, rng.standard_normal(array.shape).astype("f4"))
        return weights, optimizer

    expected, theirs = train()
    monkeypatch.setattr(zdlfast.Adam, "update", counted := Counted(zdlfast.Adam.update))
    with zdlfast.patched(adapter):
        found, ours = train()
    assert counted.calls == 40
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, atol=1e-5)
        for slot in ("mom1", "mom2"):
            one, other = (getattr(each, slot)[key, "W"] for each in (ours, theirs))
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


class Counted:
    """A method that counts its calls."""

    def __init__(self, method):
        self.method, self.calls = method, 0

    def __get__(self, instance, owner=None):
        def call(*args):
            self.calls += 1
            return self.method(instance, *args)

        return call
