"""What a run's result.json and its events must look like."""

import re
from collections.abc import Mapping
from typing import Any

from gallop_ray.tracking.files import Record
from gallop_ray.tracking.shapes import Check, Shape, integer, mapping, number, one_of, optional, text, truth

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
