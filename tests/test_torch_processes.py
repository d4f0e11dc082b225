"""Optimizers for torch where one training has several processes."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this torch has no gloo", allow_module_level=True)

import zdlfast.torch  # noqa: E402

SCRIPT = Path(__file__).with_name("torch_processes.py")


def test_two_ranks_train_as_one_process_does(tmp_path):
    """With DistributedDataParallel, ZeroRedundancyOptimizer and FSDP, over gloo."""
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            printed, errors = rank.communicate(timeout=300)
            assert rank.returncode == 0, errors
            assert printed.splitlines() == [
                "DDP trains as one process does",
                "DDP, gradients in buckets trains as one process does",
                "ZeRO trains as one process does",
                "FSDP trains as with torch's own",
            ]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def update_shared(params, barrier):
    """In a process of its own: take steps with parameters that both have."""
    optimizer = zdlfast.torch.SGD(params, lr=1.0)
    for param in params:
        param.grad = torch.ones_like(param)
    barrier.wait()
    optimizer.step()


def test_parameters_in_shared_memory_are_updated_for_all():
    """As for the many learners of Hogwild."""
    params = [torch.nn.Parameter(torch.zeros(50)) for _ in range(3)]
    for param in params:
        param.share_memory_()
    context = torch.multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    child = context.Process(target=update_shared, args=(params, barrier))
    child.start()
    barrier.wait(timeout=300)
    child.join(300)
    assert child.exitcode == 0
    assert all(torch.equal(param, torch.full((50,), -1.0)) for param in params)
