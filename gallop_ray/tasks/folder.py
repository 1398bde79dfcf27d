"""Tasks in a folder: `<root>/<task>.<split>.jsonl`, an object a line in LLM-Adapters' format (formats/house.py)."""

from collections.abc import Sequence
from pathlib import Path

from gallop_ray.spec.tasks import Formulation
from gallop_ray.tasks.examples import SPLITS, Example, Split
from gallop_ray.tasks.formats.house import house_examples, house_formulation
from gallop_ray.tasks.lines import json_object, read_lines
from gallop_ray.tasks.sources.table import Placed, each_row


def folder_tasks(root: Path) -> list[str]:
    """Names of the tasks in the folder; ValueError where it does not exist."""
    if not root.is_dir():
        raise ValueError(
            f"data.root {root} is not a folder; give a folder of <task>.<split>.jsonl, `hub` or `generated`"
        )
    return sorted(
        {path.name.removesuffix(f".{split}.jsonl") for split in SPLITS for path in root.glob(f"*.{split}.jsonl")}
    )


def folder_splits(root: Path, task: str) -> list[Split]:
    """The splits that the folder holds of a task."""
    return [split for split in SPLITS if _path(root, task, split).exists()]


def folder_examples(root: Path, task: str, split: Split, formulation: Formulation | None = None) -> list[Example]:
    """All examples of a split, in the file's order; ValueError names the first lines that cannot be used.

    formulation: of those with options; None: cloze where the answers' texts can be found in all lines of the task.
    """
    rows = folder_rows(root, task, split)
    if formulation is None:
        others = [each for each in folder_splits(root, task) if each != split]
        formulation = house_formulation([*rows, *_readable(root, task, others)])
    return house_examples(rows, formulation)


def folder_rows(root: Path, task: str, split: Split) -> list[Placed]:
    """The lines of a split."""
    return each_row(read_lines(_path(root, task, split)), lambda line, place: (place, json_object(line, place)))


def _readable(root: Path, task: str, splits: Sequence[Split]) -> list[Placed]:
    """The lines of other splits, whose mistakes are told where they are asked for."""
    found = []
    for split in splits:
        try:
            found += folder_rows(root, task, split)
        except ValueError:
            continue
    return found


def _path(root: Path, task: str, split: Split) -> Path:
    return root / f"{task}.{split}.jsonl"
