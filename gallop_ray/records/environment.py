"""The environment of a run: versions, machine, commit."""

import functools
import os
import platform
import shutil
import socket
import subprocess
from importlib import metadata

from gallop_ray.records.files import Record

_PACKAGES = ("torch", "ray", "deepspeed", "transformers", "optuna", "mlflow", "peft", "gallop_ray")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """The command's output; None when it is missing, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _gpus() -> list[str]:
    # Not by torch, which readers of records do not import.
    listing = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return listing.splitlines() if listing else []


@functools.cache
def environment_record() -> Record:
    """Versions, host, processors, GPUs (name, memory, driver) and the git commit of the working folder.

    Cached per process: a slot writes it for every run, and starting nvidia-smi takes a second.
    """
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "cpu_count": os.cpu_count(),
        "gpus": _gpus(),
        "git_commit": _output("git", "rev-parse", "HEAD"),
    }
