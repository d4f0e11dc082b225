"""What tests/test_torch_processes.py runs in two processes of its own: one for each rank."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import zdlfast.torch

STEPS = 4


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2))


def train(network, optimizer, part):
    """Train on a part of each batch."""
    for step in range(STEPS):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(inputs[part]).square().mean().backward()
        optimizer.step()


def parallel(rank, **options):
    network = model()
    optimizer = zdlfast.torch.Adam(network.parameters(), lr=0.1)
    train(DistributedDataParallel(network, **options), optimizer, slice(rank, None, 2))
    return network


def zero_redundancy(rank):
    network = model()
    optimizer = ZeroRedundancyOptimizer(
        network.parameters(), optimizer_class=zdlfast.torch.Adam, lr=0.1
    )
    train(DistributedDataParallel(network), optimizer, slice(rank, None, 2))
    return network


def main(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    alone = model()
    train(alone, torch.optim.Adam(alone.parameters(), lr=0.1), slice(None))
    trained = {
        "DDP": parallel(rank),
        "DDP, gradients in buckets": parallel(rank, gradient_as_bucket_view=True),
        "ZeRO": zero_redundancy(rank),
    }
    for name, network in trained.items():
        for ours, expected in zip(network.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
            both = [torch.empty_like(ours) for _ in range(2)]
            dist.all_gather(both, ours.detach())
            assert torch.equal(*both)
        print(name, "trains as one process does")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
