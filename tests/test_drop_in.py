"""The drop-in: scripts that import common.optimizer run unchanged, on the fast classes."""

import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import textwrap

import pytest

import zdlfast

# In the plain case what lies there is not executed; a star import looks what else it has.
SLOW_MODULE = "import sys\nprint('executed', file=sys.stderr)\nraise ImportError('cupy')"
UNUSED = (
    "zdlfast: this process never imported common.optimizer, sklearn.neural_network or dezero: "
    "the script's own code ran\n"
)

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
        path.write_text(textwrap.dedent(text), "utf-8")


def run(*args, cwd=None, fast=True, env=None):
    module = ["-m", "zdlfast"] if fast else []
    return subprocess.run(
        [sys.executable, *module, *map(str, args)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=300,
    )


def assert_import_gives_the_fast_classes(tmp_path, folder, form):
    write(tmp_path, FOLDERS[folder])
    write(tmp_path, {"train.py": IMPORTS[form] + "\nprint(cls.__module__)"})
    done = run(tmp_path / "train.py")
    assert done.stdout.strip() == "zdlfast.optimizers", done.stderr
    assert done.stderr in ("", "executed\n" * (form == "star"))


@pytest.mark.parametrize("form", IMPORTS)
def test_every_import_gives_the_fast_classes(tmp_path, form):
    assert_import_gives_the_fast_classes(tmp_path, "the book's package", form)


@pytest.mark.parametrize("form", ["star", "module as"])
def test_the_option_reference_gives_the_rules_in_numpy(tmp_path, form):
    write(tmp_path, FOLDERS["the book's package"])
    write(tmp_path, {"train.py": IMPORTS[form] + "\nprint(cls.__module__)"})
    done = run("--reference", "train.py", cwd=tmp_path)
    assert done.stdout.strip() == "zdlfast.reference", done.stderr


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name != "the book's package"])
@pytest.mark.parametrize("form", ["star", "module as", "from package"])
def test_whatever_lies_there_is_no_obstacle(tmp_path, folder, form):
    assert_import_gives_the_fast_classes(tmp_path, folder, form)


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
    places = [("./sub/script.py", tmp_path), (tmp_path / "sub/script.py", "/")]
    for path, cwd in places if script == "names" else places[:1]:
        plain = run(path, *args, cwd=cwd, fast=False)
        ours = run(path, *args, cwd=cwd)
        assert ours.returncode == plain.returncode
        assert ours.stdout == plain.stdout
        assert ours.stderr.removesuffix(UNUSED) == plain.stderr


def test_a_link_runs_in_the_folder_of_its_file(tmp_path):
    write(tmp_path, {"real/train.py": "import beside", "real/beside.py": "print('found')"})
    try:
        (tmp_path / "link.py").symlink_to(tmp_path / "real/train.py")
    except OSError:
        pytest.skip("this user of Windows may make no links")
    assert run("link.py", cwd=tmp_path).stdout == "found\n"
    if sys.platform == "win32":
        return  # which takes far/.. for nothing, link or not
    write(tmp_path, {"real/inner/none.py": ""})
    (tmp_path / "far").symlink_to(tmp_path / "real/inner")
    assert run("far/../train.py", cwd=tmp_path).stdout == "found\n"


def test_two_dashes_after_the_script_are_the_scripts(tmp_path):
    write(tmp_path, {"show.py": "import sys; print(sys.argv[1:])"})
    for args in (["--", "a"], ["--", "--", "x"], ["--reference", "--"], ["-h"]):
        assert run(tmp_path / "show.py", *args).stdout.strip() == str(args)
    assert run("--reference", tmp_path / "show.py", "--", "a").stdout.strip() == "['--', 'a']"


def test_a_missing_script_is_reported_as_by_python(tmp_path):
    plain, ours = run("no.py", cwd=tmp_path, fast=False), run("no.py", cwd=tmp_path)
    assert ours.returncode == plain.returncode == 2
    assert ours.stderr == plain.stderr


def test_help_and_usage_teach():
    done = run("--help")
    assert done.returncode == 0
    assert "--reference" in done.stdout
    assert "diff fast.txt numpy.txt" in done.stdout
    assert "the sixth digit may differ" in done.stdout
    nothing = run()
    assert nothing.returncode == 2
    usage = "usage: python -m zdlfast [-h] [--only NAMES] [--reference] [--report] SCRIPT [ARGS"
    assert usage in nothing.stderr
    assert "the following arguments are required: SCRIPT\n" in nothing.stderr


