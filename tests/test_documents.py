"""The documents: their code runs, and prints what they say."""

import contextlib
import io
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))

import zdlfast
from bench.jobs import machine
from zdlfast._rules import PUBLIC

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"^ *print\(.*\)\s+# (.*)$", re.MULTILINE)


def blocks(document):
    return BLOCK.findall(document.read_text("utf-8"))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: d.name)
def test_the_code_of_a_document_runs_and_prints_what_it_says(document, monkeypatch, tmp_path):
    monkeypatch.setattr(zdlfast, "patch", lambda: None)  # would last
    monkeypatch.chdir(tmp_path)  # for files that are saved
    names = {
        "zdlfast": zdlfast,
        "optimizer": zdlfast.SGD(),
        "params": {"W": np.ones(3)},
        "grads": {"W": np.ones(3)},
    }
    before = zdlfast.get_num_threads()
    try:
        for block in blocks(document):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, str(document), "exec"), names)
            if expected := PRINTED.findall(block):
                assert printed.getvalue().splitlines() == expected
    finally:
        zdlfast.set_num_threads(before)


def test_the_recipes_commands_for_zdlfast_run(tmp_path):
    commands = re.findall(
        r"^python (-m zdlfast .*)$", (ROOT / "docs/recipes.md").read_text("utf-8"), re.MULTILINE
    )
    assert commands
    for command in commands:
        subprocess.run([sys.executable, *shlex.split(command)], check=True, cwd=tmp_path)


READMES = [ROOT / "README.md", ROOT / "README.ja.md"]


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_the_headline_says_what_the_table_says(readme):
    text = readme.read_text("utf-8")
    headline = text[: text.index("<!-- command: bench -->")]
    table = text[text.index("<!-- from bench.txt -->") :]
    whole = table[: table.index("one update of one array")]

    def ratios(optimizer):  # of the update, and of the training
        row = re.search(rf"^ {optimizer} .*$", whole, re.MULTILINE)[0].split()
        return float(row[5]), float(row[10])  # each time is two words

    update, training = zip(*map(ratios, ("SGD", "Adam")), strict=True)
    assert str(math.floor(update[1] * 10) / 10) in headline  # not rounded up
    for ratio in training:
        assert f"{math.floor(round(ratio * 100 - 100, 6))} %" in headline
    cpu, simd, threads = re.search(r"^on (.*), (\w+), (\d+) threads", table, re.MULTILINE).groups()
    for word in re.sub(r"\(.*?\)|CPU|Processor|@.*", "", cpu).split():
        assert word in headline
    assert {"avx512": "AVX-512", "avx2": "AVX2", "baseline": "baseline"}[simd] in headline
    assert threads in headline


@pytest.mark.parametrize("document", machine.DOCUMENTS, ids=lambda document: document.name)
def test_the_table_of_machines_has_the_figures_of_their_files(document):
    text = document.read_text("utf-8")
    machines = machine.read(machine.MACHINES)
    assert machine.paste(text, machines) == text
    assert machine.paste(text, []) != text
    for about in machines:
        assert {trial.name for trial in machine.TRIALS} >= {r["what"] for r in about["tuning"]}


def test_both_readmes_have_the_same_content():
    english, japanese = (readme.read_text("utf-8") for readme in READMES)

    def skeleton(text):
        return (
            re.findall(r"^(#+) ", text, re.MULTILINE),
            re.findall(r"^```(\w+)$", text, re.MULTILINE),
            re.findall(r"<!-- (.*?) -->", text),
            re.findall(
                r"\]\(([^)]*)\)", text.replace("README.ja.md", "").replace("README.md", "")
            ),
        )

    assert skeleton(english) == skeleton(japanese)


def test_the_page_of_optimizers_has_a_row_for_every_rule():
    """With its own options, its default rate, and bytes for each float32 element."""
    text = (ROOT / "docs/which_optimizer.md").read_text("utf-8")
    rows = {}
    for line in re.findall(r"^\| `\w+` \| .*\|$", text, re.MULTILINE):
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if len(cells) == 6:  # not the table of options
            rows[name.strip("`")] = cells
    assert list(rows) == list(PUBLIC)
    for name, (_, lr, options, state, moved, _) in rows.items():
        rule = PUBLIC[name]
        own = [*rule.options, *(flag for flag, slots in rule.flags.items() if slots)]
        assert re.findall(r"`(\w+)`", options) == own[1:], name
        assert float(lr) == rule.twin().lr, name
        assert int(state) == 4 * len(rule.slots), name
        assert int(moved) == 4 * (3 + 2 * len(rule.slots)), name


@pytest.mark.skipif(not (ROOT / ".ci").exists(), reason="no scripts beside the tests")
@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_the_scripts_of_the_table_of_platforms_are_those_that_are_there(readme):
    named = set(re.findall(r"`\.ci/([\w-]+)`", readme.read_text("utf-8")))
    assert named == {file.name for file in (ROOT / ".ci").iterdir()} - {"benchmark"}


def test_every_promise_names_a_test_that_is_there():
    text = (ROOT / "docs/promises.md").read_text("utf-8")
    named = re.findall(r"`(tests/\w+\.py)?::(\w+)`", text)
    assert len(named) > 30
    file = ""
    for stated, test in named:
        file = stated or file  # the second one of a line is in the same file
        assert f"\ndef {test}(" in (ROOT / file).read_text("utf-8"), f"{file}::{test}"
    for row in re.findall(r"^\| .*[a-z].* \|$", text, re.MULTILINE):
        assert "`tests/" in row or row.endswith("| test |"), row


def test_the_changelog_and_the_citation_know_the_version():
    assert f"version: {zdlfast.__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
