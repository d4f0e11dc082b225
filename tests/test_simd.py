"""Instruction sets: built right, chosen by the CPU or by ZDLFAST_SIMD, never silently."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from process import python

import zdlfast
from zdlfast import _engine

X86_64 = platform.machine().lower() in ("x86_64", "amd64")
FOLDER = Path(_engine.__file__).parent


@pytest.mark.parametrize("simd", _engine.available())
def test_the_environment_forces_an_instruction_set(simd):
    done = python("import zdlfast; print(zdlfast.build_info()['simd'])", ZDLFAST_SIMD=simd)
    assert done.stdout.strip() == simd, done.stderr


def test_by_default_the_widest_is_taken():
    done = python("import zdlfast; print(zdlfast.build_info()['simd'])", ZDLFAST_SIMD="")
    assert done.stdout.strip() == _engine.available()[-1]


@pytest.mark.parametrize("name", ["sse9", "AVX2", "base", " "])
def test_an_unknown_instruction_set_is_an_error_at_import(name):
    done = python("import zdlfast", ZDLFAST_SIMD=name)
    assert done.returncode == 1
    assert f"ValueError: ZDLFAST_SIMD is {name!r}" in done.stderr
    assert str(_engine.available()) in done.stderr


def test_an_instruction_set_without_kernels_is_refused():
    before = _engine.in_use()
    with pytest.raises(ValueError, match="no kernels for 'neon'"):
        _engine.use("neon")
    assert _engine.in_use() == before


def test_build_info_tells_what_is_used():
    info = zdlfast.build_info()
    assert info["version"] == zdlfast.__version__
    assert info["simd"] in info["simd_available"]
    assert info["simd_available"][0] == "baseline"
    assert info["threads"] >= 1
    assert re.search(r"\d", info["compiler"])


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells its CPU's features")
def test_the_cpu_is_asked_right():
    flags = set(re.search(r"flags\s*:(.*)", Path("/proc/cpuinfo").read_text())[1].split())
    expected = ["baseline"] + ["avx2"] * ("avx2" in flags) + ["avx512"] * ("avx512f" in flags)
    assert _engine.available() == (expected if X86_64 else ["baseline"])


@pytest.mark.parametrize("broken", ["_engine", "_kernels_baseline"])
def test_a_missing_or_broken_extension_is_an_error_that_says_how_to_build_it(broken, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "*.c")
    shutil.copytree(FOLDER, tmp_path / "zdlfast", ignore=ignore)
    (binary,) = (tmp_path / "zdlfast").glob(f"{broken}.*so")
    # An editable install would find the intact binary in the checkout.
    code = (
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__]\n"
        "import zdlfast.reference"
    )
    # A binary for another NumPy is reported by a ValueError.
    stand_in = binary.with_name(f"{broken}.py")
    for damage in (
        lambda: binary.write_bytes(b"not a library"),
        binary.unlink,
        lambda: stand_in.write_text("raise ValueError('numpy.ndarray size changed')"),
        lambda: stand_in.write_text(""),
    ):
        damage()
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "ZDLFAST_SIMD": "baseline"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "ImportError: zdlfast's compiled kernels cannot be imported" in done.stderr
        assert "pip install -e ." in done.stderr
        assert "circular" not in done.stderr


def disassembly(name):
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    (binary,) = FOLDER.glob(f"{name}.*so")
    text = subprocess.run(["objdump", "-d", binary], capture_output=True, text=True, check=True)
    return text.stdout


@pytest.mark.skipif(not (X86_64 and sys.platform == "linux"), reason="reads x86-64 ELF files")
@pytest.mark.parametrize("module", ["_engine", *(f"_kernels_{s}" for s in _engine.available())])
def test_no_module_has_a_fused_multiply_add(module):
    assert not re.findall(r"\bvfn?m(?:add|sub)\w*", disassembly(module))


@pytest.mark.skipif(not (X86_64 and sys.platform == "linux"), reason="reads x86-64 ELF files")
@pytest.mark.parametrize("simd", _engine.available())
def test_roots_and_divisions_are_as_wide_as_the_instruction_set(simd):
    register = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}[simd]
    wider = {"baseline": "[yz]mm", "avx2": "zmm", "avx512": "-"}[simd]
    text = disassembly(f"_kernels_{simd}")
    for operation in ("sqrtps", "sqrtpd", "divps", "divpd"):
        assert re.search(rf"\bv?{operation}\b.*%{register}", text), operation
    assert not re.search(rf"%{wider}", text)


def test_importing_the_package_takes_numpy_alone():
    done = python(
        "import sys, zdlfast; "
        "print([m for m in ('matplotlib', 'sklearn', 'rich', 'scipy') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(sys.platform != "linux" or not X86_64, reason="x86-64 Linux")
def test_the_floating_point_mode_of_the_process_stays():
    """Neither an import nor an update flushes subnormal numbers, or leaves another rounding."""
    code = """
import ctypes, ctypes.util
libm = ctypes.CDLL(ctypes.util.find_library("m"))
def mode():
    env = (ctypes.c_uint32 * 8)()       # of which the last is MXCSR, with flags below
    libm.fegetenv(env)
    return env[0] & 0xFFFF, env[7] & 0xFFC0
import numpy as np
found = [mode()]
import zdlfast
found.append(mode())
for size, threads in ((10, 1), (1_000_000, 1), (1_000_000, 3)):
    with zdlfast.threads(threads):
        for name in zdlfast.optimizers.__all__:
            params = {"W": np.full(size, 1e-310)}
            getattr(zdlfast, name)().update(params, {"W": np.full(size, 1e-310)})
    found.append(mode())
print(len(set(found)))
"""
    done = python(code)
    assert done.stdout == "1\n", done.stderr
