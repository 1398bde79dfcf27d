"""The record of one run, or of one of its rounds: a folder, written only by rank 0 of the workers."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from gallop_ray.disk.bucket.tree import is_there, present
from gallop_ray.disk.damage import Damaged, note_damage
from gallop_ray.disk.regular import opened_regular, remove, stat_of
from gallop_ray.disk.tensors import ADAPTER
from gallop_ray.disk.tensors import opened as opened_tensors
from gallop_ray.disk.whole import remove_drafts
from gallop_ray.records.events import Event, RunContinued, RunStarted, parse_events
from gallop_ray.records.files import (
    Record,
    append_line,
    complete_lines,
    parse_lines,
    read_json,
    write_json,
    write_lines,
)
from gallop_ray.records.predictions import FILE, read_predictions, write_predictions
from gallop_ray.records.results import Rungs, RunResult
from gallop_ray.records.typed import VERSION, note_unread, write_record

Document = Literal["spec", "environment", "mask", "correct", "outputs"]

WITHOUT_CHECKPOINT = ("finished", "pruned")
"""How a run ends that never goes on: its checkpoint is removed."""
_STRIPPED = "stripped.json"
_LEFT_BY_AN_ATTEMPT = (
    "result.json",
    "mask.json",
    "correct.json",
    "outputs.json",
    FILE,
    "environment.json",
    ADAPTER,
    _STRIPPED,
)


_IDENTITY = {"configuration", "seed", "method"}


@dataclass(frozen=True)
class Tail:
    """The events after a position in metrics.jsonl, and the position (attempt, bytes) after them."""

    events: list[Event]
    attempt: int
    offset: int


@dataclass(frozen=True)
class RunFolder:
    """The record of one run, written only by its rank 0."""

    path: Path

    @property
    def configuration(self) -> str:
        """The key of the run's configuration."""
        return self.path.parent.name

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.path.name.removeprefix("seed-"))

    @property
    def whole(self) -> "RunFolder":
        """The run itself; for a round, the run that it belongs to."""
        return self

    def round(self, task: str) -> "RoundFolder":
        """The round that trains on this task, whether or not it has started."""
        return RoundFolder(self.path / task)

    def parts(self) -> list["RunFolder"]:
        """The folders with adapter, mask and checkpoint: the rounds that have started, or the run itself."""
        return [RoundFolder(spec.parent) for spec in sorted(self.path.glob("*/spec.json"))] or [self]

    @property
    def adapter(self) -> Path:
        """The path of the trained adapter."""
        return self.path / ADAPTER

    @property
    def stripped(self) -> bool:
        """Whether the adapter was removed on purpose, so that the run needs none."""
        return stat_of(self.path / _STRIPPED) is not None

    def strip(self) -> None:
        """Remove the adapter, and note that first: the next start would miss it, and run the run again."""
        if not is_there(self.adapter):
            return
        try:
            write_record(self.path / _STRIPPED, {})
        except OSError:  # on a full disk only the adapter makes space for the note
            remove(self.adapter)
            write_record(self.path / _STRIPPED, {})
        remove(self.adapter)  # a trial in another process may have been faster

    @property
    def checkpoint(self) -> Path:
        """The path of an unfinished run's checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def metrics(self) -> Path:
        """The file of events."""
        return self.path / "metrics.jsonl"

    def start(self, spec: Mapping[str, Any], slot: str) -> int:
        """Start an attempt and return its number, from 1. Removes what an unfinished attempt left."""
        assert not ((result := self.result()) and result.finished), f"{self.path} has finished: it never runs again"
        if os.path.lexists(self.path) and not self.path.is_dir():
            self.path.replace(self.path.with_name(f"{self.path.name}.damaged"))
        self.path.mkdir(parents=True, exist_ok=True)
        attempt = self.attempt() + 1
        self._clear()
        # Not durable: after a power cut the next attempt writes them again.
        write_record(self.path / "spec.json", spec, durable=False)
        event = {"time": time.time(), "event": "run_started", "version": VERSION, "slot": slot, "attempt": attempt}
        # A new file whose first line names the attempt: by that readers notice that their offset is void.
        write_lines(self.metrics, [event], durable=False)
        return attempt

    def pause(self, judged: Mapping[str, Any]) -> None:
        """Note that the run was put aside at a rung. Its checkpoint is there already."""
        known = [each.as_json() for each in self.rungs().rungs if each.rung != judged["rung"]]
        write_record(self.path / "rungs.json", {"rungs": [*known, dict(judged)]})
        self.event("run_paused", step=judged["step"])

    def rungs(self) -> Rungs:
        """The rungs that the run has come to; none where rungs.json is damaged, which is reported once."""
        try:
            return Rungs.read(self.path / "rungs.json") or Rungs()
        except Damaged as error:
            note_unread(error, "the run counts as never paused")
            return Rungs()

    def last_slot(self) -> str | None:
        """The slot that has trained the run last; None before any."""
        begun = [each.slot for each in self.events() if isinstance(each, RunStarted | RunContinued)]
        return begun[-1] if begun else None

    def resume(self, slot: str) -> bool:
        """Continue a paused run, whose events stay; whether it is one. What was noted since is of an attempt that died.

        What that has trained is kept up to its checkpoint.
        """
        if not self.rungs().rungs or not present(self.checkpoint):
            return False
        lines = complete_lines(self.metrics)
        pauses = [number for number, line in enumerate(lines) if _event_of(line).get("event") == "run_paused"]
        if not pauses:
            return False
        kept, later = lines[: pauses[-1] + 1], lines[pauses[-1] + 1 :]
        if later:
            first = {**_event_of(kept[0]), "attempt": self.attempt() + 1}  # by which readers notice a new file
            trained = _step_of(self.checkpoint)
            known = [_event_of(line) for line in [*kept[1:], *later]]
            write_lines(self.metrics, [first, *(each for each in known if each.get("step", 0) <= trained)])
        self.event("run_continued", slot=slot)
        return True

    def _clear(self) -> None:
        remove_drafts(self.path)
        for name in _LEFT_BY_AN_ATTEMPT:
            remove(self.path / name)
        # Files stay: the attempts are counted by the one, and resumed from the other.
        for path in (self.metrics, self.checkpoint):
            if not path.is_file():
                remove(path)

    def attempt(self) -> int:
        """The number of the attempt in metrics.jsonl; 0 before the first."""
        try:
            with opened_regular(self.metrics) as file:
                return _attempt(file.readline())
        except (FileNotFoundError, Damaged):
            return 0

    def write(self, document: Document, value: Mapping[str, Any]) -> None:
        """Write spec.json, environment.json, mask.json, correct.json or outputs.json."""
        # Pruning reads correct.json, so it must survive a power cut; the others decide nothing.
        write_json(self.path / f"{document}.json", value, durable=document == "correct")

    def read(self, document: Document) -> Record | None:
        """Read one of them; None when it is missing, or damaged, which is reported once."""
        try:
            return read_json(self.path / f"{document}.json")
        except Damaged as error:
            note_damage(error.path, error.reason, "it counts as not there")
            return None

    def write_predictions(self, found: Iterable[Record], base: Path) -> None:
        """Write predictions.jsonl; base: the base model's file."""
        write_predictions(self.path / FILE, found, base)

    def predictions(self) -> list[Record]:
        """The lines of predictions.jsonl, of all rounds where there are some, their tasks then as in correct.json."""
        if (parts := self.parts()) == [self]:
            return read_predictions(self.path / FILE)
        return [
            {**each, "task": f"{part.path.name}/{each['task']}"}
            for part in parts
            for each in read_predictions(part.path / FILE)
        ]

    def event(self, event: str, **fields: Any) -> None:
        """Append an event with the present time."""
        append_line(self.metrics, {"time": time.time(), "event": event, **fields})

    def finish(self, result: Mapping[str, Any]) -> None:
        """End the run: the last event, then result.json, whose presence means that the run is over.

        The checkpoint is removed only after that: until then it may be all that a kill leaves.
        """
        self.event("run_ended")
        write_record(self.path / "result.json", result)
        if result["status"] in WITHOUT_CHECKPOINT:
            remove(self.checkpoint)
            remove_drafts(self.path)

    def result(self) -> RunResult | None:
        """result.json; None while the run is active, and where it is damaged, which is reported once: run it again.

        Also None for a newer version that cannot be read, which is reported once, too.
        """
        try:
            found = RunResult.read(self.path / "result.json")
            if found is not None:
                self._refuse_another_s(found)
        except Damaged as error:
            note_unread(error, "the run counts as not finished, and the next start runs it again")
            return None
        if found is None or found.model_fields_set >= _IDENTITY:
            return found
        key = self.configuration
        place = {"configuration": key, "seed": self.seed, "method": key.rpartition("-")[0]}
        return found.model_copy(update={name: place[name] for name in _IDENTITY - found.model_fields_set})

    def _refuse_another_s(self, found: RunResult) -> None:
        """Raise Damaged for another run's result, as in a copied folder, which would count twice."""
        said = {name: getattr(found, name) for name in ("configuration", "seed") if name in found.model_fields_set}
        if any(value != getattr(self, name) for name, value in said.items()):
            whose = " ".join(f"{name} {value}" for name, value in said.items())
            raise Damaged(self.path / "result.json", f"is the result of another run, {whose}")

    def events(self) -> list[Event]:
        """All events so far, without an incomplete last line and without bad lines, which are reported once."""
        return self.tail().events

    def tail(self, offset: int = 0, attempt: int = 0) -> Tail:
        """The events after byte `offset` of that attempt; from the beginning if another attempt has started."""
        try:
            with opened_regular(self.metrics) as file:
                current = _attempt(file.readline())
                start = offset if current == attempt and _ends_a_line(file, offset) else 0
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            return Tail([], 0, 0)
        except Damaged as error:
            note_damage(self.metrics, error.reason, "it counts as empty")
            return Tail([], 0, 0)
        found = parse_events(data, self.metrics)
        return Tail(found.events, current, start + found.size)

    def version(self) -> tuple[int, int, int]:
        """Changes whenever an event or a result is added: (inode and size of metrics.jsonl, result's mtime in ns)."""
        # The size, not the time: network disks stamp times as coarsely as one second.
        metrics, result = stat_of(self.metrics), stat_of(self.path / "result.json")
        return (
            metrics.st_ino if metrics else 0,
            metrics.st_size if metrics else 0,
            result.st_mtime_ns if result else 0,
        )


