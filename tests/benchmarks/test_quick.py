"""The benchmarks run, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _quick(name: str, folder: Path, timeout: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks", name, "--quick", "--out", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads((folder / f"{name}.json").read_text())


def test_a_quick_run_writes_its_rows(tmp_path: Path) -> None:
    found = _quick("select", tmp_path, timeout=300)
    assert found["name"] == "select"
    assert found["commit"]
    assert found["quick"] is True
    assert {"cpu", "cores", "threads", "memory_gb", "gpu", "torch", "load"} <= found["machine"].keys()
    assert [r["ranks"] for r in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert row["against"] == "torch.topk"
        assert row["time_ratio"] == pytest.approx(row["seconds"] / row["other_seconds"], abs=1e-4)
        assert row["memory_ratio"] == pytest.approx(row["bytes"] / row["other_bytes"], abs=1e-4)
    alone, shared = found["rows"]
    assert alone["other_bytes_sent"] == 0
    # Half of the float32 scores, or the int64 indices back, whichever rank sends more.
    assert shared["other_bytes_sent"] == 4 * (79 * 79 * 32)
    assert 0 < shared["bytes_sent"] < shared["other_bytes_sent"]


@pytest.mark.long
def test_sweeps_in_a_bucket_are_counted_and_timed(tmp_path: Path) -> None:
    requests, beside = _quick("bucket", tmp_path, timeout=900)["rows"]
    assert requests["runs"] == 10
    kinds = {"put", "get", "head", "list", "delete"}
    assert {*kinds, *(f"bytes_{kind}" for kind in kinds)} <= requests.keys()
    # At least its result, its adapter and its events; the trial of the bucket deletes what it has written.
    assert requests["put"] > 3 * requests["runs"]
    assert requests["bytes_put"] > 1e6
    assert requests["delete"] >= 1
    assert (beside["against"], beside["runs"], beside["delay"]) == ("a folder", 4, 0.02)
    assert beside["time_ratio"] == pytest.approx(beside["seconds"] / beside["other_seconds"], abs=1e-4)
    for arm in ("", "other_"):
        assert beside[f"{arm}slots_seconds"] > beside[f"{arm}idle_seconds"] > 0
