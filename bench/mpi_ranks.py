"""What each rank of the job ``mpi`` does: rank 0 prints what was measured, as JSON.

::

    mpiexec -n 2 python -m mpi4py mpi_ranks.py '{"hidden": 1000, ...}'
"""

import hashlib
import json
import sys
import time
from typing import Any

import numpy as np
from mpi4py import MPI

import zdlfast
from zdlfast.mpi import DataParallel
from zdlfast.nn import Sequential, dense_network

COMM = MPI.COMM_WORLD
SMALL, LARGE = 8, 4 << 20  # bytes of the messages that latency and bandwidth are taken from


def main() -> None:
    settings = json.loads(sys.argv[1])
    answer = {"link": link(settings["seconds"])} if settings["what"] == "link" else train(settings)
    if COMM.rank == 0:
        print(json.dumps(answer))


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Time steps of a training, with the state on every rank and with a part on each, in turns."""
    hidden, steps, batch = settings["hidden"], settings["steps"], settings["batch"]
    rng = np.random.default_rng([8, COMM.rank])
    x = rng.standard_normal((batch, 784)).astype("f4")
    t = rng.integers(10, size=batch)
    sides = {}
    for name, shard_state in (("whole", False), ("parts", True)):
        network = dense_network(784, hidden, hidden, 10, rng=8, dtype="float32")
        optimizer = DataParallel(zdlfast.Adam(), COMM, shard_state=shard_state)
        sides[name] = (network, optimizer, [], [])
    for step in range(steps + 2):
        for name in sides if step % 2 else reversed(sides):
            network, optimizer, gradients, updates = sides[name]
            COMM.Barrier()
            begin = time.perf_counter()
            grads = network.gradient(x, t)
            middle = time.perf_counter()
            optimizer.update(network.params, grads)
            end = time.perf_counter()
            if step > 1:  # the first two are slower
                gradients.append(middle - begin)
                updates.append(end - middle)
    digests = {name: digest(side[0]) for name, side in sides.items()}
    everywhere = COMM.allgather(digests)
    return {
        "parameters": sum(array.size for array in sides["whole"][0].params.values()),
        "bytes": sum(array.nbytes for array in sides["whole"][0].params.values()),
        "equal": len({each for of_rank in everywhere for each in of_rank.values()}) == 1,
        "sides": {
            name: {
                "gradient": gradients,
                "update": updates,
                "sent": COMM.allreduce(optimizer.bytes_sent) / COMM.size / (steps + 2),
            }
            for name, (_, optimizer, gradients, updates) in sides.items()
        },
    }


def digest(network: Sequential) -> str:
    digest = hashlib.sha256()
    for array in network.params.values():
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def link(seconds: float) -> dict[str, list[float]]:
    """Seconds that a small and a large message take from one rank to another."""
    samples: dict[str, list[float]] = {"small": [], "large": []}
    for name, size in (("small", SMALL), ("large", LARGE)):
        buffer = np.zeros(size, np.uint8)
        end = time.perf_counter() + seconds
        more = True
        while more:
            COMM.Barrier()
            begin = time.perf_counter()
            for _ in range(10):
                if COMM.rank == 0:
                    COMM.Send(buffer, 1)
                    COMM.Recv(buffer, 1)
                elif COMM.rank == 1:
                    COMM.Recv(buffer, 0)
                    COMM.Send(buffer, 0)
            samples[name].append((time.perf_counter() - begin) / 20)
            more = COMM.bcast(time.perf_counter() < end)
    return samples


if __name__ == "__main__":
    main()
