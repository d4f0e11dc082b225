"""The drop-in: scripts that import common.optimizer run unchanged, on the fast classes."""

import subprocess
import sys
import textwrap

import pytest

SLOW_MODULE = "raise SystemExit('the own common.optimizer was imported')"

IMPORTS = {
    "star": "from common.optimizer import *\ncls = Adam; np.zeros(1)",
    "names": "from common.optimizer import SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam\n"
    "cls = Adam",
    "module": "import common.optimizer\ncls = common.optimizer.Adam",
    "module as": "import common.optimizer as o\ncls = o.Adam",
    "from package": "from common import optimizer\ncls = optimizer.Adam",
    "later": "def f():\n    from common.optimizer import Adam\n    return Adam\ncls = f()",
    "importlib": "import importlib\ncls = importlib.import_module('common.optimizer').Adam",
}

FOLDERS = {
    "nothing": {},
    "the book's package": {"common/__init__.py": "", "common/optimizer.py": SLOW_MODULE},
    "a package without __init__": {"common/optimizer.py": SLOW_MODULE},
    "a module of that name": {"common.py": "other = 1"},
    "a module called optimizer": {"optimizer.py": SLOW_MODULE},
}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def run(*args, cwd=None, fast=True):
    module = ["-m", "zdlfast"] if fast else []
    return subprocess.run(
        [sys.executable, *module, *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("form", IMPORTS)
def test_every_import_gives_the_fast_classes(tmp_path, folder, form):
    write(tmp_path, FOLDERS[folder])
    write(tmp_path, {"train.py": IMPORTS[form] + "\nprint(cls.__module__)"})
    done = run(tmp_path / "train.py")
    assert done.stdout.strip() == "zdlfast.optimizers", done.stderr
    done = run("--reference", "train.py", cwd=tmp_path)
    assert done.stdout.strip() == "zdlfast.reference", done.stderr


def test_other_modules_of_the_book_import_them_too(tmp_path):
    """As ch06 and ch07 do: the script lies beside common, which it puts on the path."""
    write(
        tmp_path,
        {
            "common/__init__.py": "",
            "common/optimizer.py": SLOW_MODULE,
            "common/trainer.py": """
                from common.optimizer import *
                def make(name, **options):
                    return {"sgd": SGD, "adam": Adam}[name](**options)
            """,
            "common/util.py": "from .optimizer import RMSprop",
            "ch06/train.py": """
                import sys, os
                sys.path.append(os.pardir)
                from common.trainer import make
                from common.util import RMSprop
                print(type(make("adam", lr=0.1)).__module__, RMSprop.__module__)
            """,
        },
    )
    done = run("train.py", cwd=tmp_path / "ch06")
    assert done.stdout.split() == ["zdlfast.optimizers"] * 2, done.stderr


TRAINING = """
    from common.optimizer import *      # np comes from here too, as in the book
    rng = np.random.default_rng(0)
    x, W = rng.standard_normal((50, 8)), rng.standard_normal((8, 3))
    for cls in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam):
        params, optimizer = {"W": np.zeros((8, 3)), "b": 0.5}, cls(lr=0.01)
        for step in range(30):
            error = x @ params["W"] + params["b"] - x @ W
            print(cls.__name__, step, repr(float((error**2).sum())))
            optimizer.update(params, {"W": x.T @ error / 50, "b": error.mean()})
"""


def test_both_twins_print_the_same_numbers(tmp_path):
    write(tmp_path, {"train.py": TRAINING})
    fast, numpy = run(tmp_path / "train.py"), run("--reference", tmp_path / "train.py")
    assert fast.stdout.count("\n") == 180, fast.stderr
    assert fast.stdout == numpy.stdout


SCRIPTS = {
    "names": (
        "import sys\n"
        "print(__name__, __file__, __doc__, __package__, __spec__, __cached__)\n"
        "print(type(__loader__).__name__, sorted(globals()), type(__builtins__).__name__)\n"
        "print(sys.argv, sys.path[0], sys.modules['__main__'].__dict__ is globals())"
    ),
    "doc": '"""A docstring."""\nx: int = 1\nprint(__doc__, __annotations__)',
    "exit code": "raise SystemExit(3)",
    "exit text": "import sys; sys.exit('bye')",
    "exit nothing": "import sys; sys.exit()",
    "traceback": "def f(x):\n    return 1 / x\nf(0)",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "syntax": "x = (1",
    "interrupt": "raise KeyboardInterrupt",
    "signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "own hook": "import sys\nsys.excepthook = lambda *a: print('hook', a[0].__name__)\n1 / 0",
    "atexit": "import atexit\natexit.register(print, 'bye')\nprint('hello')",
    "encoding": "# coding: euc-jp\nprint(ascii('ab'))",
    "pickle": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))) is A)",
    "future": "from __future__ import annotations\ndef f(x: y): pass\nprint(f.__annotations__)",
    "input": "import sys; print(sys.stdin.read())",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_as_under_plain_python(tmp_path, script):
    args = ["a", "--reference", "--help", "--", "-x", ""]
    write(tmp_path, {"sub/script.py": SCRIPTS[script]})
    for path, cwd in [("./sub/script.py", tmp_path), (tmp_path / "sub/script.py", "/")]:
        plain = run(path, *args, cwd=cwd, fast=False)
        ours = run(path, *args, cwd=cwd)
        assert ours.returncode == plain.returncode
        assert ours.stdout == plain.stdout
        assert ours.stderr == plain.stderr


