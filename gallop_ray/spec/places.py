"""Expands paths as users write them, with `~` and environment variables."""

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from gallop_ray.disk.bucket.address import checked_address, is_bucket
from gallop_ray.spec.frozen import Text

_LONGEST_PART, _LONGEST = 255, 2000  # bytes; file systems take parts of 255, and paths of 4096 with all that we add
_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^{}]*)\})")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")


def expanded(text: str) -> str:
    """The path with `~` and variables such as `$SCRATCH` replaced, once for all processes.

    Raises ValueError for what cannot be a path. A `$` in the name of an existing file is kept.
    """
    if any(ord(each) < 32 for each in text):
        raise ValueError("must be a path, without line breaks and other control characters")
    if not os.path.lexists(text):
        text = _VARIABLE.sub(_value, text)
    if text.startswith("~"):
        user, text = text.partition("/")[0], os.path.expanduser(text)
        if text.startswith("~"):
            raise ValueError(f"must be a path, and there is no home folder {user}")
    if len(os.fsencode(text)) > _LONGEST or any(len(os.fsencode(part)) > _LONGEST_PART for part in text.split("/")):
        raise ValueError(f"must be a path of at most {_LONGEST} bytes, each part of at most {_LONGEST_PART}")
    return text


def folder_or_bucket(text: str) -> str:
    """The path of a folder to write to, or an address in a bucket. Raises ValueError also for other addresses."""
    text = expanded(text)  # first: a variable may hold an address
    if is_bucket(text):
        return checked_address(text)
    if _SCHEME.match(text):
        raise ValueError(
            "must be the path of a folder that every node sees, or an address in a bucket of S3 or what speaks its "
            "protocol (s3://); mount any other storage and give its path"
        )
    return text


def expanded_file_address(text: str) -> str:
    """A file's address with its variables replaced; in other addresses a `$` may mean something else."""
    return expanded(text) if text.startswith("sqlite") or not _SCHEME.match(text) else text


def is_folder(text: str) -> bool:
    """Whether the folder exists, as far as permissions allow to see."""
    try:
        return Path(text).is_dir()
    except OSError:
        return False


def is_file(text: str) -> bool:
    """Whether the file exists, as far as permissions allow to see."""
    try:
        return Path(text).is_file()
    except OSError:
        return False


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    if name not in os.environ:
        raise ValueError(f"must be a path, and the environment variable {name} is not set")
    return os.environ[name]


def path_or_address(text: str) -> str:
    """A path or a name, or an address in a bucket to read from. Raises ValueError for neither."""
    text = expanded(text)
    return checked_address(text) if is_bucket(text) else text


PathOrName = Annotated[Text, AfterValidator(path_or_address)]
