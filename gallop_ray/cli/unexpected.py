"""Errors that no command expects: what is said of them, and where the trace is kept."""

import json
import tempfile
import traceback

from gallop_ray.spec.secrets import hidden_in

NO_MISTAKE = (UnicodeError, json.JSONDecodeError)
"""ValueErrors of Python's own, which say nothing that a user could change in a sweep."""


def told(error: Exception) -> str:
    """One sentence; the trace goes to a file that it names, where there is room for one."""
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
    """Of an error that carries the trace of another process, as Ray's do, what it ends with; else its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no reason given"]
    return lines[-1] if any(line.startswith("Traceback ") for line in lines) else lines[0]