def test_a_link_runs_in_the_folder_of_its_file(tmp_path):
    write(tmp_path, {"real/train.py": "import beside", "real/beside.py": "print('found')"})
    (tmp_path / "link.py").symlink_to(tmp_path / "real/train.py")
    assert run("link.py", cwd=tmp_path).stdout == "found\n"
    write(tmp_path, {"real/inner/none.py": ""})
    (tmp_path / "far").symlink_to(tmp_path / "real/inner")
    assert run("far/../train.py", cwd=tmp_path).stdout == "found\n"


def test_two_dashes_after_the_script_are_the_scripts(tmp_path):
    write(tmp_path, {"show.py": "import sys; print(sys.argv[1:])"})
    for args in (["--", "a"], ["--", "--", "x"], ["--reference", "--"], ["-h"]):
        for own in ([], ["--reference"]):
            assert run(*own, tmp_path / "show.py", *args).stdout.strip() == str(args)


def test_a_missing_script_is_reported_as_by_python(tmp_path):
    plain, ours = run("no.py", cwd=tmp_path, fast=False), run("no.py", cwd=tmp_path)
    assert ours.returncode == plain.returncode == 2
    assert ours.stderr == plain.stderr


def test_help_and_usage_teach():
    done = run("--help")
    assert done.returncode == 0
    assert "--reference" in done.stdout
    assert "diff fast.txt numpy.txt" in done.stdout
    nothing = run()
    assert nothing.returncode == 2
    assert "usage: python -m zdlfast [-h] [--reference] SCRIPT [ARGS ...]" in nothing.stderr
    assert "the following arguments are required: SCRIPT\n" in nothing.stderr


def in_python(code, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_patch_answers_later_imports(tmp_path):
    write(tmp_path, {"common/__init__.py": "", "common/optimizer.py": SLOW_MODULE})
    code = """
        import zdlfast
        zdlfast.patch()
        from common.optimizer import Adam, np
        assert Adam is zdlfast.Adam
        zdlfast.patch(reference=True)
        from common.optimizer import Adam
        assert Adam is zdlfast.reference.Adam
        import common.optimizer
        assert common.optimizer.Adam is Adam
        import sys
        zdlfast.patch()
        assert sum(type(f).__module__ == "zdlfast.drop_in" for f in sys.meta_path) == 1
    """
    assert in_python(code, tmp_path).stderr == ""


def test_patch_warns_if_it_comes_too_late(tmp_path):
    write(tmp_path, {"common/__init__.py": "", "common/optimizer.py": "class Adam: pass"})
    code = """
        from common.optimizer import Adam
        import zdlfast
        zdlfast.patch()
        import common.optimizer
        assert common.optimizer.Adam is zdlfast.Adam
    """
    done = in_python(code, tmp_path)
    assert "RuntimeWarning: common.optimizer was imported before zdlfast.patch()" in done.stderr


def test_a_package_that_another_finder_knows_stays(tmp_path):
    write(tmp_path, {"elsewhere/__init__.py": "", "elsewhere/layers.py": "name = 'layers'"})
    code = """
        import sys
        from importlib.util import spec_from_file_location

        class Editable:
            @staticmethod
            def find_spec(name, path=None, target=None):
                if name == "common":
                    return spec_from_file_location(
                        name, "elsewhere/__init__.py", submodule_search_locations=["elsewhere"]
                    )

        sys.meta_path.append(Editable)
        import zdlfast
        zdlfast.patch()
        from common.layers import name
        from common.optimizer import SGD
        assert name == "layers"
        assert SGD is zdlfast.SGD
    """
    in_python(code, tmp_path)


def test_the_module_has_no_more_names_than_the_books(tmp_path):
    code = """
        import zdlfast
        zdlfast.patch()
        before = set(globals()) | {"before"}
        from common.optimizer import *
        print(sorted(set(globals()) - before))
    """
    names = "['AdaGrad', 'Adam', 'Momentum', 'Nesterov', 'RMSprop', 'SGD', 'np']"
    assert in_python(code, tmp_path).stdout.strip() == names