def in_python(code, cwd):
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(code)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
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
        ours = [type(finder) for finder in sys.meta_path if "zdlfast" in type(finder).__module__]
        assert len(ours) == len(set(ours)) == 2
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


VELOCITY_FIRST = """
    class Nesterov:
        def __init__(self, lr=0.01, momentum=0.9):
            self.lr, self.momentum, self.v = lr, momentum, None
        def update(self, params, grads):
            keys = {keys}
            if self.v is None:
                self.v = {fresh}
            for k in keys:
                self.v[k] *= self.momentum
                self.v[k] -= self.lr * grads[k]
                params[k] += self.momentum * self.momentum * self.v[k]
                params[k] -= (1 + self.momentum) * self.lr * grads[k]
"""
VELOCITY_LAST = """
    class Nesterov:
        def update(self, params, grads):
            for k in params:
                params[k] += self.momentum * self.momentum * self.v[k]
                self.v[k] *= self.momentum
"""
NESTEROV = """
    import pickle, sys
    from common.optimizer import Nesterov
    optimizer, params = Nesterov(lr=0.1, momentum=0.7), {params}
    for k in range(20):
        optimizer.update(params, {params})
        optimizer = pickle.loads(pickle.dumps(optimizer))
        print(*map(float, params if isinstance(params, list) else params.values()))
    print(type(optimizer).__name__, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("keys", "fresh", "params"),
    [
        ("range(len(params))", "[0.0 for p in params]", "[2.0, -0.3]"),
        (
            "list(params)",
            "dict.fromkeys(params, 0.0)",
            "{'W': 2.0, 'b': -0.3}",
        ),
    ],
    ids=["book 2", "book 1 before 2021"],
)
def test_a_script_whose_nesterov_is_book_2s_gets_that_rule(tmp_path, keys, fresh, params):
    module = VELOCITY_FIRST.replace("{keys}", keys).replace("{fresh}", fresh)
    write(tmp_path, {"common/__init__.py": "", "common/optimizer.py": module})
    write(tmp_path, {"train.py": NESTEROV.replace("{params}", params)})
    plain = run("train.py", cwd=tmp_path, fast=False)
    assert plain.stdout.count("\n") == 20, plain.stderr
    for option in ([], ["--reference"]):
        done = run(*option, "train.py", cwd=tmp_path)
        assert done.stderr.split()[-1] == "NesterovBook2", done.stderr
        assert done.stdout == plain.stdout


@pytest.mark.parametrize(
    "module", [VELOCITY_LAST, "class Nesterov: pass", "class Nesterov(", "\0"]
)
def test_a_script_whose_nesterov_is_another_one_gets_book_1s(tmp_path, module):
    write(tmp_path, {"common/__init__.py": "", "common/optimizer.py": module})
    write(tmp_path, {"train.py": "from common.optimizer import Nesterov as n; print(n.__name__)"})
    assert run("train.py", cwd=tmp_path).stdout == "Nesterov\n"


def test_a_module_that_was_imported_before_the_patch_says_which_nesterov_it_has(tmp_path):
    module = VELOCITY_FIRST.replace("{keys}", "params").replace("{fresh}", "{}")
    write(tmp_path, {"common/optimizer.py": module})
    write(tmp_path, {"train.py": """
        import warnings, zdlfast
        import common.optimizer
        warnings.simplefilter("ignore")
        zdlfast.patch()
        from common.optimizer import Nesterov, NesterovBook2
        print(Nesterov is NesterovBook2)
    """})  # fmt: skip
    assert run("train.py", cwd=tmp_path, fast=False).stdout == "True\n"


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


def test_a_script_that_asks_for_a_newer_optimizer_gets_it(tmp_path):
    code = """
        import zdlfast
        zdlfast.patch()
        import common.optimizer
        from common.optimizer import AdamW, ScheduleFreeAdamW
        assert (AdamW, ScheduleFreeAdamW) == (zdlfast.AdamW, zdlfast.ScheduleFreeAdamW)
        assert not hasattr(common.optimizer, "SklearnAdam")
        assert "AdamW" not in dir(common.optimizer)
    """
    in_python(code, tmp_path)
    write(tmp_path, {"common/optimizer.py": "class Lion: of_the_script = True"})
    code = """
        import zdlfast
        zdlfast.patch()
        from common.optimizer import AMSGrad, Lion
        assert AMSGrad is zdlfast.AMSGrad
        assert Lion.of_the_script
    """
    in_python(code, tmp_path)


OWN_MODULE = """
    print("executed as", __name__)
    from .numbers import GPU            # relative, as the book's modules may be
    class SGD: pass
    class RMSProp(SGD): pass
    class AdaDelta: pass
    def _private(): pass
