"""The scoring pass, against a step of full fine-tuning on the same tokens."""

from typing import Any

from benchmarks.arms import take_turns, training_arm
from benchmarks.models import setting
from benchmarks.ours import scoring
from benchmarks.peers import full
from benchmarks.report import row


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row."""
    shared = setting(quick)
    found = take_turns({"scoring": training_arm(scoring, shared), "full": training_arm(full, shared)}, quick)
    return [row(found["scoring"], "full fine-tuning", found["full"], **shared.label)]
