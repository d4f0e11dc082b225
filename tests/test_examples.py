"""The examples: the notebook's cells run, one after the other, and say what they should."""

import ast
import json
from pathlib import Path

import pytest

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
