"""python -m zdlfast --check: right on this machine, and loud where a bit differs."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import zdlfast
from zdlfast import _check, _engine, reference


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp932"])
def test_it_says_what_is_used_and_that_all_bits_are_equal(encoding):
    done = subprocess.run(
        [sys.executable, "-m", "zdlfast", "--check"],
        env={**os.environ, "PYTHONIOENCODING": encoding, "LANG": "C"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")
    info = zdlfast.build_info()
    first, *lines = done.stdout.splitlines()
    assert first.startswith(f"zdlfast {zdlfast.__version__}, NumPy {np.__version__}, Python 3.")
    assert f"  instruction set  {info['simd']}" in lines
    assert f"  threads          {info['threads']}" in lines
    assert f"  compiler         {info['compiler']}" in lines
    for name in zdlfast.optimizers.__all__:
        for dtype in "float32", "float64":
            row = [name, dtype, *["yes"] * len(_engine.available())]
            assert row in [line.split() for line in lines]
    for dtype in "float32", "float64":
        pattern = rf"  {dtype}    *\d+\.\d{{3}}  *\d+\.\d{{3}}    \d+\.\d times as fast"
        assert any(re.fullmatch(pattern, line) for line in lines)
    assert lines[-1] == "Every bit is equal: training gives the same numbers as with NumPy."


class LastBit(reference.Adam):
    """Adam, but for the last bit of the largest array, on one instruction set."""

    def update(self, params, grads):
        super().update(params, grads)
        if _engine.in_use() == "baseline":
            array = params[max(params)]
            array[-1] = np.nextafter(array[-1], np.inf, dtype=array.dtype)


def test_one_bit_on_one_instruction_set_is_found(monkeypatch, capsys):
    monkeypatch.setattr(zdlfast.optimizers, "Adam", LastBit)
    before = _engine.in_use()
    assert _check.main() == 1
    assert _engine.in_use() == before
    printed = capsys.readouterr().out
    others = " ".join(["yes"] * (len(_engine.available()) - 1))
    words = " ".join(printed.split())
    assert f"Adam float32 NO {others}".rstrip() in words
    assert f"Adam float64 NO {others}".rstrip() in words
    assert words.count(" NO ") == 2
    assert "NOT EQUAL" in printed.splitlines()[-1]
