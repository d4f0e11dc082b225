"""python -m bench: NumPy against zdlfast, in training and alone, and against others."""

import argparse
import os
from pathlib import Path
from types import ModuleType

from rich.console import Console

from bench import compare, denormals, kernels, models, peers, readme, training
from bench.jobs import compare_builds
from bench.report import INTERRUPTED

# The jobs beside the main one, which is the training with a short table of the kernels.
JOBS: dict[str, ModuleType] = {
    "training": training,
    "kernels": kernels,
    "models": models,
    "peers": peers,
    "denormals": denormals,
    "compare": compare,
    "compare-builds": compare_builds,
    "readme": readme,
}


def main() -> int:
    options = make_parser().parse_args()
    console = Console(highlight=False)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out, os.W_OK):
            raise PermissionError(f"nothing can be written to the folder {options.out}")
        status: int = options.main(options, console)
    except OSError as error:
        console.print("error:", error, style="bold red", markup=False)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=training.DESCRIPTION
        + "\nAfter that, each update alone, on arrays of 1,000 and of 1,000,000 elements.\n"
        "More is measured by the jobs below; 'python -m bench JOB --help' explains each.",
        epilog=training.EPILOG,
    )
    # Of all jobs: an option may stand before the job's name or after it.
    parser.set_defaults(main=training.main_job, quick=False, out=Path("bench-results"))
    parser.set_defaults(dtype="float64")
    training.configure(parser)
    jobs = parser.add_subparsers(title="jobs", metavar="JOB")
    for name, module in JOBS.items():
        job = jobs.add_parser(
            name,
            help=module.HELP,
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        job.set_defaults(main=module.main)
        module.configure(job)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
