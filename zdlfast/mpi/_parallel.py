"""Training by several processes, each with its own part of the data."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
from mpi4py import MPI

from zdlfast import _validation as validation
from zdlfast._optimizer import Grads, Optimizer, Params
from zdlfast.mpi import _checkpoint
from zdlfast.mpi._look import Look, look, settings_of, values_of
from zdlfast.mpi._plan import Gradients, Parameters
from zdlfast.mpi._ranks import Description, Interrupts, Ranks
from zdlfast.mpi._shards import Shards, Shared

#: What is made of the gradients of all ranks.
Reduction = Literal["mean", "sum"]


class DataParallel:
    """An optimizer that several processes update together, each with its own gradients.

    Every rank of an MPI program makes one, with equal optimizers and equal parameters, and calls
    `update` as often as all others. Gradients are averaged over the ranks; after each update the
    parameters are the same on all of them, bit for bit.

    Parameters
    ----------
    optimizer : Optimizer
        Any of `zdlfast` or `zdlfast.reference`. It stays an attribute: its options are set and
        its state is read there, on all ranks alike.
    comm : mpi4py.MPI.Intracomm, optional
        Whose ranks take part; a duplicate of it is used. All ranks there are, if it is not given.
    reduction : {"mean", "sum"}
        Whether gradients are divided by the number of ranks after they were added up. Keyword
        only.
    shard_state : bool, default False
        Whether each rank keeps and updates its share of the state alone, a part of the elements,
        and the ranks send each other parameters in the place of gradients. Keyword only.

    Attributes
    ----------
    optimizer : Optimizer
        The one that was given. With `shard_state`, its state has this rank's part of each array,
        one-dimensional, in dicts.
    bytes_sent : int
        What this rank has sent to others in all updates: of arrays, not of short messages.

    Raises
    ------
    TypeError, ValueError
        An argument is not as it has to be.

    Notes
    -----
    The average does not depend on MPI, on its algorithms or on how messages are cut. Each element
    is owned by one rank: that adds the gradients of all ranks in the order of the ranks, in their
    dtype, and divides the sum by the number of ranks. What comes out is sent to all others. Each
    rank sends ``2 * (n - 1) / n`` of the bytes of all gradients, and less is not possible. So one
    process that adds the gradients of n ranks in this order, divides them by n and calls
    ``optimizer.update`` has the same bits, with or without `shard_state`.

    Parts of the state begin at multiples of 4,096 elements of an array.

    Before an update changes anything, the ranks agree that all of them can do it. Where keys,
    shapes, dtypes, options or initial values differ, a gradient holds NaN and
    ``nonfinite="raise"`` was given, or one rank fails in whatever way, all of them raise the same
    error, which names key and rank, and nothing has changed on any of them.

    Ctrl-C is held back within an update until the ranks have agreed. Then all raise
    KeyboardInterrupt, and the update is done on all of them or on none. If the others do not
    answer within 10 seconds, or at a second Ctrl-C, the rank that was interrupted stops to wait:
    after that, this object cannot be used any more.

    As a context manager, it also tells the others of an error outside of updates, which they
    would wait for in vain::

        with DataParallel(Adam(), comm) as optimizer:
            for x, t in batches:
                optimizer.update(params, network.gradient(x, t))

    References
    ----------
    Rajbhandari, Rasley, Ruwase, He, "ZeRO: memory optimizations toward training trillion parameter
    models", arXiv:1910.02054, for `shard_state` (its first stage).

    Examples
    --------
    Of one process, for once:

    >>> import numpy as np
    >>> from zdlfast import SGD
    >>> optimizer = DataParallel(SGD(lr=0.5))
    >>> params = {"W": np.array([1.0])}
    >>> optimizer.update(params, {"W": np.array([2.0])})
    >>> params["W"]
    array([0.])
    """

    def __init__(
        self,
        optimizer: Optimizer,
        comm: MPI.Intracomm | None = None,
        *,
        reduction: Reduction = "mean",
        shard_state: bool = False,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"DataParallel takes an optimizer of zdlfast, got {type(optimizer).__name__}"
            )
        defining = next(cls for cls in type(optimizer).__mro__ if "update" in vars(cls))
        if defining.__module__.partition(".")[0] != "zdlfast":
            raise TypeError(
                f"{type(optimizer).__name__} has an update of its own, which would be passed over"
            )
        comm = MPI.COMM_WORLD if comm is None else comm
        if not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm must be a communicator of mpi4py, got {type(comm).__name__}")
        self.reduction = validation.choice("reduction", reduction, get_args(Reduction))
        self.shard_state = validation.flag("shard_state", shard_state)
        self.optimizer = optimizer
        self.bytes_sent = 0
        self._ranks = Ranks(comm)
        self._shards = Shards(optimizer, self._ranks)
        self._known: set[Any] = set()  # keys whose values were equal on all ranks at first
        self._gradients: Gradients | None = None  # of the last update
        self._parameters: Parameters | None = None

    def __repr__(self) -> str:
        options = f"reduction={self.reduction!r}, shard_state={self.shard_state}"
        return f"DataParallel({self.optimizer!r}, {options})"

    def update(self, params: Params, grads: Grads) -> bool | None:
        """Take one step with the average of the gradients: as `Optimizer.update`, on all ranks.

        Parameters
        ----------
        params : mapping or list
            Equal on all ranks. With `shard_state`, arrays of floats that share no memory, and
            whose state has their own dtype.
        grads : mapping or sequence
            This rank's: arrays of NumPy's and numbers.

        Returns
        -------
        False or None
            False, on all ranks, if the update was skipped: see `Optimizer.update`.

        Raises
        ------
        ValueError
            Ranks differ in something that they must have in common.
        KeyboardInterrupt
            A rank was interrupted.
        Exception
            Whatever `Optimizer.update` raises on one rank, with the rank's number in its text.
        """
        with Interrupts(self._ranks) as interrupts:
            error = None
            lines: Description = ()
            try:
                found = look(self.optimizer, params, grads)
                coming = self._shards.coming(found) if self.shard_state else {}
                gradients, parameters = self._plan(found, coming)
                lines = [("the call", "update"), *self._settings(), *gradients.lines]
                lines += values_of(self.optimizer, found, self._known)
            except Exception as failed:
                error = failed
            self._ranks.agree(error, interrupts, lines)
            self._gradients, self._parameters = gradients, parameters
            before = self._sent()
            self._known.update(found.keys)
            undo = self._shards.add(coming, found.by_key)
            try:
                if parameters is None:
                    return self._update_whole(found, gradients, params, interrupts)
                return self._update_shards(found, gradients, parameters, interrupts)
            except BaseException:
                undo()
                raise
            finally:
                self.bytes_sent += self._sent() - before

    def _plan(self, found: Look, coming: dict[Any, Shared]) -> tuple[Gradients, Parameters | None]:
        """What is sent: as in the last update if arrays are like those, else anew."""
        gradients, parameters = self._gradients, self._parameters
        shared = self._shards.arrays | coming if self.shard_state else None
        if gradients is None or gradients.facts != found.facts:
            gradients = Gradients(self._ranks, found, self.reduction == "mean", shared)
            parameters = None
        gradients.take(found)
        if shared is None:
            return gradients, None
        values = [found.values[place] for place in gradients.places]
        if parameters is None:
            keys = [found.keys[place] for place in gradients.places]
            return gradients, Parameters(self._ranks, keys, values, shared)
        parameters.take(values)
        return gradients, parameters

    def _sent(self) -> int:
        exchanges = [each.exchange for each in (self._gradients, self._parameters) if each]
        return sum(exchange.sent for exchange in exchanges)

    def _settings(self) -> list[tuple[str, str]]:
        own = [("reduction", self.reduction), ("shard_state", repr(self.shard_state))]
        return own + settings_of(self.optimizer)

    def _update_whole(
        self, found: Look, gradients: Gradients, params: Any, interrupts: Interrupts
    ) -> bool | None:
        """Average all gradients on all ranks, of which each does the whole update."""
        gradients.average(interrupts)

        def whole() -> tuple[Any, ...]:
            grads = list(found.gradients)
            for place, average in zip(gradients.places, gradients.averages, strict=True):
                grads[place] = _like(grads[place], average)
            by_key = found.by_key
            return params, dict(zip(found.keys, grads, strict=True)) if by_key else grads, None

        return self._step(whole, found, gradients, interrupts)

    def _update_shards(
        self, found: Look, gradients: Gradients, parameters: Parameters, interrupts: Interrupts
    ) -> bool | None:
        """Average what each rank owns; let it update that, and send the parameters to all."""
        optimizer = self.optimizer
        asks = optimizer.clip_norm is not None or optimizer.nonfinite != "propagate"
        gradients.average_own(interrupts)
        if asks:
            gradients.read(interrupts)

        def part() -> tuple[Any, ...]:
            own = parameters.own()
            keys = [found.keys[place] for place in gradients.places]
            pairs = zip(keys, gradients.averages, strict=True)
            grads = {key: average for key, average in pairs if key in own}
            return own, grads, gradients.reading() if asks else None

        result = self._step(part, found, gradients, interrupts)
        if result is None:
            parameters.send(interrupts)
        return result

    def _step(
        self,
        what: Callable[[], tuple[Any, ...]],
        found: Look,
        gradients: Gradients,
        interrupts: Interrupts,
    ) -> bool | None:
        """Let the optimizer update what this rank updates, if all ranks can.

        Parameters
        ----------
        what : callable
            Returns the parameters, their gradients, and what is known of all gradients.
        """
        agreed = False

        def whose(kind: str, text: str) -> str | None:
            if kind == "FloatingPointError" and self.optimizer.nonfinite == "raise":
                return self._whose(found, text, interrupts)
            return None

        def agree(error: Exception | None = None) -> None:
            nonlocal agreed
            agreed = True
            self._ranks.agree(gradients.exchange.error or error, interrupts, own=whose)

        optimizer = self.optimizer
        try:
            params, grads, reading = what()
            return optimizer._locked(True, optimizer._update, params, grads, agree, reading)
        except Exception as error:
            if not agreed:
                agree(error)
            raise

    def _whose(self, found: Look, text: str, interrupts: Interrupts) -> str:
        """The text of the error about a gradient that is not finite, with the rank that has it."""
        sent = [place for place, fact in enumerate(found.facts) if fact.is_sent]
        bad = [place for place in sent if not validation.is_finite(found.gradients[place])]
        here = min(bad, default=len(found.keys))
        first = np.array([here * self._ranks.size + self._ranks.rank], np.int64)
        self._ranks.wait(
            self._ranks.comm.Iallreduce(MPI.IN_PLACE, first, MPI.MIN), first, interrupts
        )
        place, rank = divmod(int(first[0]), self._ranks.size)
        if place == len(found.keys):
            return f"{text}: not on one rank, but in the sum over all"
        key = found.keys[place]
        return f"grads[{key!r}] holds NaN or infinity on rank {rank}, expected finite numbers"

    def train(self, params: Params) -> None:
        """Call the method of this name of the optimizer, where it has one, on all ranks."""
        self._move("train", params)

    def eval(self, params: Params) -> None:
        """Call the method of this name of the optimizer, where it has one, on all ranks."""
        self._move("eval", params)

    def _move(self, name: str, params: Any) -> None:
        with Interrupts(self._ranks) as interrupts:
            error = None
            lines: Description = ()
            parameters: Parameters | None = None
            try:
                move = getattr(self.optimizer, name)
                found = look(self.optimizer, params, _no_gradients(params))
                lines = [("the call", name), *self._settings()]
                lines += [line for fact in found.facts for line in fact.lines()]
                if self.shard_state:
                    self._shards.coming(found)
                    shared = self._shards.arrays
                    pairs = zip(found.keys, found.values, strict=True)
                    known = {key: value for key, value in pairs if key in shared}
                    parameters = Parameters(self._ranks, list(known), list(known.values()), shared)
            except Exception as failed:
                error = failed
            self._ranks.agree(error, interrupts, lines)
            error = None
            try:
                move(params if parameters is None else parameters.own())
            except Exception as failed:
                error = failed
            self._ranks.agree(error, interrupts)
            if parameters is not None:
                parameters.send(interrupts)

    def save(self, path: Any, params: Any = None, *, per_rank: bool = False) -> None:
        """Write a checkpoint, together with all other ranks: `zdlfast.load` reads it.

        Parameters
        ----------
        path : path
            A file, as `zdlfast.save` takes it, which rank 0 writes. With `per_rank` a folder,
            that all ranks see.
        params : mapping or list, optional
            The parameters.
        per_rank : bool, default False
            Whether each rank writes its share of all arrays, to a file of its own, instead of
            sending it to rank 0. Keyword only.

        Raises
        ------
        TypeError, ValueError, OSError
            What `zdlfast.save` raises on one rank, on all of them. One file is then the old one or
            the new one, whole. Of a folder, some files may be new: `zdlfast.load` raises an error
            if they are not of one step.

        See Also
        --------
        zdlfast.load
        """
        with Interrupts(self._ranks) as interrupts:
            optimizer, ranks = self.optimizer, self._ranks
            lines = [("the call", "save"), ("per_rank", repr(per_rank)), *self._settings()]
            error = None
            try:
                validation.flag("per_rank", per_rank)
                self._shards.check()
                if params is not None:
                    found = look(optimizer, params, _no_gradients(params))
                    lines += [line for fact in found.facts for line in fact.lines()]
            except Exception as failed:
                error = failed
            ranks.agree(error, interrupts, lines)
            state = None
            if self.shard_state and not per_rank:
                state = self._shards.gathered(interrupts)
            try:
                if per_rank:
                    _checkpoint.write_part(path, self._shards, params)
                elif ranks.rank == 0:
                    _checkpoint.write_whole(path, optimizer, state, params)
            except Exception as failed:
                error = failed
            ranks.agree(error, interrupts)
            if per_rank:
                if ranks.rank == 0:
                    try:
                        _checkpoint.remove_others(path, ranks.size)
                    except Exception as failed:
                        error = failed
                ranks.agree(error, interrupts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._ranks.leave(error)
            return
        # If others go on, they are told that this one does not.
        with Interrupts(self._ranks) as interrupts:
            self._ranks.agree(None, interrupts, [("the call", "the end of the with block")])


def _no_gradients(params: Any) -> Any:
    return dict.fromkeys(params.keys()) if hasattr(params, "keys") else [None] * len(params)


def _like(grad: Any, average: np.ndarray) -> Any:
    """An average as the gradient was given: a number for a number."""
    if isinstance(grad, np.ndarray):
        return average
    return average[()] if isinstance(grad, np.generic) else average.item()