"""
OWN_PACKAGE = {
    "common/__init__.py": "",
    "common/numbers.py": "GPU = True",
    "common/optimizer.py": OWN_MODULE,
}


def test_names_that_zdlfast_does_not_have_come_from_the_module_that_it_hides(tmp_path):
    write(tmp_path, OWN_PACKAGE)
    code = """
        import pickle, zdlfast
        zdlfast.patch()
        import common.optimizer
        from common.optimizer import Adam, np
        print("not yet")
        from common.optimizer import RMSProp, GPU, SGD, _private
        assert common.optimizer.AdaDelta.__module__ == RMSProp.__module__ == "common.optimizer"
        assert GPU is True
        assert SGD is zdlfast.SGD
        assert RMSProp.__base__ is not SGD
        assert type(pickle.loads(pickle.dumps(RMSProp()))) is RMSProp
        assert {"RMSProp", "Adam", "GPU"} <= set(dir(common.optimizer))
        for name in ("Missing", "__version__"):
            try:
                getattr(common.optimizer, name)
            except AttributeError as error:
                assert str(error) == f"module 'common.optimizer' has no attribute '{name}'"
    """
    assert in_python(code, tmp_path).stdout.split("\n")[:-1] == [
        "not yet",
        "executed as common.optimizer",
    ]


STAR = """
    import zdlfast
    zdlfast.patch()
    before = set(globals()) | {"before"}
    from common.optimizer import *
    print(*sorted(set(globals()) - before), SGD is zdlfast.SGD)
"""


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ("", "AdaDelta AdaGrad Adam GPU Momentum Nesterov RMSProp RMSprop SGD np True"),
        ("__all__ = ['SGD', '_private']", "AdaGrad Adam Momentum Nesterov RMSprop SGD _private"),
        ("raise ValueError('broken')", "AdaGrad Adam Momentum Nesterov RMSprop SGD np True"),
    ],
    ids=["public", "__all__", "broken"],
)
def test_a_star_import_gives_both_modules_names(tmp_path, more, names):
    write(tmp_path, OWN_PACKAGE)
    with (tmp_path / "common/optimizer.py").open("a") as file:
        file.write(more)
    done = in_python(STAR, tmp_path)
    assert done.stdout.startswith("executed as common.optimizer\n" + names)
    assert done.stderr == ""


def test_a_hidden_module_that_fails_says_so_to_who_asks_for_its_names(tmp_path):
    write(tmp_path, {"common/__init__.py": "", "common/optimizer.py": "import no_cupy"})
    script = """
        from common.optimizer import Adam
        try:
            from common.optimizer import RMSProp
        except ModuleNotFoundError:
            from common.optimizer import RMSProp
    """
    write(tmp_path, {"train.py": script})
    done = run("train.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'no_cupy'\n")
    write(
        tmp_path, {"train.py": "from common.optimizer import Missing", "common/optimizer.py": ""}
    )
    done = run("train.py", cwd=tmp_path)
    assert "ImportError: cannot import name 'Missing' from 'common.optimizer'" in done.stderr


def test_a_module_that_was_imported_before_the_patch_is_not_executed_again(tmp_path):
    write(tmp_path, OWN_PACKAGE)
    code = """
        import common.optimizer as before
        import warnings, zdlfast
        warnings.simplefilter("ignore")
        zdlfast.patch()
        from common.optimizer import RMSProp, SGD
        assert RMSProp is before.RMSProp
        assert SGD is zdlfast.SGD
    """
    assert in_python(code, tmp_path).stdout.count("executed") == 1


def test_a_hidden_module_may_lead_back_to_the_import(tmp_path):
    write(
        tmp_path,
        {
            "common/__init__.py": "",
            "common/optimizer.py": "class First: pass\nimport common.trainer\nclass Last: pass",
            "common/trainer.py": "from common.optimizer import *\nassert First and SGD",
        },
    )
    in_python("import zdlfast; zdlfast.patch(); from common.optimizer import Last", tmp_path)


CHILDREN = """
    import multiprocessing, os, pathlib, sys
    from common.optimizer import Adam
    def in_child(i):
        import preloaded
        from common.optimizer import SGD
        return Adam.__module__, SGD.__module__, preloaded.Adam.__module__
    def in_grandchild(i):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.map(in_child, [i])[0]
    def by_loky(i):
        return in_child(i)
    if __name__ == "__main__":
        os.chdir(os.path.dirname(__file__))
        method = sys.argv[1]
        if method == "loky":
            from joblib import Parallel, delayed
            print(*Parallel(2)(delayed(by_loky)(i) for i in range(2)), sep="\\n")
        else:
            from concurrent.futures import ProcessPoolExecutor
            context = multiprocessing.get_context(method)
            if method == "forkserver":
                context.set_forkserver_preload(["__main__", "preloaded"])
            else:
                sys.path.append(pathlib.Path("not text"))       # is ignored by imports
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                print(*pool.map(in_child, range(1)), *pool.map(in_grandchild, range(1)), sep="\\n")
            process = context.Process(target=os._exit, args=(7,))
            process.start()
            process.join()
            assert process.exitcode == 7
        sys.exit(5)
