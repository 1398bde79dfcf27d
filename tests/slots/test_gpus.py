"""Which GPU a worker takes, and how much of it. No GPU is needed: what torch is told is what counts."""

import os
from typing import Any

import pytest
import torch

from gallop_ray.slots import worker
from gallop_ray.spec.machine import ResourcesSpec


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch is told, of a node's second worker."""
    said: list[Any] = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(worker.ray.train.torch, "get_device", lambda: torch.device("cuda:3"))
    monkeypatch.setattr(torch.cuda, "set_device", said.append)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *share: said.append(share))
    return said


def test_a_worker_takes_the_gpu_that_ray_gave_it(told: list[Any]) -> None:
    worker.take_gpu(ResourcesSpec(workers_per_slot=2, gpus_per_worker=1))
    assert told == [torch.device("cuda:3")]
    assert os.environ["LOCAL_RANK"] == "3", "DeepSpeed goes by it"


def test_slots_that_share_a_gpu_take_no_more_than_their_share(told: list[Any]) -> None:
    worker.take_gpu(ResourcesSpec(gpus_per_worker=0.25))
    assert told == [torch.device("cuda:3"), (0.25, torch.device("cuda:3"))]


def test_a_worker_without_gpus_touches_none(told: list[Any]) -> None:
    worker.take_gpu(ResourcesSpec())
    assert not told
    assert os.environ["LOCAL_RANK"] == "1"
