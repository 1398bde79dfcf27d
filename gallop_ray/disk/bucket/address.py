"""Addresses of buckets, keys in them, and the folders in which a machine keeps copies of what lies there.

Of S3 and what speaks its protocol: no other storage has been tried.
"""

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

MARK = ".bucket.json"
"""In the root of a folder of copies: the address that it stands for."""
_BUCKET = re.compile(r"s3:/{1,2}(?!/)(.+)", re.DOTALL)  # pathlib makes one slash of two
_PART = re.compile(r"[^/?#@%*\\\x00-\x1f]+")  # `@`: no keys in addresses
_SERVER = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_CACHE = "GALLOP_RAY_BUCKET_CACHE"
VARIABLES = (
    "AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN|(DEFAULT_)?REGION|ENDPOINT(_URL(_S3)?)?|ALLOW_HTTP|S3_EXPRESS|"
    "VIRTUAL_HOSTED_STYLE_REQUEST|SKIP_SIGNATURE|UNSIGNED_PAYLOAD|CHECKSUM_ALGORITHM|REQUEST_PAYER|"
    r"SERVER_SIDE_ENCRYPTION|SSE_\w+|CONDITIONAL_PUT)"
)
"""A regular expression: what obstore takes from the environment that means the same on every machine."""
_ODD = re.compile(r"[^A-Za-z0-9._/+-]+")
_ESCAPED = re.compile(r"(?:=[0-9A-F]{2})+")


def is_bucket(text: str) -> bool:
    """Whether a text is the address of a bucket, well-formed or not."""
    return _BUCKET.match(text) is not None


def checked_address(text: str) -> str:
    """The address of a place in a bucket, without a slash at its end. Raises ValueError for a malformed one."""
    found = _BUCKET.fullmatch(text)
    parts = found[1].rstrip("/").split("/") if found else []
    if found is None or not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
        raise ValueError("must be s3://, the bucket's name and a prefix of plain names")
    return f"s3://{'/'.join(parts)}"


def quoted(path: str) -> str:
    """A path as a key: all but letters, digits and a few marks as `=` and the hexadecimal of each byte."""
    return _ODD.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode(errors="surrogateescape")), path)


def unquoted(key: str) -> str:
    """The path of a key."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(errors="surrogateescape"), key)


def is_installed() -> bool:
    """Whether the package that talks to buckets is there."""
    return importlib.util.find_spec("obstore") is not None


def address_parts(address: str) -> tuple[str, str]:
    """What a place in a bucket lies in, and its name there. Raises ValueError for a bucket as a whole."""
    above, _, name = checked_address(address).rpartition("/")
    if above.endswith("/"):
        raise ValueError(f"{address} is a whole bucket; give a place in it, for a sweep <output>/<sweep name>")
    return above, name


def copies_root(address: str) -> Path:
    """The folder of all that this machine copies of an address, which is not made here.

    It is below GALLOP_RAY_BUCKET_CACHE, by default `buckets` in GALLOP_RAY_CACHE or ~/.cache/gallop_ray.
    """
    address = checked_address(address)
    default = Path(os.environ.get("GALLOP_RAY_CACHE") or Path.home() / ".cache" / "gallop_ray") / "buckets"
    server = next((os.environ[name] for name in _SERVER if os.environ.get(name)), "")
    name = re.sub(r"\W+", "-", address)[:60] + "-" + hashlib.sha256(f"{server}{address}".encode()).hexdigest()[:8]
    return Path(os.environ.get(_CACHE) or default).expanduser().resolve() / name


def copies(address: str, purpose: Purpose) -> Path:
    """The folder of this machine's copies of what lies below an address, of a sweep or several; made if need be."""
    root = copies_root(address) / purpose
    if not (root / MARK).exists():
        root.mkdir(parents=True, exist_ok=True)
        draft = root / f"{MARK}.{os.getpid()}"
        draft.write_text(json.dumps({"address": checked_address(address), "purpose": purpose}))
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
    output, name = address_parts(text)
    return copies(output, purpose) / name


def address_of(path: Path) -> str:
    """The address that a path among copies stands for; any other path as it is."""
    root = path if (path / MARK).exists() else root_of(path)
    if root is None:
        return str(path)
    address = str(json.loads((root / MARK).read_text())["address"])
    rest = Path(os.path.abspath(path)).relative_to(root).as_posix()
    return address if rest == "." else f"{address}/{rest}"
