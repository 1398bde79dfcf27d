"""Unexpected errors: the message, and where the traceback is stored."""

import json
import tempfile
import traceback

from gallop_ray.spec.secrets import hidden_in

NO_MISTAKE = (UnicodeError, json.JSONDecodeError)
"""Python's own kinds of ValueError, which do not tell a user what to change in a sweep."""


def told(error: Exception) -> str:
    """One sentence; the traceback goes to a file that it names, if one can be written."""
    reason = hidden_in(f"{type(error).__name__}: {_last_line(error)}")
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="gallop-ray-", suffix=".txt", delete=False, errors="replace"
        ) as file:
            file.write(hidden_in("".join(traceback.format_exception(error))))
    except OSError:
        return f"unexpected {reason}"
    return f"unexpected {reason} (trace in {file.name})"


def _last_line(error: Exception) -> str:
    """The last line of an error with another process's traceback, as Ray's have; else the first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return lines[-1] if any(line.startswith("Traceback ") for line in lines) else lines[0]
