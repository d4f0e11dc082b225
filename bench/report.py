"""What the benchmark leaves behind: a table on the screen, and all figures as JSON."""

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

import zdlfast
from bench.training import BATCH, LR, SEED, Result


def machine() -> dict[str, Any]:
    """What the figures depend on: CPU, versions, compiler and instruction set."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zdlfast": zdlfast.build_info(),
        "blas_threads": 1,
    }


def table(results: list[Result], title: str) -> Table:
    """One row per optimizer: the update alone, and the whole training."""
    # Narrow enough for a terminal of 80 columns.
    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    made.add_column("optimizer", no_wrap=True)
    for header in ("update\nNumPy", "update\nzdlfast", "ratio", "training\nNumPy",
                   "training\nzdlfast", "ratio", "final\naccuracy"):  # fmt: skip
        made.add_column(header, justify="right")
    for r in results:
        made.add_row(
            r.name,
            f"{r.numpy.update_median * 1e6:.0f} µs",
            f"{r.fast.update_median * 1e6:.0f} µs",
            f"{r.update_ratio:.1f}",
            f"{r.numpy.training_seconds:.2f} s",
            f"{r.fast.training_seconds:.2f} s",
            f"{r.training_ratio:.2f}",
            f"{r.accuracy:.1%}",
        )
    return made


def save(path: Path, results: list[Result], dtype: str, about: dict[str, Any]) -> None:
    """Write all figures, and the machine that they depend on, as JSON."""
    content = {
        "machine": about,
        "settings": {
            "network": "784-200-200-10",
            "data": "scikit-learn digits, 28x28",
            "dtype": dtype,
            "batch": BATCH,
            "lr": LR,
            "seed": SEED,
            "steps": len(results[0].fast.losses),
        },
        "results": [
            {
                "optimizer": r.name,
                "equal": not r.differences,
                "differences": r.differences,
                "update_ratio": r.update_ratio,
                "training_ratio": r.training_ratio,
                "accuracy": r.accuracy,
                "losses": r.fast.losses,
                **{
                    side: {
                        "update_seconds_quartiles": np.percentile(
                            measured.update_seconds, [25, 50, 75]
                        ).tolist(),
                        "update_seconds": measured.update_seconds,
                        "step_seconds": measured.step_seconds,
                        "training_seconds": measured.training_seconds,
                        "training_seconds_sum": sum(measured.step_seconds),
                    }
                    for side, measured in (("numpy", r.numpy), ("zdlfast", r.fast))
                },
            }
            for r in results
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
