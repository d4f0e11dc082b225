"""How ranks wait, agree and raise the same error: nobody is left behind in a collective."""

import builtins
import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

import numpy as np
from mpi4py import MPI

# Who waits asks again at once, because MPI sends only while it is asked. After a while, and sooner
# if there are more ranks than CPUs, it sleeps in between: others may need the CPU.
SHORT, SHORT_IF_CROWDED = 5e-3, 1e-4  # seconds
NAP = 1e-5
# How long a rank that was interrupted, or has failed outside of an update, waits for the others
# to hear of it: they may never come.
PATIENCE = 10.0
LONGEST = 4000  # bytes of an error's text

#: Lines that all ranks have to have in common: what it is, and its value.
Description = Sequence[tuple[str, str]]


class Interrupts:
    """Holds Ctrl-C back while ranks work together, in a ``with`` block.

    They agree what to do about it. A second Ctrl-C is not held back.
    """

    def __init__(self, ranks: "Ranks") -> None:
        self.since: float | None = None
        self._told = False
        self._before: Any = None
        self._ranks = ranks

    def __enter__(self) -> "Interrupts":
        if self._ranks.lost:
            raise RuntimeError(
                "the ranks have lost each other, because one of them stopped to wait or failed in "
                "the middle: go on from a checkpoint, in a new run"
            )
        # Elsewhere no signal handler runs; and one of the user's own knows what it does.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        if error is not None and error is not self._ranks.together:
            self._ranks.lost = True
        if self.since is not None and not self._told and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.since is not None:
            raise KeyboardInterrupt(f"rank {self._ranks.rank} was interrupted twice")
        self.since = time.monotonic()

    def error(self) -> KeyboardInterrupt | None:
        """What to tell the other ranks, if there was one."""
        if self.since is None or self._told:
            return None
        self._told = True
        return KeyboardInterrupt("interrupted")