@dataclass(frozen=True)
class RoundFolder(RunFolder):
    """One round of a run that trains on several tasks in turn: a subfolder named by the task.

    Its events are among the run's.
    """

    @property
    def whole(self) -> RunFolder:
        """The run that the round belongs to."""
        return RunFolder(self.path.parent)

    @property
    def task(self) -> str:
        """The task that this round trains on."""
        return self.path.name

    @property
    def configuration(self) -> str:
        """The key of the run's configuration."""
        return self.whole.configuration

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.whole.seed

    @property
    def metrics(self) -> Path:
        """The run's file of events."""
        return self.whole.metrics

    def begin(self, spec: Mapping[str, Any]) -> None:
        """Create the folder; removes what an unfinished attempt left, except its checkpoint."""
        self.path.mkdir(exist_ok=True)
        self._clear()
        write_record(self.path / "spec.json", spec, durable=False)

    def end(self, result: Mapping[str, Any]) -> None:
        """Write result.json, whose presence means that the round is not run again."""
        write_record(self.path / "result.json", result)


def _event_of(line: bytes) -> Record:
    found = parse_lines(line if line.endswith(b"\n") else line + b"\n").records
    return found[0] if found else {}


def _step_of(checkpoint: Path) -> int:
    """The step of a checkpoint; 0 for an unreadable one, with which the run begins from its start."""
    try:
        with opened_tensors(checkpoint) as file:
            return int(file.get_tensor("step"))
    except (OSError, Damaged, TypeError):
        return 0


def _attempt(first_line: bytes) -> int:
    begun = parse_lines(first_line).records
    attempt = begun[0].get("attempt") if begun else None
    return attempt if isinstance(attempt, int) else 0


def _ends_a_line(file: BinaryIO, offset: int) -> bool:
    """Whether a line ends at `offset`: else the folder was removed and an attempt of the same number started."""
    if offset == 0:
        return True
    file.seek(offset - 1)
    return file.read(1) == b"\n"
