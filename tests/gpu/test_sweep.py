"""Sweeps on one GPU by the real command."""

import json
from pathlib import Path

import pytest
import torch

from tests.sweep.command import run, write_sweep


@pytest.mark.gpu
def test_four_methods_share_one_gpu_half_a_gpu_a_slot(tmp_path: Path) -> None:
    file = write_sweep(
        tmp_path,
        model={"name": "pocket", "dtype": "bfloat16"},
        resources={"workers_per_slot": 1, "cpus_per_worker": 1, "gpus_per_worker": 0.5, "slots": 2},
        tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    )
    ended = run("run", file)
    assert ended.returncode == 0, ended.stdout
    assert all(name in ended.stdout for name in ("gallop", "random", "lora", "full")), ended.stdout
    results = [json.loads(each.read_text()) for each in tmp_path.glob("runs/tiny/*/seed-*/result.json")]
    assert {each["status"] for each in results} == {"finished"}
    assert len(results) >= 8, "four methods, two seeds"
    room = torch.cuda.get_device_properties(0).total_memory
    assert all(0 < each["peak_memory_bytes"] < room / 2 for each in results), "measured on the GPU, within the share"
    environments = [json.loads(each.read_text()) for each in tmp_path.glob("runs/tiny/*/seed-*/environment.json")]
    assert all(each["gpus"] for each in environments)
