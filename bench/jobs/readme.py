"""The job ``readme``: measure everything, and put the figures into the documents."""

import argparse
import os
import re
import shutil
from pathlib import Path

from rich.console import Console

from bench import report

HELP = "measure everything, and put the figures into the documents"
DESCRIPTION = """\
Run the main job and the jobs kernels, models, peers, denormals, lowbit, sklearn and mpi, and put
their tables and pictures into both READMEs, bench/README.md, docs/low_bit.md and docs/mpi.md, so
that no figure there is typed by hand. A table goes where the document has a line
'<!-- from FILE -->' before a block of text.
"""
EPILOG = """\
files in DIR: those of all jobs

exit status: that of the first job that fails; the documents are left as they were then
"""
ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "README.ja.md",
    ROOT / "bench" / "README.md",
    ROOT / "docs" / "low_bit.md",
    ROOT / "docs" / "mpi.md",
]
FIGURES = ROOT / "bench" / "figures"
BLOCK = re.compile(r"(<!-- from (?P<file>\S+) -->\n```text\n).*?(?=```\n)", re.DOTALL)


def configure(parser: argparse.ArgumentParser) -> None:
    report.add_options(parser, "measure quickly, to try it out: these are no figures to publish")


def main(options: argparse.Namespace, console: Console) -> int:
    for job in options.published:
        status: int = job(options, console)
        if status:
            return status
    for document in DOCUMENTS:
        document.write_text(paste(document.read_text("utf-8"), options.out), "utf-8")
    for figure in FIGURES.glob("*.png"):
        shutil.copyfile(options.out / figure.name, figure)
    console.print(
        f"{', '.join(os.path.relpath(d, ROOT) for d in DOCUMENTS)} have these figures now"
    )
    return 0


def paste(document: str, folder: Path) -> str:
    """A document with its tables taken from the files of a folder."""

    def table(found: re.Match[str]) -> str:
        lines = (folder / found["file"]).read_text("utf-8").splitlines()
        return found[1] + "\n".join(line.rstrip() for line in lines) + "\n"

    return BLOCK.sub(table, document)
