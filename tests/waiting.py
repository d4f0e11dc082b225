"""What a test waits for is looked at, and never hoped to have come about by a certain time."""

import dis
import linecache
import sys
import time

PATIENCE = 300  # seconds until a test gives up


def wait_until(condition):
    """Look again and again; a test that waits in vain fails."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def call(act, *args):
    """Where a thread is seen to stand while it is in a function of C."""
    return act(*args)


def waits(ident):
    """Whether a thread stands in the queue of an optimizer that another thread uses.

    It is within a call of C that takes a lock, and it has given up the GIL: else nobody could
    look.
    """
    frame = sys._current_frames().get(ident)
    if frame is None:
        return False
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    if "act(*args)" not in line and "._locked(" not in line:
        return False
    # The line's last call is the one that takes what its other calls return.
    calls = [
        instruction.offset
        for instruction in dis.get_instructions(frame.f_code)
        if instruction.opname.startswith("CALL") and instruction.positions.lineno == frame.f_lineno
    ]
    return calls[-1:] == [frame.f_lasti]