"""
METHODS = [*multiprocessing.get_all_start_methods(), "loky"]


@pytest.mark.parametrize("option", ["", "--reference"])
@pytest.mark.parametrize("method", METHODS)
def test_child_processes_get_the_same_classes(tmp_path, method, option):
    if method == "loky":
        pytest.importorskip("joblib")
    write(
        tmp_path,
        {
            **OWN_PACKAGE,
            "preloaded.py": "from common.optimizer import Adam",
            "train.py": CHILDREN,
            # A file of the user's that has our name is not taken for us in a child.
            "zdlfast.py": "raise SystemExit('this is not zdlfast')",
        },
    )
    done = run(*option.split(), tmp_path / "train.py", method, cwd=tmp_path.parent)
    module = "zdlfast.reference" if option else "zdlfast.optimizers"
    assert done.stdout == f"{(module,) * 3}\n" * 2
    assert done.stderr == ""
    assert done.returncode == 5


def test_the_fork_server_is_patched_before_it_imports_anything(tmp_path):
    """Some versions of Python import the main module in the server: this is what it gets."""
    write(tmp_path, OWN_PACKAGE)
    code = """
        import zdlfast
        zdlfast.patch(reference=True)
        from multiprocessing.spawn import get_preparation_data
        path = get_preparation_data("")["sys_path"]
        print(repr(path))
    """
    sent = in_python(code, tmp_path).stdout
    received = f"""
        path = {sent.strip()}
        assert type(path) is list and "" not in path
        from common.optimizer import Adam
        assert Adam.__module__ == "zdlfast.reference"
    """
    in_python(received, tmp_path)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("print('own')", UNUSED),
        ("import sys, atexit; atexit.register(print, 'late', file=sys.stderr)", "late\n" + UNUSED),
        ("raise SystemExit(3)", UNUSED),
        ("import os; pid = os.fork() if hasattr(os, 'fork') else 1", UNUSED),
        ("import common.optimizer", ""),
        ("from common.optimizer import Adam", ""),
        ("import sys; sys.stderr = None", ""),
        ("import sys; sys.stderr.close()", ""),
        ("import os; os._exit(0)", ""),
    ],
)
def test_a_script_that_never_imports_the_optimizers_is_told_on_stderr(tmp_path, script, says):
    write(tmp_path, {"train.py": script})
    done, plain = run("train.py", cwd=tmp_path), run("train.py", cwd=tmp_path, fast=False)
    assert done.stderr == says
    assert (done.stdout, done.returncode) == (
        ("", 0) if "common" in script else (plain.stdout, plain.returncode)
    )


def test_a_script_that_fails_is_told_of_its_failure_alone(tmp_path):
    write(tmp_path, {"train.py": "import no_such_module"})
    assert run("train.py", cwd=tmp_path).stderr.endswith("No module named 'no_such_module'\n")
    assert "common" not in run("missing.py", cwd=tmp_path).stderr


REPORTED = """
    import sys
    from common.optimizer import *
    class Mine(Adam):
        pass
    params, grads = {"W": np.ones(3)}, {"W": np.ones(3)}
    for optimizer in SGD(), Mine():
        for _ in range(1200):
            optimizer.update(params, grads)
    try:
        SGD().update(params, {})
    except KeyError:
        print(params["W"].tolist(), type(optimizer).__base__.__module__)
