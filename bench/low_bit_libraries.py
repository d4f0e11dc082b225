"""Adam with state in 8 bits, or in all, by the libraries that have it on CPUs.

`serve` runs one in a process of its own, as `bench.libraries` does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from bench import worker
from bench.libraries import BETA1, BETA2, EPS, LR, Peer, arrays, torch_fused
from bench.timing import Run


def with_torch(p: np.ndarray, g: np.ndarray, threads: int, make: Callable[..., Any]) -> Peer:
    """An optimizer in the form of torch's."""
    import torch

    torch.set_num_threads(threads)
    param = torch.nn.Parameter(torch.from_numpy(p))
    param.grad = torch.from_numpy(g)
    optimizer = make([param], lr=LR, betas=(BETA1, BETA2), eps=EPS)
    return Peer(optimizer.step, lambda: p)


def torchao(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    from torchao.optim import Adam8bit

    return with_torch(p, g, threads, Adam8bit)


def bitsandbytes(p: np.ndarray, g: np.ndarray, threads: int) -> Peer:
    from bitsandbytes.optim import Adam8bit

    return with_torch(p, g, threads, Adam8bit)


#: By name: how to make it, and the packages whose versions count.
PEERS: dict[str, tuple[Callable[[np.ndarray, np.ndarray, int], Peer], list[str]]] = {
    "torch, fused": (torch_fused, ["torch"]),
    "torchao, 8bit": (torchao, ["torchao", "torch"]),
    "bitsandbytes, 8bit": (bitsandbytes, ["bitsandbytes", "torch"]),
}


def serve(name: str, threads: str) -> None:
    """Time the steps of one library."""

    def prepare(command: dict[str, Any]) -> tuple[dict[str, Run], dict[str, Any]]:
        peer = PEERS[name][0](*arrays(command["elements"], "float32"), int(threads))
        peer.step()
        return {"step": Run(peer.step)}, {}

    worker.serve(prepare, int(threads))
