"""Instruction sets: built right, chosen by the CPU or by ZDLFAST_SIMD, never silently."""

import ctypes
import importlib.util
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import golden
import pytest
from process import python

import zdlfast
from zdlfast import _engine

MACHINE = platform.machine().lower()
X86_64 = MACHINE in ("x86_64", "amd64")
LINUX = sys.platform == "linux"
FOLDER = Path(_engine.__file__).parent
CHECKOUT = Path(__file__).parents[1]


def binary_of(name):
    """The file of an extension module, or None if it was not built."""
    spec = importlib.util.find_spec(f"zdlfast.{name}")
    return spec and Path(spec.origin)


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


def test_what_was_built_and_can_run_is_offered():
    expected = ["baseline"]
    if X86_64 and LINUX:
        flags = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.M)[1].split()
        needed = {"avx2": {"avx2"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"}}
        for simd, of_cpu in needed.items():
            expected += [simd] * (of_cpu <= {*flags} and binary_of(f"_kernels_{simd}") is not None)
    elif X86_64:  # who knows
        expected = _engine.available()
    assert _engine.available() == expected
    assert all(binary_of(f"_kernels_{simd}") for simd in _engine.available())


@pytest.mark.skipif(not (CHECKOUT / "setup.py").exists(), reason="no setup.py beside the tests")
@pytest.mark.parametrize(
    ("flags", "wide"),
    [
        ("", None),
        ("-arch x86_64", True),
        ("-arch arm64", False),
        ("-arch x86_64 -arch arm64", False),
    ],
)
def test_the_engine_is_told_which_kernels_are_built(monkeypatch, flags, wide):
    setuptools = pytest.importorskip("setuptools")
    if not flags:  # what this Python builds for
        wide = sysconfig.get_platform().endswith(("x86_64", "amd64"))
    given = {}
    monkeypatch.setenv("ARCHFLAGS", flags)
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(CHECKOUT)
    runpy.run_path("setup.py")
    names = {module.name.split(".")[1] for module in given["ext_modules"]}
    engine = next(module for module in given["ext_modules"] if module.name.endswith("_engine"))
    macros = [name for name, _ in engine.define_macros]
    told = {name[10:].lower() for name in macros if name.startswith("ZDL_BUILT_")}
    assert told == ({"avx2", "avx512"} if wide else set())
    assert names == {"_engine", "_kernels_baseline", *(f"_kernels_{simd}" for simd in told)}


needs_gcc = pytest.mark.skipif(
    not LINUX or shutil.which("gcc") is None or not (CHECKOUT / "zdlfast/_cpu.h").exists(),
    reason="needs gcc, and the headers beside the tests",
)


def gcc(tmp_path, code, *flags):
    """Compile C code with the package's headers to a library."""
    (tmp_path / "code.c").write_text(code)
    return subprocess.run(
        ["gcc", "-std=c11", "-shared", "-fPIC", "-I", CHECKOUT / "zdlfast", *flags,
         "-o", tmp_path / "code.so", tmp_path / "code.c"],
        capture_output=True, text=True,
    )  # fmt: skip


@needs_gcc
@pytest.mark.parametrize("built", [(), ("AVX2",), ("AVX2", "AVX512")])
def test_the_cpu_has_nothing_that_was_not_built(tmp_path, built):
    code = '#include "_cpu.h"\nint has(void) { return zdl_has_avx2() + 2 * zdl_has_avx512(); }\n'
    done = gcc(tmp_path, code, "-Werror", *(f"-DZDL_BUILT_{name}=1" for name in built))
    assert done.returncode == 0, done.stderr
    has = ctypes.CDLL(str(tmp_path / "code.so")).has()
    available = _engine.available()
    assert bool(has & 1) == ("AVX2" in built and "avx2" in available)
    assert bool(has & 2) == ("AVX512" in built and "avx512" in available)


@needs_gcc
@pytest.mark.parametrize(
    "flag",
    ["-ffast-math", "-Ofast", "-fassociative-math -fno-signed-zeros -fno-trapping-math",
     "-freciprocal-math", "-ffinite-math-only", *["-mfpmath=387"] * X86_64],
)  # fmt: skip
def test_other_arithmetic_is_refused_at_build_time(tmp_path, flag):
    code = '#include "_float.h"\n'
    assert gcc(tmp_path, code, "-O2").returncode == 0
    done = gcc(tmp_path, code, *flag.split())
    assert "zdlfast computes the bits that NumPy computes" in done.stderr


@needs_gcc
@pytest.mark.skipif(not X86_64, reason="its gcc knows 32 bits too")
def test_32_bits_are_refused_at_build_time(tmp_path):
    done = gcc(tmp_path, '#include "_cpu.h"\n', "-m32", "-msse2", "-mfpmath=sse", "-fsyntax-only")
    assert "zdlfast needs a 64-bit CPU and operating system" in done.stderr
    assert gcc(tmp_path, '#include "_cpu.h"\n', "-fsyntax-only").returncode == 0


@pytest.mark.parametrize("broken", ["_engine", "_kernels_baseline"])
def test_a_missing_or_broken_extension_is_an_error_that_says_how_to_build_it(broken, tmp_path):
    ignore = shutil.ignore_patterns("__pycache__", "*.c")
    shutil.copytree(FOLDER, tmp_path / "zdlfast", ignore=ignore)
    binary = tmp_path / "zdlfast" / binary_of(broken).name
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
            [sys.executable, "-c", "from zdlfast import Adam"],
            cwd=tmp_path,
            env={**os.environ, "ZDLFAST_SIMD": "baseline"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 1
        assert "ImportError: zdlfast's compiled kernels cannot be imported" in done.stderr
        assert "pip install -e ." in done.stderr
        assert "circular" not in done.stderr


def objdump(name, *options):
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    command = ["objdump", *options, binary_of(name)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not LINUX, reason="reads ELF files")
@pytest.mark.parametrize("module", ["_engine", *(f"_kernels_{s}" for s in _engine.available())])
def test_no_module_has_a_fused_multiply_add(module):
    fused = r"\bvfn?m(?:add|sub)\w*" if X86_64 else r"\bf(?:n?m(?:add|sub|ad|sb)|n?ml[as]l?2?)\b"
    assert not re.findall(fused, objdump(module, "--disassemble"))


def code_of_loops(simd):
    """The machine code of each rule, with that of the loops that it calls."""
    name = f"_kernels_{simd}"
    text = objdump(name, "--disassemble", "--no-show-raw-insn")
    functions = re.findall(r"^(\w+) <(\S+)>:\n((?:.+\n)*)", text, re.MULTILINE)
    codes = {symbol: code for _, symbol, code in functions}
    offsets = {symbol: int(offset, 16) for offset, symbol, _ in functions}
    symbols = {offset: symbol for symbol, offset in offsets.items()}
    kernels, _module = golden.load(binary_of(name))
    known = ctypes.CDLL(str(binary_of(name)))[f"PyInit_{name}"]
    loaded_at = ctypes.cast(known, ctypes.c_void_p).value - offsets[f"PyInit_{name}"]
    for rule, row in golden.by_name(kernels).items():
        code = codes[symbols[ctypes.cast(row.loop, ctypes.c_void_p).value - loaded_at]]
        called = set(re.findall(r"<([^+>]+_(?:loop|call)\b[^+>]*)>", code))
        loops = {symbol for symbol in called if "_loop" in symbol}
        if called and not loops:  # it has only their addresses, which ARM's code does not name
            loops = {symbol for symbol in codes if "_loop" in symbol}
        yield rule, code + "".join(codes[symbol] for symbol in loops)


@pytest.mark.skipif(not LINUX or MACHINE not in ("x86_64", "aarch64"), reason="reads ELF files")
@pytest.mark.parametrize("simd", _engine.available())
def test_every_rule_computes_on_whole_registers_of_both_dtypes(simd):
    if ".debug_info" in objdump(f"_kernels_{simd}", "--section-headers"):
        pytest.skip("built with ZDLFAST_DEBUG=1")
    register = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}[simd]
    if X86_64:
        wide = {dtype: rf"\bv?(?:add|sub|mul)p{dtype}\b.*%{register}" for dtype in "sd"}
    else:
        wide = {n: rf"\bf(?:add|sub|mul)\s+v\d+\.{n}" for n in ("4s", "2d")}
    found = [
        (rule, dtype)
        for rule, code in code_of_loops(simd)
        for dtype, instruction in wide.items()
        if not re.search(instruction, code)
    ]
    assert found == [], "these loops are not vectorised"


@pytest.mark.skipif(not (X86_64 and LINUX), reason="reads x86-64 ELF files")
@pytest.mark.parametrize("simd", _engine.available())
def test_roots_and_divisions_are_as_wide_as_the_instruction_set(simd):
    if ".debug_info" in objdump(f"_kernels_{simd}", "--section-headers"):
        pytest.skip("built with ZDLFAST_DEBUG=1")
    register = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}[simd]
    wider = {"baseline": "[yz]mm", "avx2": "zmm", "avx512": "-"}[simd]
    text = objdump(f"_kernels_{simd}", "--disassemble")
    for operation in ("sqrtps", "sqrtpd", "divps", "divpd"):
        assert re.search(rf"\bv?{operation}\b.*%{register}", text), operation
    assert not re.search(rf"%{wider}", text)


def test_importing_the_package_takes_numpy_alone():
    done = python(
        "import sys, zdlfast; "
        "print([m for m in ('matplotlib', 'sklearn', 'rich', 'scipy') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(not LINUX or MACHINE not in ("x86_64", "aarch64"), reason="reads fenv_t")
def test_the_floating_point_mode_of_the_process_stays():
    """Neither an import nor an update flushes subnormal numbers, or leaves another rounding."""
    code = """
import ctypes, platform
libm = ctypes.CDLL(None)
def mode():
    env = (ctypes.c_uint32 * 8)()
    libm.fegetenv(env)
    if platform.machine() == "aarch64":
        return env[0]                           # FPCR
    return env[0] & 0xFFFF, env[7] & 0xFFC0     # x87's control word; MXCSR without its flags
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
