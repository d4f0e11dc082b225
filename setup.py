"""The extension modules and their flags; everything else is in pyproject.toml."""

import os
import re
import sys
import sysconfig
from glob import glob

import numpy
from setuptools import Extension, setup

windows = sys.platform == "win32"
# What is built for, which need not be what is built on: macOS names it in ARCHFLAGS. Code for
# two at once ("universal2") takes the flags that both have.
archs = set(re.findall(r"-arch\s+(\S+)", os.environ.get("ARCHFLAGS", "")))
archs = archs or {sysconfig.get_platform().rsplit("-", 1)[-1]}
x86_64 = archs <= {"x86_64", "amd64"}
# One binary for all of CPython >= 3.11, where the limited API exists.
abi3 = not sysconfig.get_config_var("Py_GIL_DISABLED")

# -O3 and -fno-math-errno make roots and divisions wide; -ffp-contract=off keeps a product and
# a sum from being fused, which would change bits. Nothing like -ffast-math, ever: it changes
# results, and the floating-point mode of the whole process at import (_float.h refuses it).
# ZDLFAST_DEBUG=1 is for debuggers, sanitizers and gcov (CONTRIBUTING.md): next to no
# optimization, and lines that are Cython's and not those of the generated C.
debug = os.environ.get("ZDLFAST_DEBUG") == "1"
if windows:
    flags = ["/O2", "/fp:precise", "/std:c11", "/experimental:c11atomics"]
    simd = {"baseline": [], "avx2": ["/arch:AVX2"], "avx512": ["/arch:AVX512"]}
else:
    flags = ["-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
    flags += ["-O1", "-g"] if debug else ["-O3", "-g0"]
    avx512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")]
    avx512.append("-mprefer-vector-width=512")  # else clang prefers 256 bits
    simd = {"baseline": [], "avx2": ["-mavx2"], "avx512": avx512}
if not x86_64:
    simd = {"baseline": []}

# A module may be loaded on a CPU that has all that its flags allow: _cpu.h asks for that, and
# only if the module was built.
macros = [
    *((f"ZDL_BUILT_{name.upper()}", "1") for name in simd if name != "baseline"),
    ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
    ("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"),
]
if abi3:
    macros.append(("Py_LIMITED_API", "0x030B0000"))


def extension(name: str, extra_flags: list[str], sources: tuple[str, ...] = ()) -> Extension:
    return Extension(
        f"zdlfast.{name}",
        [f"zdlfast/{file}" for file in (f"{name}.pyx", *sources)],
        include_dirs=["zdlfast", numpy.get_include()],
        define_macros=macros,
        extra_compile_args=flags + extra_flags,
        extra_link_args=[] if windows else ["-pthread", "-lm"],
        depends=[file for kind in ("h", "pxd", "pxi") for file in glob(f"zdlfast/*.{kind}")],
        py_limited_api=abi3,
    )


setup(
    ext_modules=[
        extension("_engine", [], ("_pool.c", "_lock.c", "_tuning.c")),
        *(extension(f"_kernels_{name}", isa) for name, isa in simd.items()),
    ],
    options={
        "build_ext": {"cython_line_directives": debug, "force": debug},
        "bdist_wheel": {"py_limited_api": "cp311" if abi3 else ""},
    },
)
