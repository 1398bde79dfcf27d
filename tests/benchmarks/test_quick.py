"""The benchmarks run, and write what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_a_quick_run_writes_its_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "select", "--quick", "--out", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "select.json").read_text())
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
