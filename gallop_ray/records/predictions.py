"""predictions.jsonl: what a model said to test examples, each with what the base model said to it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gallop_ray.disk.damage import note_damage
from gallop_ray.disk.regular import read_regular
from gallop_ray.records.files import Record, parse_lines, write_lines

FILE = "predictions.jsonl"
BASE_FILE = "base_predictions.jsonl"
_COMPARED = ("output", "read", "right", "measured")


def write_predictions(path: Path, found: Iterable[Record], base: Path | None = None) -> None:
    """Replace the file. base: the base model's, whose answers are set beside these as `base_output` and so on.

    Not durable: nothing is decided by them.
    """
    theirs = {_which(each): each for each in read_predictions(base)} if base else {}
    write_lines(path, [_beside(each, theirs) for each in found], durable=False)


def read_predictions(path: Path) -> list[Record]:
    """The lines of the file; none where there is no file. What is damaged is left out, which is reported once."""
    try:
        lines = parse_lines(read_regular(path))
    except FileNotFoundError:
        return []
    if lines.damage:
        note_damage(path, f"has a line that {lines.damage}", "such lines are left out")
    return [each for each in lines.records if {"task", "example", "prompt"} <= each.keys()]


def _which(one: Mapping[str, object]) -> tuple[object, object, object]:
    return one["task"], one["example"], one["prompt"]


def _beside(one: Record, theirs: Mapping[tuple[object, object, object], Record]) -> Record:
    other = theirs.get(_which(one))
    return one if other is None else {**one, **{f"base_{name}": other.get(name) for name in _COMPARED}}
