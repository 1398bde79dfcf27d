"""A sweep through the command on a tiny random model of each family, two of them split over two ranks at ZeRO 3."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from gallop_ray.records.folders import SweepFolder
from tests.families import FAMILIES, write_model
from tests.sweep import command

pytestmark = pytest.mark.long

DENSITY = 0.05
SPLIT = ("mixtral", "qwen3")
BY_TEXT = {"data": {**command.TINY["data"], "ood": ["first"]}}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_trained_measured_and_exported(family: str, tmp_path: Path) -> None:
    base = write_model(family, tmp_path / "base")
    workers = 2 if family in SPLIT else 1
    sweep = command.write_sweep(
        tmp_path,
        model={"name": str(base)},
        methods=[{"type": "gallop", "density": DENSITY}, {"type": "lora", "rank": 2}][: 1 if family in SPLIT else 2],
        seeds=1,
        search={"space": {}},
        budget={"configurations": 1},
        deepspeed={"zero_stage": 3 if family in SPLIT else 1},
        resources={"workers_per_slot": workers, "cpus_per_worker": 0.5, "slots": 1},
        **BY_TEXT,
    )
    done = command.run("run", sweep)
    assert done.returncode == 0, done.stdout
    runs = {run.path.parent.name.partition("-")[0]: run for run in SweepFolder(tmp_path / "runs/tiny").runs()}
    assert all(run.result().status == "finished" for run in runs.values())
    done = command.run("export", runs["gallop"].path, "--to", "merged", "--output", tmp_path / "merged")
    assert done.returncode == 0, done.stdout
    merged, plain = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("merged", "base"))
    changed = sum(int((merged[name] != plain[name]).sum()) for name in plain)
    assert 0 < changed <= round(DENSITY * sum(weight.numel() for weight in plain.values()))
    assert all(torch.isfinite(weight).all() for weight in merged.values())
