"""python -m zdlfast SCRIPT [ARGS...]: run a script of the book with the fast optimizers."""

import argparse
import io
import os
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType

from zdlfast.drop_in import patch


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m zdlfast",
        usage="%(prog)s [-h] [--reference] SCRIPT [ARGS ...]",
        description="Run a Python script, unmodified, with zdlfast's classes in place of\n"
        "the optimizers that it or its modules import from common.optimizer.",
        epilog="to see that both print the same numbers:\n"
        "  python -m zdlfast train.py > fast.txt\n"
        "  python -m zdlfast --reference train.py > numpy.txt\n"
        "  diff fast.txt numpy.txt",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--reference", action="store_true", help="take the same rules in plain NumPy instead"
    )
    parser.add_argument("script", metavar="SCRIPT", help="the script, run as by python SCRIPT")
    parser.add_argument(
        "args", metavar="ARGS", nargs="*", default=[], help="what the script gets as sys.argv"
    )
    # Only what stands before the script is ours; argparse would take a "--" after it too.
    argv = sys.argv[1:]
    end = next((i for i, word in enumerate(argv) if not word.startswith("-")), len(argv)) + 1
    options = parser.parse_args(argv[:end])
    patch(reference=options.reference)
    run_script(options.script, [options.script, *argv[end:]])


def run_script(script: str, argv: list[str]) -> None:
    """Run a file as ``python SCRIPT`` does: as ``__main__``, with its folder first in the path.

    Parameters
    ----------
    script : str
        The file.
    argv : list of str
        What becomes ``sys.argv``, the script included.

    Raises
    ------
    SystemExit
        The file cannot be read (with status 2, as Python's own), or the script raised it.
    """
    path = os.path.join(os.getcwd(), script)  # unnormalised, as Python itself has it
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        print(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    main_module = ModuleType("__main__")
    vars(main_module).update(
        __annotations__={},
        __builtins__=sys.modules["builtins"],
        __cached__=None,
        __file__=path,
        __loader__=SourceFileLoader("__main__", path),
    )
    sys.modules["__main__"] = main_module
    sys.argv[:] = argv
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(main_module))
    except SystemExit:
        raise
    except BaseException as error:
        own_frame = error.__traceback__
        _print_only(own_frame.tb_next if own_frame else None)
        raise


def _print_only(frames: TracebackType | None) -> None:
    """Have the interpreter, when it prints the exception to come, show these frames alone."""
    hook = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, _: TracebackType | None) -> None:
        hook(kind, error.with_traceback(frames), frames)

    sys.excepthook = show


if __name__ == "__main__":
    main()
