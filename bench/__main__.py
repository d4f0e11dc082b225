"""python -m bench: NumPy against zdlfast, in training and alone, and against others."""

import argparse
import os
from pathlib import Path
from types import ModuleType

from rich.console import Console

from bench import allocator, report
from bench.internals import replace_unprintable
from bench.jobs import (
    compare,
    compare_builds,
    denormals,
    kernels,
    lowbit,
    machine,
    models,
    mpi,
    peers,
    readme,
    rules,
    sklearn,
    torch,
    training,
)

# The jobs beside the main one, which is the training with a short table of the kernels.
JOBS: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module
    for module in (
        training,
        kernels,
        models,
        peers,
        rules,
        denormals,
        lowbit,
        sklearn,
        torch,
        mpi,
        machine,
        compare,
        compare_builds,
        readme,
    )
}
# Those whose figures are in the documents.
PUBLISHED = [
    training.main_job,
    kernels.main,
    models.main,
    peers.main,
    denormals.main,
    lowbit.main,
    sklearn.main,
    mpi.main,
]


def main() -> int:
    replace_unprintable()
    options = make_parser().parse_args()
    allocator.keep_memory()
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
        return report.INTERRUPTED
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
    parser.set_defaults(float64=False)
    parser.set_defaults(dtype="float64", published=PUBLISHED)
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
