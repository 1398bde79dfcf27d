"""What happened in a run: the lines of metrics.jsonl."""

from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError, model_validator
from pydantic_core import from_json

from gallop_ray.disk.damage import note_damage
from gallop_ray.records.results import is_number_or_null
from gallop_ray.records.typed import Number, StoredRecord, wrong


class Event(StoredRecord):
    """An event with its time and, in a run with rounds, the round's task."""

    time: Number
    event: str
    round: str | None = None


class RunStarted(Event):
    """An attempt has started; the first line of a file, and the only one with a version."""

    slot: str
    attempt: int


class PhaseBegan(Event):
    """A phase began; the previous one ended."""

    phase: str


class Step(Event):
    """Optimizer steps were done; `loss` is the mean since the last such event."""

    step: int
    steps: int | None = None
    loss: Number | None = None
    grad_norm: Number | None = None
    examples_per_second: Number | None = None


class Progress(Event):
    """How many examples of a phase are done; `what` the present ones are of, empty where that needs no words."""

    done: int
    total: int
    what: str = ""


class Validated(Event):
    """The model was measured while it trained; the metrics are among `model_extra`."""

    step: int

    @model_validator(mode="after")
    def _metrics_are_numbers(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if name.startswith("val_") and not is_number_or_null(value):
                raise ValueError(f"has a wrong {name}")
        return self

    @property
    def metrics(self) -> dict[str, float | None]:
        """The validation metrics by name."""
        return {name: value for name, value in (self.model_extra or {}).items() if name.startswith("val_")}


class RunPaused(Event):
    """The run was put aside after this step, at a rung of the search."""

    step: int


class RunContinued(Event):
    """A paused run is trained again, in this slot."""

    slot: str


_KINDS: dict[str, type[Event]] = {
    "run_started": RunStarted,
    "phase": PhaseBegan,
    "step": Step,
    "validation": Validated,
    "progress": Progress,
    "run_paused": RunPaused,
    "run_continued": RunContinued,
    **dict.fromkeys(("scores", "first_forward", "run_ended"), Event),
}


class Events(NamedTuple):
    """The events in complete lines, and the size of these lines in bytes."""

    events: list[Event]
    size: int


def parse_events(data: bytes, path: Path) -> Events:
    """The events in complete lines of a file. Bad lines and unknown events are skipped, and reported once.

    An incomplete last line stays unread: it is still being written.
    """
    complete, events = data.rfind(b"\n") + 1, []
    damage: str | None = None
    unknown: str | None = None
    for line in data[:complete].split(b"\n")[:-1]:
        try:
            found = _event(line)
        except ValidationError as error:
            damage = damage or f"has a line that {wrong(error)}"
        except ValueError as error:
            damage = damage or f"has lines that are not records ({error})"
        else:
            if found.event in _KINDS:
                events.append(found)
            else:
                unknown = unknown or found.event
    if damage is not None:
        note_damage(path, damage, "such lines are left out")
    if unknown is not None:
        note_damage(path, f"has events that this version does not know ({unknown})", "they are left out")
    return Events(events, complete)


def _event(line: bytes) -> Event:
    value: Any = from_json(line)
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    kind = value.get("event")
    return _KINDS.get(kind if isinstance(kind, str) else "", Event).model_validate(value)
