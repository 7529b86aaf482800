"""The process group of several devices."""

import pytest
import torch
import torch.distributed as dist

from rvc_engine.compute.process_group import DistributedContext


@pytest.mark.parametrize(
    ("device", "has_nccl", "backend", "bound"),
    [
        ("cpu", True, "gloo", None),
        ("cuda:1", True, "cpu:gloo,cuda:nccl", torch.device("cuda:1")),
        ("cuda:1", False, "cpu:gloo,cuda:gloo", None),
    ],
)
def test_nccl_connects_at_once_to_the_ranks_own_device_and_gloo_stands_in_for_it(
    device: str, has_nccl: bool, backend: str, bound: torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[tuple[str, object]] = []
    monkeypatch.setattr(dist, "is_nccl_available", lambda: has_nccl)
    monkeypatch.setattr(
        dist, "init_process_group", lambda name, timeout, device_id=None: joined.append((name, device_id))
    )
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    assert DistributedContext.init(torch.device(device)).rank == 1
    # Bound to a device, NCCL takes its memory before a batch size is measured, and not in the first step.
    assert joined == [(backend, bound)]
