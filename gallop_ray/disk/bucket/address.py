"""Addresses of buckets, and the folders in which a machine keeps copies of what lies there."""

import hashlib
import importlib.util
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

Purpose = Literal["work", "view"]
"""`work`: of drivers and workers, which write; `view`: of commands that read, also beside a driver."""

SCHEMES = ("s3", "gs", "az")
MARK = ".bucket.json"
"""In the root of a folder of copies: the address that it stands for."""
_BUCKET = re.compile(rf"({'|'.join(SCHEMES)}):/{{1,2}}(?!/)(.+)", re.DOTALL)  # pathlib makes one slash of two
_PART = re.compile(r"[^/?#@%*\\\x00-\x1f]+")  # `@`: no keys in addresses
_CACHE = "GALLOP_RAY_BUCKET_CACHE"


def is_bucket(text: str) -> bool:
    """Whether a text is the address of a bucket, well-formed or not."""
    return _BUCKET.match(text) is not None


def checked_address(text: str) -> str:
    """The address of a place in a bucket, without a slash at its end. Raises ValueError for a malformed one."""
    found = _BUCKET.fullmatch(text)
    parts = found[2].rstrip("/").split("/") if found else []
    if found is None or not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
        raise ValueError(f"must be {'://, '.join(SCHEMES)}://, the bucket's name and a prefix of plain names")
    return f"{found[1]}://{'/'.join(parts)}"


def is_installed() -> bool:
    """Whether the package that talks to buckets is there."""
    return importlib.util.find_spec("obstore") is not None


def copies(address: str, purpose: Purpose) -> Path:
    """The folder of this machine's copies of what lies below an address; made if need be.

    It is below GALLOP_RAY_BUCKET_CACHE, by default `buckets` in GALLOP_RAY_CACHE or ~/.cache/gallop_ray.
    """
    address = checked_address(address)
    default = Path(os.environ.get("GALLOP_RAY_CACHE") or Path.home() / ".cache" / "gallop_ray") / "buckets"
    name = re.sub(r"\W+", "-", address)[:60] + "-" + hashlib.sha256(address.encode()).hexdigest()[:8]
    root = Path(os.environ.get(_CACHE) or default).expanduser().resolve() / name / purpose
    if not (root / MARK).exists():
        root.mkdir(parents=True, exist_ok=True)
        draft = root / f"{MARK}.{os.getpid()}"
        draft.write_text(json.dumps({"address": address, "purpose": purpose}))
        draft.replace(root / MARK)
        _root_above.cache_clear()
    return root


def root_of(path: Path) -> Path | None:
    """The root of the copies that a path is among; None for any other path."""
    return _root_above(os.path.dirname(os.path.abspath(path)))


@lru_cache(maxsize=4096)
def _root_above(folder: str) -> Path | None:
    """Looked for once a folder: where no bucket is used, writing a file costs no more than before."""
    here = Path(folder)
    return next((each for each in (here, *here.parents) if (each / MARK).exists()), None)


def placed(text: str, purpose: Purpose = "work") -> Path:
    """Where a folder that is given by path or by address lies on this machine: an address is <output>/<sweep name>."""
    if not is_bucket(text):
        return Path(text)
    output, _, name = checked_address(text).rpartition("/")
    if output.endswith("/"):  # only a bucket
        raise ValueError(f"{text} is a bucket and no sweep: give <output>/<sweep name>")
    return copies(output, purpose) / name


def address_of(path: Path) -> str:
    """The address that a path among copies stands for; any other path as it is."""
    root = path if (path / MARK).exists() else root_of(path)
    if root is None:
        return str(path)
    address = str(json.loads((root / MARK).read_text())["address"])
    rest = Path(os.path.abspath(path)).relative_to(root).as_posix()
    return address if rest == "." else f"{address}/{rest}"
