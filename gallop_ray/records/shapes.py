"""What records must look like where they are read: a wrong type is damage, what an older version lacks is not."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from gallop_ray.disk.damage import Damaged
from gallop_ray.records.files import Record, read_json

Check = Callable[[Any], bool]


def text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def integer(value: Any) -> bool:
    """A whole number, no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    """A finite number that a float holds, no truth value."""
    return (isinstance(value, float) and isfinite(value)) or (integer(value) and abs(value) < 2**1000)


def truth(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def mapping(of: Check | None = None) -> Check:
    """An object, all of its values so."""
    return lambda value: isinstance(value, dict) and (of is None or all(map(of, value.values())))


def listed(of: Check) -> Check:
    """A list, all of its items so."""
    return lambda value: isinstance(value, list) and all(map(of, value))


def optional(of: Check) -> Check:
    """So, or null."""
    return lambda value: value is None or of(value)


def one_of(*values: Any) -> Check:
    """One of these."""
    return lambda value: isinstance(value, str | int) and value in values


@dataclass(frozen=True)
class Shape:
    """The fields of a record that are relied on.

    needed: must be there. known: of this type where they are there, others are not looked at. defaults: of those that
    an older version did not write.
    """

    needed: Mapping[str, Check] = field(default_factory=dict)
    known: Mapping[str, Check] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def wrong(self, record: Mapping[str, Any]) -> str | None:
        """What is wrong with a record; None where nothing is."""
        if missing := [name for name in self.needed if name not in record]:
            return f"has no {missing[0]}"
        for name, check in {**self.needed, **self.known}.items():
            if name in record and not check(record[name]):
                return f"has a wrong {name}: {record[name]!r:.60}"
        return None

    def read(self, path: Path) -> Record | None:
        """A record of this shape, its defaults filled in; None when there is no file. Raises Damaged otherwise."""
        record = read_json(path)
        if record is None:
            return None
        if (wrong := self.wrong(record)) is not None:
            raise Damaged(path, wrong)
        return {**self.defaults, **record}


FINAL = ("finished", "pruned", "failed", "diverged")
"""How a configuration can end; of these a run cannot be pruned."""
_MEASURED = re.compile(r"(val_|id_|ood_|mean_|forget_ratio|collapse_rate|text_loss).*")
_KNOWN: dict[str, Check] = {
    **dict.fromkeys(("configuration", "method", "method_type", "stage", "slot"), text),
    **dict.fromkeys(("reason", "failure", "scores"), optional(text)),
    **dict.fromkeys(("seed", "attempts", "steps", "ood_tasks"), integer),
    **dict.fromkeys(("best_step", "trained_parameters"), optional(integer)),
    "micro_batch_size": lambda value: integer(value) and value > 0,
    **dict.fromkeys(
        ("density", "trainable_percent", "selection_ratio", "learning_rate", "train_loss"), optional(number)
    ),
    **dict.fromkeys(("peak_memory_bytes", "parseable_share", "memorization", "started", "ended"), optional(number)),
    "forgetting_is_vacuous": optional(truth),
    "seconds": mapping(optional(number)),
    "tasks": mapping(mapping(mapping(optional(number)))),
    "forgetting": mapping(mapping(optional(number))),
    "rounds": mapping(mapping()),
}
RESULT = Shape(needed={"status": one_of(*FINAL)}, known=_KNOWN)
_EVENT = Shape(needed={"time": number, "event": text}, known={"round": text})
_EVENTS: Mapping[str, Shape] = {
    "run_started": Shape(needed={"slot": text, "attempt": integer}),
    "phase": Shape(needed={"phase": text}),
    "step": Shape(
        needed={"step": integer},
        known={"steps": integer, **dict.fromkeys(("loss", "grad_norm", "examples_per_second"), optional(number))},
    ),
    "validation": Shape(needed={"step": integer}),
}


def wrong_result(result: Mapping[str, Any]) -> str | None:
    """Why this is no result of a run; None where it is one."""
    wrong = RESULT.wrong(result)
    if wrong is not None:
        return wrong
    bad = [name for name, value in result.items() if _MEASURED.fullmatch(name) and not _measured(name, value)]
    return f"has a wrong {bad[0]}: {result[bad[0]]!r:.60}" if bad else None


def _measured(name: str, value: Any) -> bool:
    return name in _KNOWN or value is None or number(value)


def wrong_event(event: Record) -> str | None:
    """Why this is no event of a run; None where it is one, or of a kind that this version does not know."""
    if (wrong := _EVENT.wrong(event)) is not None:
        return wrong
    shape = _EVENTS.get(event["event"])
    bad = [name for name, value in event.items() if name.startswith("val_") and not (value is None or number(value))]
    if bad:
        return f"has a wrong {bad[0]}"
    return None if shape is None else shape.wrong(event)
