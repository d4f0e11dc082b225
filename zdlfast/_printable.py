"""What is printed in the place of characters that an output cannot show."""

import codecs
import sys

SIMILAR = {"µ": "u", "×": "x", "²": "^2", "±": "+-", "∞": "inf", "…": "...", "–": "-"}


def replace_unprintable() -> None:
    """Let no character that the terminal's encoding lacks end a run, and its figures."""

    def similar(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        bad = error.object[error.start : error.end]
        return "".join(SIMILAR.get(character, "?") for character in bad), error.end

    codecs.register_error("similar", similar)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not what a test or a notebook puts there
            stream.reconfigure(errors="similar")
