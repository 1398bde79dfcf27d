"""What a benchmark found: rows of ratios, the machine and the commit, printed and as a JSON file."""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.arms import Measured


def row(ours: Measured, against: str, other: Measured, **more: Any) -> dict[str, Any]:
    """Ratios are ours / theirs; prints them."""
    made = {
        "against": against,
        **more,
        "time_ratio": round(ours.seconds / other.seconds, 4),
        "memory_ratio": round(ours.bytes / other.bytes, 4),
        **_figures(ours, ""),
        **_figures(other, "other_"),
    }
    what = ", ".join(str(v) for v in more.values())
    print(
        f"{what} | against {against}: time x{made['time_ratio']:.2f} ({ours.seconds:.3f} s / {other.seconds:.3f} s), "
        f"memory x{made['memory_ratio']:.2f} ({ours.bytes / 1e9:.2f} GB / {other.bytes / 1e9:.2f} GB)",
        flush=True,
    )
    return made


def row_alone(ours: Measured | None, against: str, reason: str, **more: Any) -> dict[str, Any]:
    """A row without ratios, because of `reason`, in the same columns; prints it."""
    figures = _figures(ours, "") if ours else {"seconds": None, "bytes": None}
    made = {"against": against, **more, "time_ratio": None, "memory_ratio": None, **figures}
    print(f"{', '.join(str(v) for v in more.values())} | against {against}: {reason}; {figures}", flush=True)
    return made | {"other_seconds": None, "other_bytes": None, "skipped": reason}


def _figures(measured: Measured, prefix: str) -> dict[str, Any]:
    figures = {"seconds": measured.seconds, "bytes": measured.bytes, **measured.counts}
    return {prefix + key: value for key, value in figures.items()}


def save(folder: Path, name: str, quick: bool, where: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write NAME.json, `where` being the machine before the measurement; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    found = {"name": name, "commit": _commit(), "date": time.strftime("%Y-%m-%d"), "quick": quick, "machine": where}
    path.write_text(json.dumps({**found, "rows": rows}, indent=2) + "\n")
    return path


def machine() -> dict[str, Any]:
    """What the figures depend on, the load of the last minute included."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    asked = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or "unknown"
