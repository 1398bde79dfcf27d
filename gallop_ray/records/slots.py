"""slots/<slot>.jsonl: a line for each time that a slot's workers have loaded the base model."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.records.files import append_line, complete_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.typed import Number, StoredRecord

_FOLDER = "slots"


class Loaded(StoredRecord):
    """All workers of a slot have loaded the base model, which took `seconds`."""

    time: Number
    slot: str
    slot_started: Number
    workers: int
    seconds: Number


def note_loaded(folder: SweepFolder, slot: str, started: float, model: str, workers: int, seconds: float) -> None:
    """Record that all workers of a slot have loaded the model. Called by the slot's rank 0.

    started: when the slot started, in seconds since 1970; unchanged when its workers reload after a death.
    """
    files = folder.path / _FOLDER
    where = {"slot": slot, "slot_started": started, "host": socket.gethostname(), "workers": workers}
    what = {"model": model, "seconds": round(seconds, 3)}
    with suppress(OSError):  # the first run will meet the same error, and report it
        files.mkdir(exist_ok=True)
        append_line(files / f"{slot}.jsonl", {"time": time.time(), "event": "model_loaded", **where, **what})


def loads(folder: SweepFolder) -> list[Loaded]:
    """All loads of the model by slots, in order of time. Bad lines are left out, and reported once."""
    files = (folder.path / _FOLDER).glob("*.jsonl")
    return sorted((load for file in files for load in _loads(file)), key=lambda load: load.time)


def _loads(file: Path) -> Iterator[Loaded]:
    for line in complete_lines(file):
        try:
            yield Loaded.parse(line, file)
        except Damaged as error:
            note_damage(file, f"has a line that {error.reason}", "such lines are left out")
