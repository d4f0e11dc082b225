"""Adapters: what all of them share, on a framework that is written here."""

import importlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import zdlfast
from zdlfast import adapters

# A framework whose optimizer is ten lines of NumPy, as most are.
FRAMEWORK = '''
    """A framework."""
    import numpy as np

    __version__ = "2.5.1"

    class Base:
        def step(self, params, grads):
            for param, grad in zip(params, grads):
                self.step_one(param, grad)

    class Plain(Base):
        def __init__(self, rate=0.1):
            self.rate = rate

        def step_one(self, param, grad):
            """The formula."""
            param -= self.rate * grad      # in place
'''
ADAPTER = """
    from zdlfast.adapters import MethodAdapter, dtypes_of

    def step(patch, optimizer, params, grads):
        own = patch.counterpart(optimizer, "SGD", lr=optimizer.rate)
        usual = own is not None and dtypes_of(params, grads)
        if type(optimizer) is not patch.module.Plain or not usual:
            return patch.own(optimizer, params, grads)
        own.update(params, grads)
        optimizer.taken_by = type(own).__module__

    adapter = MethodAdapter(
        name="framework",
        package="a-framework",
        module="framework_of_tests",
        versions=("2.3", "2.5"),
        methods={"Base.step": step},
        formulas={"Plain.step_one": "e6a56f0bcceef80b"},
    )
"""


