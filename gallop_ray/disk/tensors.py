"""Safetensors files, opened with or without torch, and the formats of a run's adapter."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from gallop_ray.disk.bucket.tree import present
from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.regular import opened_regular


@contextmanager
def opened(path: Path, framework: Literal["numpy", "pt"] = "numpy") -> Iterator[Any]:
    """Context manager: the open file, its size checked against its header.

    Raises Damaged where it is not a complete safetensors file, FileNotFoundError where it is missing, other OSErrors
    where it cannot be read; reading inside raises the same.
    """
    present(path)  # one that lies in a bucket comes when it is first opened
    with opened_regular(path):  # safetensors says "not found" also about a file without read permission
        pass
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise Damaged(path, f"is damaged ({error})") from error


def metadata_of(path: Path) -> dict[str, str]:
    """A file's metadata, its size checked against its header. Raises as `opened`."""
    with opened(path) as file:
        found: dict[str, str] = file.metadata() or {}
        return found


ADAPTER = "adapter.safetensors"
"""The file of an adapter in the folder of a run, and in that of an exported delta."""


def adapter_file(place: Path) -> Path:
    """An adapter's file, given by itself or by its folder."""
    return place / ADAPTER if place.is_dir() else place


DELTA = "gallop_ray delta 1"
"""Sorted indices and float32 deltas."""
PEFT = "gallop_ray peft 1"
"""A PEFT tuner's own parameters, by PEFT's names."""
FULL = "gallop_ray full 1"
"""Every weight of the model."""
HYBRID = "gallop_ray hybrid 1"
"""A delta and a PEFT tuner's parameters, as in files of either alone."""
