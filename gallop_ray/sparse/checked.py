"""Tensors on disk that are there whole and unharmed, or count as not there."""

import json
import os
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_CHECKSUMS, _CHECKSUM = "checksums", "checksum"


def save_whole(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file that is there as a whole or not at all, in place of what was there.

    Raises OSError where that cannot be.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, draft, metadata=metadata)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        draft.unlink(missing_ok=True)


def save_checked(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The same, in a file that load_checked() can trust."""
    whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    checksums = json.dumps({name: _checksum(t) for name, t in whole.items()})
    save_whole(path, whole, {_CHECKSUMS: checksums, _CHECKSUM: str(zlib.crc32(checksums.encode()))})


def load_checked(path: Path, names: Collection[str]) -> dict[str, Tensor] | None:
    """Of a file that save_checked() wrote, the tensors of these names that it has.

    None where there is no file, or one that was cut short or changed since.
    """
    try:
        with safe_open(path, framework="pt") as file:
            checksums = _checksums(file.metadata())
            found: dict[str, Tensor] = {name: file.get_tensor(name) for name in names if name in checksums}
    except (OSError, SafetensorError, ValueError):
        return None
    return found if all(_checksum(t) == checksums[name] for name, t in found.items()) else None


def _checksums(metadata: Mapping[str, str] | None) -> dict[str, int]:
    """By tensor. Raises ValueError where they are missing, or themselves damaged."""
    text = (metadata or {}).get(_CHECKSUMS, "")
    if (metadata or {}).get(_CHECKSUM) != str(zlib.crc32(text.encode())):
        raise ValueError("no checksums")
    checksums: dict[str, int] = json.loads(text)
    return checksums


def _checksum(tensor: Tensor) -> int:
    """Of type, shape and content."""
    start = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return zlib.crc32(tensor.view(-1).numpy().data, start) if tensor.numel() else start
