"""The options of PEFT's AdaLoRA (arXiv 2303.10512), and the steps at which it prunes ranks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NAME = "adalora"
SOME_STEPS = 1_000_000
"""PEFT wants the run's steps when it attaches; this many until they are known."""
_INIT_R, _TARGET_R = 12, 8  # PEFT's defaults
_UNREAD = ("alpha_pattern", "init_lora_weights", "lora_bias", "r", "rank_pattern", "use_rslora")


_COUNTS = {"total_step": 1, "tinit": 0, "tfinal": 0, "deltaT": 1, "init_r": 2, "target_r": 1}


@dataclass(frozen=True)
class Schedule:
    """All ranks are trained up to step `tinit`; then they are pruned until `total_step` - `tfinal` steps are done."""

    total_step: int
    tinit: int
    tfinal: int

    @property
    def last_pruning(self) -> int:
        """The step after which the ranks stay."""
        return self.total_step - self.tfinal

    @classmethod
    def of(cls, options: Mapping[str, Any], steps: int) -> "Schedule":
        """From what the options say, for a run of so many steps: by default a tenth before, and half after.

        Raises ValueError where no step is left for pruning, or the run would end before it.
        """
        total = options.get("total_step") or steps
        tinit = options.get("tinit", total // 10)
        tfinal = options.get("tfinal", max(0, min(total // 2, total - max(2, tinit + 1))))
        found = cls(total, tinit, tfinal)
        said = f"tinit {tinit}, tfinal {tfinal} and total_step {total}"
        if total > steps:
            raise ValueError(f"total_step {total} is more than the {steps} steps of a run; leave it out for these")
        # PEFT measures importance in the steps before the last pruning: there has to be one.
        if found.last_pruning < max(2, tinit + 1):
            raise ValueError(f"{said} leave no step to prune ranks by; lower tinit or tfinal, or train longer")
        return found


def refused_adalora(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options that AdaLoRA does not take, each with the reason."""
    for name in _UNREAD:
        if name in options:
            yield name, "is not read by adalora, whose ranks are init_r and target_r; leave it out"
    for name, least in _COUNTS.items():
        if name in options and not _is_count(options[name], least):
            yield name, f"must be a whole number, {least} or more"
            return
    first, last = options.get("init_r", _INIT_R), options.get("target_r", _TARGET_R)
    if last >= first:
        name = "target_r" if "target_r" in options else "init_r"
        yield name, f"target_r {last} must be less than init_r {first}: it is what is left of it"


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