class Ranks:
    """The ranks of a communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Of which a duplicate is used, so that no message of the program's own is in the way.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm = comm.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        machine = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        crowded = machine.size > (os.cpu_count() or 1)
        machine.Free()
        self._short = SHORT_IF_CROWDED if crowded else SHORT
        self.together: BaseException | None = None  # what all ranks raised last
        self.lost = False  # whether one stopped to wait for the others
        self._kept: list[Any] = []

    def wait(
        self,
        request: MPI.Request | list[MPI.Request],
        kept: Any,
        interrupts: Interrupts | None = None,
    ) -> None:
        """Wait until a request is done, or several, in a way that can be interrupted.

        Parameters
        ----------
        request : mpi4py.MPI.Request or list
        kept : object
            The memory that it uses.
        interrupts : Interrupts, optional
            Those that are held back meanwhile.
        """
        requests = request if isinstance(request, list) else [request]
        done = False
        begin = time.monotonic()
        try:
            while not (done := MPI.Request.Testall(requests)):
                now = time.monotonic()
                if now - begin > self._short:
                    time.sleep(NAP)
                since = begin if interrupts is None else interrupts.since
                if since is not None and now - since > PATIENCE:
                    raise KeyboardInterrupt(
                        f"rank {self.rank} was interrupted, and the other ranks did not answer "
                        f"within {PATIENCE:g} s"
                    )
        finally:
            if not done:
                # MPI may write there as long as the process lives.
                self.lost = True
                self._kept.append((requests, kept))

    def agree(
        self,
        error: BaseException | None,
        interrupts: Interrupts | None,
        description: Description = (),
        own: Callable[[str, str], str | None] | None = None,
    ) -> None:
        """Raise the same error on all ranks, if one has any or their descriptions differ.

        Parameters
        ----------
        error : exception, optional
            This rank's.
        interrupts : Interrupts or None
            Those that are held back meanwhile, and told here.
        description : sequence of pairs
            What all ranks must have in common.
        own : callable, optional
            Is called on every rank with the name of an error's type and its text, and may return
            a better text; for that it may communicate.
        """
        if interrupts is not None:
            error = error or interrupts.error()
        digest = _digest(description)
        vote = np.array([self.size - self.rank if error else 0, digest, ~digest], np.int64)
        self.wait(self.comm.Iallreduce(MPI.IN_PLACE, vote, MPI.MAX), vote, interrupts)
        if vote[0] == 0 and vote[1] != ~vote[2]:
            error = self._difference(description, interrupts)
            vote[0] = self.size - self.rank if error else 0
            self.wait(self.comm.Iallreduce(MPI.IN_PLACE, vote[:1], MPI.MAX), vote, interrupts)
        if vote[0] > 0:
            self._raise(error, self.size - int(vote[0]), interrupts, own)

    def _raise(
        self,
        error: BaseException | None,
        root: int,
        interrupts: Interrupts | None,
        own: Callable[[str, str], str | None] | None,
    ) -> NoReturn:
        """Raise the error of one rank on all of them."""
        text = np.zeros(LONGEST, np.uint8)
        if self.rank == root and error is not None:
            message = error.args[0] if len(error.args) == 1 else str(error)
            named = isinstance(error, _DifferenceError)
            content = [type(error).__name__, str(message)[: LONGEST // 8], named]
            packed = json.dumps(content).encode()
            text[: len(packed)] = np.frombuffer(packed, np.uint8)
        self.wait(self.comm.Ibcast(text, root), text, interrupts)
        kind, message, named = json.loads(text.tobytes().rstrip(b"\0"))
        better = own(kind, message) if own is not None else None
        self.together = _make(kind, better or (message if named else f"rank {root}: {message}"))
        raise self.together from (error if self.rank == root else None)

    def _difference(
        self, description: Description, interrupts: Interrupts | None
    ) -> Exception | None:
        """What this rank's description has that rank 0's has not, if there is anything."""
        text = np.frombuffer(json.dumps(list(description)).encode(), np.uint8)
        size = np.array([len(text)], np.int64)
        self.wait(self.comm.Ibcast(size, 0), size, interrupts)
        theirs = text.copy() if self.rank == 0 else np.zeros(int(size[0]), np.uint8)
        self.wait(self.comm.Ibcast(theirs, 0), theirs, interrupts)
        first = dict(json.loads(theirs.tobytes()))
        ours = dict(description)
        here = f"on rank {self.rank}"
        for what in (*first, *ours):
            if what not in ours:
                return _DifferenceError(f"{what} is there on rank 0, but not {here}")
            if what not in first:
                return _DifferenceError(f"{what} is there {here}, but not on rank 0")
            if first[what] != ours[what]:
                return _DifferenceError(
                    f"{what} is {first[what]} on rank 0, but {ours[what]} {here}"
                )
        if list(first) != list(ours):
            place = next(i for i, (a, b) in enumerate(zip(first, ours, strict=True)) if a != b)
            return _DifferenceError(
                f"{list(first)[place]} comes on rank 0 where {list(ours)[place]} comes {here}: "
                "the order has to be the same"
            )
        return None

    def leave(self, error: BaseException) -> None:
        """Tell the other ranks, wherever they meet next, of an error that they know nothing of."""
        known: BaseException | None = error
        while known is not None and known is not self.together:
            known = known.__context__
        if known is not None or self.lost:
            return
        try:
            self.agree(error, None)
        except BaseException as told:
            # Its own error goes on; what all raised instead has been said.
            if told is not self.together:
                raise


class _DifferenceError(ValueError):
    """Names its rank itself."""


def _digest(description: Description) -> int:
    """A number for a description: 62 bits, because its complement is compared too."""
    digest = hashlib.blake2b(repr(list(description)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


def _make(kind: str, text: str) -> BaseException:
    """An error of a built-in type; of another one, its name stands in the text."""
    if kind == _DifferenceError.__name__:
        return ValueError(text)
    cls = getattr(builtins, kind, None)
    if isinstance(cls, type) and issubclass(cls, Exception | KeyboardInterrupt):
        try:
            return cls(text)
        except TypeError:
            pass  # it takes more than a text
    return RuntimeError(f"{kind}: {text}")


def hash_of(array: np.ndarray) -> str:
    """A short hash of an array's values."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return hashlib.blake2b(plain.reshape(-1).view(np.uint8).data, digest_size=8).hexdigest()
