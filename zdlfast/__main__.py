"""python -m zdlfast SCRIPT [ARGS...]: run a script with the fast optimizers."""

import argparse
import io
import os
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from types import ModuleType, TracebackType

from zdlfast.adapters import FRAMEWORKS, patch_all
from zdlfast.adapters._adapter import Adapter
from zdlfast.adapters._report import Counter, tell_at_end


class _Check(argparse.Action):
    def __call__(self, *_: object) -> None:
        from zdlfast import _check  # not for every script

        raise SystemExit(_check.main())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m zdlfast",
        usage="%(prog)s [-h] [--only NAMES] [--reference] [--report] SCRIPT [ARGS ...]\n"
        "       %(prog)s --check",
        description="Run a Python script, unmodified, with zdlfast's steps in place of those of\n"
        "the optimizers that it or its modules import from the book's common.optimizer,\n"
        "from scikit-learn (MLPClassifier, MLPRegressor) or from DeZero.",
        epilog="to see that both print the same numbers:\n"
        "  python -m zdlfast train.py > fast.txt\n"
        "  python -m zdlfast --reference train.py > numpy.txt\n"
        "  diff fast.txt numpy.txt\n\n"
        'With plain "python train.py", float64 gives the same numbers too. float32 need not:\n'
        "with NumPy 2 the book's Adam computes partly in float64, as does each of its rules\n"
        "if lr is an np.float64. zdlfast stays in float32; the sixth digit may differ.\n"
        "With scikit-learn and DeZero, both dtypes give the same numbers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--check",
        action=_Check,
        nargs=0,
        help="run no script: compare zdlfast's bits and speed with NumPy's on this machine",
    )
    parser.add_argument(
        "--only",
        type=_frameworks,
        default=FRAMEWORKS,
        metavar="NAMES",
        help=f"patch only these, of {','.join(FRAMEWORKS)}; default: whatever is imported",
    )
    parser.add_argument(
        "--reference", action="store_true", help="take the same rules in plain NumPy instead"
    )
    parser.add_argument(
        "--report", action="store_true", help="at the end, say how long updates took, on stderr"
    )
    parser.add_argument("script", metavar="SCRIPT", help="the script, run as by python SCRIPT")
    parser.add_argument(
        "args", metavar="ARGS", nargs="*", default=[], help="what the script gets as sys.argv"
    )
    # Only what stands before the script is ours; argparse would take a "--" after it too.
    argv = sys.argv[1:]
    end = _count_own(argv) + 1
    options = parser.parse_args(argv[:end])
    path = os.path.join(os.getcwd(), options.script)  # unnormalised, as Python itself has it
    source = read_script(path)
    counter = Counter() if options.report else None
    adapters = patch_all([(name, options.reference) for name in options.only], counter)
    tell_at_end(lambda: _lines(adapters, counter))
    run_script(path, source, [options.script, *argv[end:]])


def _count_own(words: list[str]) -> int:
    """How many words of the command line stand before the script."""
    count = 0
    while count < len(words) and words[count].startswith("-"):
        count += 2 if words[count] == "--only" else 1
    return count


def _frameworks(names: str) -> list[str]:
    """What ``--only`` names."""
    found = names.split(",")
    for name in found:
        if name not in FRAMEWORKS:
            raise argparse.ArgumentTypeError(
                f"expected names of {','.join(FRAMEWORKS)}, got {name!r}"
            )
    return found


def _lines(adapters: list[Adapter], counter: Counter | None) -> Iterator[str]:
    modules = [adapter.shown for adapter in adapters]
    if counter is not None and counter.totals:
        yield "zdlfast: updates in this process"
        yield from counter.table()
    elif not sys.modules.keys().isdisjoint(modules):
        if counter is not None:
            yield "zdlfast: no updates in this process"
    elif not hasattr(sys, "last_type"):  # else the script failed, maybe before its imports
        what = ", ".join(modules[:-1]) + " or " * (len(modules) > 1) + modules[-1]
        yield f"zdlfast: this process never imported {what}: the script's own code ran"


def read_script(path: str) -> bytes:
    """Read a file as ``python PATH`` does.

    Parameters
    ----------
    path : str
        The file.

    Returns
    -------
    bytes
        The source.

    Raises
    ------
    SystemExit
        The file cannot be read: with status 2, as Python's own.
    """
    try:
        with io.open_code(path) as file:
            return file.read()
    except OSError as error:
        print(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def run_script(path: str, source: bytes, argv: list[str]) -> None:
    """Run a file as ``python PATH`` does: as ``__main__``, with its folder first in the path.

    Parameters
    ----------
    path : str
        The file.
    source : bytes
        What is in it.
    argv : list of str
        What becomes ``sys.argv``, the script included.
    """
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
