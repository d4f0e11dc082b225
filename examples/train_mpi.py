"""Train the book's network on handwritten digits, by all processes of an MPI program.

::

    mpiexec -n 4 python train_mpi.py

Each rank takes its share of every mini-batch. A second run goes on where the first one ended.
"""

import argparse
from pathlib import Path

import numpy as np
from mpi4py import MPI

import zdlfast
from zdlfast.datasets import load_digits
from zdlfast.mpi import DataParallel
from zdlfast.nn import dense_network

BATCH = 120  # of all ranks together; 1 to 6 or 8 ranks have equal shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path, default=Path("digits.npz"))
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    zdlfast.set_num_threads(1)  # each process has a core of its own

    # The same seeds: all ranks begin with the same weights, and shuffle alike.
    (x, t), (x_test, t_test) = load_digits(size=28, dtype="float32")
    network = dense_network(784, 200, 200, 10, rng=8, dtype="float32")
    inner = zdlfast.Adam(lr=0.001)
    if options.checkpoint.exists():
        inner, params = zdlfast.load(options.checkpoint)
        for key, array in params.items():
            network.params[key][...] = array

    with DataParallel(inner, comm, shard_state=True) as optimizer:
        for epoch in range(options.epochs):
            order = np.random.default_rng([8, epoch]).permutation(len(x))
            for start in range(0, len(x) - BATCH + 1, BATCH):
                own = order[start : start + BATCH][comm.rank :: comm.size]
                optimizer.update(network.params, network.gradient(x[own], t[own]))
            if comm.rank == 0:
                accuracy = network.accuracy(x_test, t_test)
                print(f"epoch {epoch + 1}: {accuracy:.1%} of the test images", flush=True)
        optimizer.save(options.checkpoint, network.params)


if __name__ == "__main__":
    main()