def write(folder, files):
    for name, text in files.items():
        (folder / name).write_text(textwrap.dedent(text), "utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder on the path with a framework and its adapter."""
    write(tmp_path, {"framework_of_tests.py": FRAMEWORK, "adapter_of_tests.py": ADAPTER})
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("framework_of_tests", "adapter_of_tests"):
        sys.modules.pop(name, None)


@pytest.fixture
def adapter(folder):
    found = importlib.import_module("adapter_of_tests").adapter
    yield found
    zdlfast.unpatch(found)


def load():
    return importlib.import_module("framework_of_tests")


def taken_by(framework, optimizer=None):
    """The package that takes a step of this framework, which has to be right in any case."""
    optimizer = framework.Plain() if optimizer is None else optimizer
    params, grads = [np.ones(3)], [np.arange(3.0)]
    optimizer.step(params, grads)
    assert params[0].tolist() == [1.0, 1.0 - 0.1 * 1.0, 1.0 - 0.1 * 2.0]
    return vars(optimizer).pop("taken_by", "framework_of_tests")


def test_a_framework_that_is_imported_after_the_patch_is_patched(adapter):
    zdlfast.patch(adapter)
    assert "framework_of_tests" not in sys.modules
    assert taken_by(load()) == "zdlfast.optimizers"


def test_a_framework_that_was_imported_before_is_patched_with_all_its_objects(adapter):
    framework = load()
    optimizer, method = framework.Plain(), framework.Plain().step
    zdlfast.patch(adapter)
    assert taken_by(framework, optimizer) == "zdlfast.optimizers"
    assert method.__func__ is not framework.Base.step  # a bound method was taken before


def test_reference_takes_the_rules_in_numpy(adapter):
    zdlfast.patch(adapter, reference=True)
    assert taken_by(load()) == "zdlfast.reference"
    zdlfast.patch(adapter)
    assert taken_by(load()) == "zdlfast.optimizers"


def test_classes_stay_what_they_are(adapter):
    framework = load()
    before = {name: getattr(framework.Base.step, name) for name in ("__name__", "__doc__")}
    classes = framework.Base, framework.Plain
    zdlfast.patch(adapter)
    assert (framework.Base, framework.Plain) == classes
    assert {name: getattr(framework.Base.step, name) for name in before} == before
    optimizer = pickle.loads(pickle.dumps(framework.Plain(0.5)))
    assert type(optimizer) is framework.Plain
    assert vars(optimizer) == {"rate": 0.5}


def test_unpatch_restores_everything(adapter):
    import multiprocessing.spawn as spawn

    framework = load()
    finders, prepare = list(sys.meta_path), spawn.get_preparation_data
    before = {cls: dict(vars(cls)) for cls in (framework.Base, framework.Plain)}
    zdlfast.patch(adapter)
    zdlfast.patch(adapter, reference=True)
    assert framework.Base.step is not before[framework.Base]["step"]
    assert spawn.get_preparation_data is not prepare
    zdlfast.unpatch(adapter)
    assert {cls: dict(vars(cls)) for cls in before} == before
    assert spawn.get_preparation_data is prepare
    assert sys.meta_path == finders
    zdlfast.unpatch(adapter)  # again: nothing happens
    assert taken_by(framework) == "framework_of_tests"


def test_unpatch_before_the_import_leaves_the_framework_alone(adapter):
    zdlfast.patch(adapter)
    zdlfast.unpatch(adapter)
    assert taken_by(load()) == "framework_of_tests"


def test_what_others_have_replaced_since_stays_theirs(adapter, monkeypatch):
    framework = load()
    zdlfast.patch(adapter)

    def theirs(self, params, grads):
        raise NotImplementedError

    monkeypatch.setattr(framework.Base, "step", theirs)
    zdlfast.unpatch(adapter)
    assert framework.Base.step is theirs


def test_patched_holds_for_a_block(adapter):
    framework = load()
    with zdlfast.patched(adapter):
        assert taken_by(framework) == "zdlfast.optimizers"
        with zdlfast.patched(adapter, reference=True):
            assert taken_by(framework) == "zdlfast.reference"
        assert taken_by(framework) == "zdlfast.optimizers"
    assert taken_by(framework) == "framework_of_tests"
    with pytest.raises(KeyError), zdlfast.patched(adapter):
        raise KeyError
    assert taken_by(framework) == "framework_of_tests"


def test_a_module_that_is_loaded_again_is_patched_again(adapter):
    framework = load()
    zdlfast.patch(adapter)
    importlib.reload(framework)
    assert taken_by(framework) == "zdlfast.optimizers"
    zdlfast.unpatch(adapter)
    assert taken_by(framework) == "framework_of_tests"


def test_a_module_keeps_its_own_loader(adapter):
    zdlfast.patch(adapter)
    framework = load()
    for loader in (framework.__loader__, framework.__spec__.loader):
        assert type(loader).__module__ == "_frozen_importlib_external"


@pytest.mark.parametrize("version", ["2.2.9", "2.6", "2.6.0rc1", "3.0", "1", "unknown", None])
def test_a_version_that_is_not_known_is_left_alone(adapter, folder, version):
    line = "" if version is None else f'__version__ = "{version}"'
    text = FRAMEWORK.replace('__version__ = "2.5.1"', line)
    write(folder, {"framework_of_tests.py": text})
    zdlfast.patch(adapter)
    what = "of no version" if version is None else version
    with pytest.warns(
        RuntimeWarning, match=f"zdlfast knows a-framework 2.3 to 2.5, this is {what}"
    ):
        framework = load()
    assert taken_by(framework) == "framework_of_tests"


@pytest.mark.parametrize("version", ["2.3.0", "2.4", "2.5.99", "2.5.dev0", "2.5.0rc1"])
def test_every_version_in_between_is_known(adapter, folder, version):
    write(folder, {"framework_of_tests.py": FRAMEWORK.replace("2.5.1", version)})
    zdlfast.patch(adapter)
    assert taken_by(load()) == "zdlfast.optimizers"


def test_code_that_was_changed_is_left_alone(adapter, folder):
    text = FRAMEWORK.replace("self.rate * grad", "grad * self.rate")
    write(folder, {"framework_of_tests.py": text})
    zdlfast.patch(adapter)
    words = "Plain.step_one of this a-framework 2.5.1 is not the code that zdlfast knows"
    with pytest.warns(RuntimeWarning, match=words):
        framework = load()
    assert taken_by(framework) == "framework_of_tests"


def test_code_without_its_source_is_left_alone(adapter, folder):
    path = folder / "framework_of_tests.py"
    framework = load()
    exec(compile(path.read_text("utf-8"), "<nowhere>", "exec"), vars(framework))
    with pytest.warns(RuntimeWarning, match="is not the code that zdlfast knows"):
        zdlfast.patch(adapter)
    assert taken_by(framework) == "framework_of_tests"


def test_a_fingerprint_is_of_what_code_computes(folder):
    framework = load()
    expected = adapters.fingerprint(framework.Plain.step_one)
    for old, new in (
        ('"""The formula."""', '"""Another docstring,\n\n            of several lines."""'),
        ("      # in place", ""),
        ("self.rate * grad", "(self.rate*grad)"),
        ("\n    class Base", "\n\n\n    class Base"),
    ):
        assert old in FRAMEWORK
        write(folder, {"framework_of_tests.py": FRAMEWORK.replace(old, new)})
        importlib.reload(framework)
        assert adapters.fingerprint(framework.Plain.step_one) == expected
    write(folder, {"framework_of_tests.py": FRAMEWORK.replace("param -=", "param +=")})
    importlib.reload(framework)
    assert adapters.fingerprint(framework.Plain.step_one) != expected
    assert adapters.fingerprint(property(framework.Base.step)) is not None
    assert adapters.fingerprint(len) is None


def test_a_framework_that_is_not_installed_is_an_error_that_says_what_to_do(adapter, folder):
    (folder / "framework_of_tests.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(ModuleNotFoundError, match="python -m pip install a-framework") as caught:
        zdlfast.patch(adapter)
    assert caught.value.name == "framework_of_tests"
    with pytest.raises(ModuleNotFoundError), zdlfast.patched(adapter):
        pass


def test_a_framework_that_is_not_known_is_an_error_that_names_those_that_are():
    words = r"must be one of \('book', 'sklearn', 'dezero'\), got 'torch'"
    for function in (zdlfast.patch, zdlfast.unpatch):
        with pytest.raises(ValueError, match=words):
            function("torch")
    with pytest.raises(ValueError, match=words), zdlfast.patched("torch"):
        pass


def test_an_option_that_zdlfast_refuses_is_left_to_the_framework(adapter):
    framework = load()
    zdlfast.patch(adapter)
    for rate in (-1.0, np.inf, True):
        params = [np.ones(3)]
        optimizer = framework.Plain(rate)
        optimizer.step(params, [np.ones(3)])
        assert params[0].tolist() == [1.0 - rate] * 3
        assert vars(optimizer) == {"rate": rate}


def test_a_counterpart_lives_as_long_as_the_optimizer_and_is_its_own(adapter):
    framework = load()
    patch = adapters.Patch(framework, framework.Base.step, False)
    one, other = framework.Plain(), framework.Plain()
    first = patch.counterpart(one, "Momentum", lr=0.5)
    assert patch.counterpart(one, "Momentum", lr=0.25) is first
    assert first.lr == 0.25
    assert patch.counterpart(other, "Momentum", lr=0.5) is not first
    assert type(patch.counterpart(one, "SGD", lr=0.5)) is zdlfast.SGD
    del one
    assert len(patch._counterparts) == 1


NUMBERS = {
    "float": (0.1, True, True),
    "int": (1, True, True),
    "np.float64": (np.float64(0.1), False, True),
    "np.float32": (np.float32(0.1), False, False),
    "bool": (True, False, False),
    "str": ("0.1", False, False),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_are_those_that_lift_no_dtype(kind):
    value, beside_float32, beside_float64 = NUMBERS[kind]
    for dtypes, expected in (
        ([np.float32], beside_float32),
        ([np.float64], beside_float64),
        ([np.float32, np.float64], beside_float32),
    ):
        found = adapters.are_numbers([0.5, value], {np.dtype(dtype) for dtype in dtypes})
        assert found == expected


def test_dtypes_are_those_of_usual_arrays_alone():
    single, double = np.ones(3, np.float32), np.ones((2, 2))
    assert adapters.dtypes_of([single], [single]) == {single.dtype}
    assert adapters.dtypes_of([single], [double]) == {single.dtype, double.dtype}
    assert adapters.dtypes_of([double, pickle.loads(pickle.dumps(double))]) == {double.dtype}
    swapped = double.astype(double.dtype.newbyteorder())
    for odd in (np.ones(()), np.float64(1), 1.0, np.ones(3, int), np.ma.ones(3), swapped, None):
        assert adapters.dtypes_of([double, odd]) == set()


CHILD = """
    import multiprocessing, sys
    import numpy as np

    def taken_by(_):
        import framework_of_tests
        optimizer = framework_of_tests.Plain()
        optimizer.step([np.ones(3)], [np.ones(3)])
        return vars(optimizer).get("taken_by")

    if __name__ == "__main__":
        import zdlfast
        from adapter_of_tests import adapter
        method, reference, undo = sys.argv[1], sys.argv[2] == "reference", sys.argv[3] == "undo"
        zdlfast.patch(adapter, reference=reference)
        if undo:
            zdlfast.unpatch(adapter)
        if method == "loky":
            from joblib import Parallel, delayed
            print(*Parallel(2)(delayed(taken_by)(i) for i in range(2)))
        else:
            with multiprocessing.get_context(method).Pool(1) as pool:
                print(*pool.map(taken_by, range(2)))
"""
METHODS = [*multiprocessing.get_all_start_methods(), "loky"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("kernels", "keep"), "zdlfast.optimizers"),
        (("reference", "keep"), "zdlfast.reference"),
        (("kernels", "undo"), "None"),
    ],
    ids=["kernels", "reference", "unpatched"],
)
@pytest.mark.parametrize("method", METHODS)
def test_children_are_patched_as_their_parent_is(folder, method, options, expected):
    if method == "loky":
        pytest.importorskip("joblib")
    write(folder, {"train.py": CHILD})
    done = run("train.py", method, *options, cwd=folder, module=())
    assert done.stdout.split() == [expected] * 2, done.stderr
    assert done.stderr == ""


def test_an_adapter_of_the_main_module_is_not_sent_to_children(folder):
    """A child would look for it before it has that module."""
    write(folder, {"train.py": textwrap.dedent(ADAPTER) + textwrap.dedent(CHILD).replace(
        "from adapter_of_tests import adapter", ""
    )})  # fmt: skip
    done = run("train.py", "spawn", "kernels", "keep", cwd=folder, module=())
    assert done.stdout.split() == ["None"] * 2, done.stderr


def run(*args, cwd, module=("-m", "zdlfast")):
    return subprocess.run(
        [sys.executable, *module, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("names", "patched"),
    [
        ("book", {"book"}),
        ("sklearn,dezero", {"sklearn", "dezero"}),
        (None, set(adapters.FRAMEWORKS)),
    ],
)
def test_only_says_what_is_patched(tmp_path, names, patched):
    write(tmp_path, {"show.py": "import sys; from zdlfast.adapters import _patched\n"
                                "print(*_patched, sys.argv[1:])"})  # fmt: skip
    for only in ([f"--only={names}"], ["--only", names]) if names else ([],):
        done = run(*only, "show.py", "--only", "book", cwd=tmp_path)
        *found, _ = done.stdout.partition(" [")
        assert done.stdout.rstrip().endswith("['--only', 'book']")
        assert set(found[0].split()) == patched
        modules = {"book": "common.optimizer", "sklearn": "sklearn.neural_network"}
        *others, last = [modules.get(n, n) for n in adapters.FRAMEWORKS if n in patched]
        shown = f"{', '.join(others)} or {last}" if others else last
        assert done.stderr == (
            f"zdlfast: this process never imported {shown}: the script's own code ran\n"
        )


def test_only_names_frameworks(tmp_path):
    for names in ("torch", "book,", "book, sklearn", ""):
        done = run("--only", names, "show.py", cwd=tmp_path)
        assert done.returncode == 2
        wrong = next(name for name in names.split(",") if name not in adapters.FRAMEWORKS)
        words = f"argument --only: expected names of book,sklearn,dezero, got {wrong!r}"
        assert words in done.stderr