"""


@pytest.mark.parametrize("option", ["", "--reference"])
def test_a_report_counts_updates_by_class(tmp_path, option):
    write(tmp_path, {"train.py": REPORTED})
    plain = run(*option.split(), "train.py", cwd=tmp_path)
    assert plain.stderr == ""
    done = run(*option.split(), "--report", "train.py", cwd=tmp_path)
    assert done.stdout == plain.stdout
    title, head, sgd, mine = done.stderr.splitlines()
    assert title == "zdlfast: updates in this process"
    assert head == "optimizer  updates  seconds  microseconds each"
    assert re.fullmatch(r"SGD +1,200 +\d+\.\d{3} +\d+\.\d", sgd)
    assert re.fullmatch(r"Mine +1,200 +\d+\.\d{3} +\d+\.\d", mine)
    assert len(head) == len(sgd) == len(mine)


def test_a_report_without_updates_says_so(tmp_path):
    write(tmp_path, {"train.py": "import common.optimizer"})
    done = run("--report", "train.py", cwd=tmp_path)
    assert done.stderr == "zdlfast: no updates in this process\n"
    write(tmp_path, {"train.py": "import zdlfast"})
    assert run("--report", "train.py", cwd=tmp_path).stderr == UNUSED


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_any_encoding_will_do(tmp_path, encoding):
    env = {"PYTHONIOENCODING": encoding, "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    text = """
        from common.optimizer import Adam as Base
        class Ädam最適化(Base):
            pass
        Ädam最適化().update({}, {})
    """
    write(tmp_path, {"学習é.py": text})
    assert run("--help", env=env).returncode == 0
    done = run("--report", "学習é.py", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "")
    assert "\\xc4dam" in done.stderr
    done = run("学é.py", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stderr == run("学é.py", cwd=tmp_path, env=env, fast=False).stderr


BOOKS_PICKLE = """
    import copy, pickle, sys
    import numpy as np
    import common.optimizer
    from zdlfast import reference
    saved = []
    for name in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"):
        for as_kept in (lambda arrays: arrays, lambda arrays: list(arrays.values())):
            twin = getattr(reference, name)(lr=0.1)
            params = as_kept({"W": np.linspace(1, 2, 6).reshape(2, 3), "b": np.ones(3)})
            grads = as_kept({"W": np.linspace(-1, 2, 6).reshape(2, 3), "b": np.ones(3) / 3})
            for _ in range(3):
                twin.update(params, grads)
            books = getattr(common.optimizer, name)()
            attributes = {"lr", "momentum", "decay_rate", "beta1", "beta2", "iter", "m", "v", "h"}
            vars(books).update({k: v for k, v in vars(twin).items() if k in attributes})
            saved.append((books, params, grads, copy.deepcopy(twin)))
    with open("saved.pickle", "wb") as file:
        pickle.dump(saved, file, int(sys.argv[1]))
"""
RESUMED = """
    import copy, pickle
    import common.optimizer
    import numpy as np
    with open("saved.pickle", "rb") as file:
        saved = pickle.load(file)
    for optimizer, params, grads, twin in saved:
        assert type(optimizer) is getattr(common.optimizer, type(twin).__name__)
        assert repr(optimizer) == repr(twin)
        expected = copy.deepcopy(params)
        for _ in range(3):
            optimizer.update(params, grads)
            twin.update(expected, grads)
        for key in params if isinstance(params, dict) else range(len(params)):
            assert np.array_equal(params[key], expected[key])
        print(type(optimizer).__module__)
"""


@pytest.mark.parametrize("protocol", [0, 1, 2, pickle.DEFAULT_PROTOCOL])
def test_an_optimizer_that_the_books_class_pickled_goes_on(tmp_path, protocol):
    classes = "".join(f"class {name}: pass\n" for name in zdlfast.optimizers.__all__)
    write(tmp_path, {"common/__init__.py": "", "common/optimizer.py": classes})
    write(tmp_path, {"save.py": BOOKS_PICKLE, "resume.py": RESUMED})
    assert run("save.py", protocol, cwd=tmp_path, fast=False).stderr == ""
    for option, module in (([], "zdlfast.optimizers"), (["--reference"], "zdlfast.reference")):
        done = run(*option, "resume.py", cwd=tmp_path)
        assert done.stdout == f"{module}\n" * 12, done.stderr
        # Of the one that has lists, and of no other.
        (warning,) = re.findall("RuntimeWarning: (.*)", done.stderr)
        assert warning.startswith("a Nesterov with lists that the book's own class pickled is")
        assert "resume.py:" in done.stderr
