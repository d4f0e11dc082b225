"""The documents: their code runs, and prints what they say."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

import zdlfast

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"^print\(.*\)\s+# (.*)$", re.MULTILINE)


def blocks(document):
    return BLOCK.findall(document.read_text("utf-8"))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if blocks(d)], ids=lambda d: d.name)
def test_the_code_of_a_document_runs_and_prints_what_it_says(document, monkeypatch):
    monkeypatch.setattr(zdlfast, "patch", lambda: None)  # would last
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


def test_both_readmes_have_the_same_content():
    english, japanese = (
        (ROOT / name).read_text("utf-8") for name in ("README.md", "README.ja.md")
    )

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
