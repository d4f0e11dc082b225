"""Imports go one way: no circles, and what the benchmark's jobs share knows none of them."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import zdlfast

FOLDERS = {
    "zdlfast": Path(zdlfast.__file__).parent,
    "bench": Path(__file__).parents[1] / "bench",
}


def modules(folder):
    """The sources of a package by module name; that of an extension with what it includes."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text("utf-8")
    for path in sorted(folder.glob("*.pyx")):
        text = path.read_text("utf-8")
        parts = [folder / name for name in re.findall(r'^include "(.+)"', text, re.MULTILINE)]
        texts = [text, *(part.read_text("utf-8") for part in parts)]
        # As Python, the imports alone.
        lines = re.findall(r"^ *((?:from|import) .+)", "\n".join(texts), re.MULTILINE)
        imports = [line for line in lines if re.match(r"(from \S+ )?import [\w., ]+$", line)]
        found[f"{folder.name}.{path.stem}"] = "\n".join(imports)
    return found


class Imports(ast.NodeVisitor):
    """Collects what a module imports, also within functions, but not for type checkers alone."""

    def __init__(self, package):
        self.package = package
        self.names = []  # (module, what of it)

    def visit_If(self, node):
        for_checkers = "TYPE_CHECKING" in ast.unparse(node.test)
        for child in node.orelse if for_checkers else ast.iter_child_nodes(node):
            self.visit(child)

    def visit_Import(self, node):
        self.names += [(alias.name, "") for alias in node.names]

    def visit_ImportFrom(self, node):
        module = resolve_name("." * node.level + (node.module or ""), self.package)
        self.names += [(module, alias.name) for alias in node.names]


def graph(sources):
    """For each module, those of the same package that it imports."""
    found = {}
    for name, source in sources.items():
        is_package = any(other.startswith(f"{name}.") for other in sources)
        imports = Imports(name if is_package else name.rpartition(".")[0])
        imports.visit(ast.parse(source))
        wanted = {f"{m}.{what}" if f"{m}.{what}" in sources else m for m, what in imports.names}
        found[name] = wanted & sources.keys()
    return found


def circle(imports):
    """The modules of a circle, each imported by the next; none, if all is well."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("package", FOLDERS)
def test_no_modules_import_each_other(package):
    imports = graph(modules(FOLDERS[package]))
    assert len(imports) > 10
    assert any(imports.values())
    assert circle(imports) == []


def test_a_job_is_imported_by_the_command_alone():
    imports = graph(modules(FOLDERS["bench"]))
    jobs = {name for name in imports if name.startswith("bench.jobs.")}
    users = {name for name, wanted in imports.items() if wanted & jobs}
    assert jobs
    assert users == {"bench.__main__"}


def test_circles_are_seen():
    sources = {
        "p": "",
        "p.a": "from p import b",
        "p.b": "def f():\n    import p.c",
        "p.c": "from .a import x",
        "p.d": "if TYPE_CHECKING:\n    import p.d\nelse:\n    from p.a import y",
    }
    imports = graph(sources)
    assert imports == {"p": set(), "p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}, "p.d": {"p.a"}}
    assert set(circle(imports)) == {"p.a", "p.b", "p.c"}
    del imports["p.c"]
    assert circle(imports) == []


LAZILY = """
import sys
import zdlfast
absent = [name for name in ("datasets", "nn", "schedules") if f"zdlfast.{name}" in sys.modules]
found = [zdlfast.schedules.Cosine, zdlfast.nn.Affine, zdlfast.datasets.load_digits, zdlfast.patch]
print(absent, *(thing.__name__ for thing in found))
"""


def test_modules_that_not_everyone_takes_are_imported_when_they_are_asked_for():
    done = subprocess.run([sys.executable, "-c", LAZILY], capture_output=True, text=True)
    assert done.stdout == "[] Cosine Affine load_digits patch\n", done.stderr
