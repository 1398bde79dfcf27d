"""What slots did beside their runs: slots/<slot>.jsonl, a line each time its workers have loaded the base model."""

import socket
import time
from contextlib import suppress

from gallop_ray.records.files import Record, append_line, read_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.shapes import Shape, integer, number, text

_FOLDER = "slots"
_LOADED = Shape(needed={"time": number, "slot": text, "seconds": number, "slot_started": number, "workers": integer})


def note_loaded(folder: SweepFolder, slot: str, started: float, model: str, workers: int, seconds: float) -> None:
    """Note that all workers of a slot have loaded the model, which took so long. A slot's first worker does.

    started: the slot, in seconds since 1970; the same when its workers load again after a death.
    """
    files = folder.path / _FOLDER
    where = {"slot": slot, "slot_started": started, "host": socket.gethostname(), "workers": workers}
    what = {"model": model, "seconds": round(seconds, 3)}
    with suppress(OSError):  # the first run will find the disk full, and say so
        files.mkdir(exist_ok=True)
        append_line(files / f"{slot}.jsonl", {"time": time.time(), "event": "model_loaded", **where, **what})


def loads(folder: SweepFolder) -> list[Record]:
    """Every time that a slot has loaded the model, in order."""
    lines = [line for file in (folder.path / _FOLDER).glob("*.jsonl") for line in read_lines(file)]
    return sorted((line for line in lines if not _LOADED.wrong(line)), key=lambda line: float(line["time"]))
