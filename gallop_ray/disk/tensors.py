"""Safetensors files: opened with or without torch, and the formats that a run's adapter has."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.regular import opened_regular


@contextmanager
def opened(path: Path, framework: Literal["numpy", "pt"] = "numpy") -> Iterator[Any]:
    """The open file, its size held against its header.

    Raises Damaged where it is no whole safetensors file, FileNotFoundError where it is not there, other OSErrors where
    it cannot be read. Used as `with`, what is read inside raises the same.
    """
    with opened_regular(path):  # safetensors says "not found" also of what may not be read
        pass
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise Damaged(path, f"is damaged ({error})") from error


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a file that is as long as its header says. Raises as `opened`."""
    with opened(path) as file:
        found: dict[str, str] = file.metadata() or {}
        return found


DELTA = "gallop_ray delta 1"
"""Sorted indices and float32 deltas."""
PEFT = "gallop_ray peft 1"
"""A PEFT tuner's own parameters, by PEFT's names."""
FULL = "gallop_ray full 1"
"""Every weight of the model."""
