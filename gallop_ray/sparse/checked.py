"""Tensor files with checksums: what is read is complete and unchanged, or reported as damaged."""

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gallop_ray.disk.damage import Damaged
from gallop_ray.disk.tensors import opened
from gallop_ray.disk.whole import drafted

_CHECKSUMS, _CHECKSUM = "checksums", "checksum"


def save_checked(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with checksums, atomically and durably, replacing what was there. Raises OSError."""
    whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    checksums = json.dumps({name: _checksum(t) for name, t in whole.items()})
    described = {**(metadata or {}), _CHECKSUMS: checksums}
    with drafted(path) as draft:
        save_file(whole, draft, metadata={**described, _CHECKSUM: _seal(described)})


def load_whole(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file and its metadata, verified; files of earlier versions, without checksums, are read, too.

    Raises Damaged for a file that is truncated, changed or not safetensors; OSError where it cannot be read.
    """
    return _load(path, None)


def load_checked(path: Path, names: Collection[str]) -> dict[str, Tensor] | None:
    """The tensors with these names, as far as they are there, of a file that save_checked() wrote.

    None where there is no file, or it was truncated or changed since.
    """
    try:
        tensors, metadata = _load(path, names)
    except (OSError, Damaged):
        return None
    return tensors if _CHECKSUMS in metadata else None


def _load(path: Path, names: Collection[str] | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    with opened(path, "pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        there = set(file.keys())
        checksums = _checksums(path, metadata)
        wanted = sorted(there if names is None else there & set(names))
        found: dict[str, Tensor] = {name: file.get_tensor(name) for name in wanted}
    if checksums is not None and set(checksums) != there:
        raise Damaged(path, f"is damaged: not all of its tensors are there, or more ({_some(set(checksums) ^ there)})")
    if checksums is not None and (wrong := [n for n, t in found.items() if _checksum(t) != checksums[n]]):
        raise Damaged(path, f"is damaged: {_some(wrong)} is not what was written")
    return found, metadata


def _some(names: Collection[str]) -> str:
    first = sorted(names)[0]
    return first if len(names) == 1 else f"{first} and {len(names) - 1} others"


def _checksums(path: Path, metadata: Mapping[str, str]) -> dict[str, int] | None:
    """The checksum of each tensor; None for a file without. Raises Damaged where the checksums are damaged."""
    if _CHECKSUMS not in metadata:
        return None
    if metadata.get(_CHECKSUM) != _seal(metadata):
        raise Damaged(path, "is damaged: its metadata is not what was written")
    checksums: dict[str, int] = json.loads(metadata[_CHECKSUMS])
    return checksums


def _seal(metadata: Mapping[str, str]) -> str:
    """A checksum of the checksums and of the other metadata."""
    rest = {name: text for name, text in sorted(metadata.items()) if name not in (_CHECKSUMS, _CHECKSUM)}
    return str(zlib.crc32((metadata[_CHECKSUMS] + (json.dumps(rest) if rest else "")).encode()))


def _checksum(tensor: Tensor) -> int:
    """CRC32 of dtype, shape and content."""
    start = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.view(-1).view(torch.uint8).numpy().data, start) if tensor.numel() else start
