"""Two finished runs beside each other: metrics, right answers that differ, and what each said."""

from collections.abc import Iterator
from dataclasses import dataclass

from gallop_ray.analysis.answers import recorded
from gallop_ray.analysis.flips import Flips, flips
from gallop_ray.records.files import Record
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.identity import base_model, split_hashes
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.records.stored import open_sweep
from gallop_ray.spec.metrics import test_metrics
from gallop_ray.tasks.metrics import Correct, task_of


@dataclass(frozen=True)
class TwoRuns:
    """Two runs compared on the tasks whose test examples are the same.

    metrics: by name the first's and the second's, None where not measured. flips: gained is what the second alone
    answers right. answers: those to the same example that differ, with `other` for the second's. left_out: tasks with
    other test examples, or measured in one of them only. unlike: why metrics are left out, a sentence each.
    """

    metrics: dict[str, tuple[float | None, float | None]]
    flips: list[Flips]
    answers: list[Record]
    left_out: list[str]
    unlike: list[str]


def compare(first: RunFolder, second: RunFolder) -> TwoRuns:
    """Compare two runs of one sweep or of two. Raises ValueError where no task is the same, or correct.json is lost."""
    before, after = recorded(first), recorded(second)
    for run, correct in ((first, before), (second, after)):
        if not correct:
            raise ValueError(
                f"{run.path}/correct.json, which says what the run answered right, is missing or damaged: put it back, "
                "or compare another seed"
            )
    same = [task for task in before if task in after and _examples(first, task) == _examples(second, task)]
    left_out = [task for task in dict.fromkeys([*before, *after]) if task not in same]
    if not same:
        raise ValueError(
            f"{first.path} and {second.path} have no task with the same test examples; compare runs of one sweep, or "
            "of sweeps with the same data"
        )
    unlike, metrics = list(_other_roles(first, second, before, after)), {}
    if not left_out and not unlike:
        same_base = base_model(_sweep(first)) == base_model(_sweep(second))
        names = [metric.name for metric in test_metrics() if same_base or not metric.of_base]
        metrics = dict(_metrics(first, second, names))
        unlike = [] if same_base else ["changes from the base are left out: the two have other base models"]
    return TwoRuns(metrics, flips(_of(before, same), _of(after, same)), _answers(first, second, same), left_out, unlike)


def _other_roles(first: RunFolder, second: RunFolder, before: Correct, after: Correct) -> Iterator[str]:
    """Why "ID accuracy" is not the same number in both."""
    one, other = (open_sweep(_sweep(run).path).sweep.data for run in (first, second))
    for role, mine, theirs in (("train", one.train_tasks, other.train_tasks), ("OOD", one.ood, other.ood)):
        if set(mine) != set(theirs):
            names = "; ".join(", ".join(each) or "none" for each in (mine, theirs))
            yield f"metrics are left out: the two have other {role} tasks ({names})"
    for task in before.keys() & after.keys():
        if (ways := [next(iter(each[task].get("test", {})), None) for each in (before, after)])[0] != ways[1]:
            yield f"metrics are left out: {task} counts by {ways[0]} in the first and by {ways[1]} in the second"


def _sweep(run: RunFolder) -> SweepFolder:
    return SweepFolder(run.whole.path.parent.parent)


def _of(correct: Correct, tasks: list[str]) -> Correct:
    return {task: correct[task] for task in tasks}


def _examples(run: RunFolder, task: str) -> object:
    """The hash of a task's test examples, as its sweep has recorded it; without one, the sweep itself."""
    folder = _sweep(run)
    hashes = {name: digest for name, split, digest in split_hashes(folder) if split == "test"}
    return hashes.get(task_of(task), folder.path.resolve())


def _metrics(
    first: RunFolder, second: RunFolder, names: list[str]
) -> Iterator[tuple[str, tuple[float | None, float | None]]]:
    results = first.result(), second.result()
    for name in [f"{name}{way}" for name in names for way in ("", "_generated")]:
        one, other = (None if result is None else result.value(name) for result in results)
        if one is not None or other is not None:
            yield name, (one, other)


def _answers(first: RunFolder, second: RunFolder, tasks: list[str]) -> list[Record]:
    said = {(one["task"], one["example"]): one for one in second.predictions()}
    pairs = [(one, said.get((one["task"], one["example"]))) for one in first.predictions() if one["task"] in tasks]
    return [
        {**one, "other": other["output"], "other_right": other.get("right")}
        for one, other in pairs
        if other is not None and one.get("output") is not None and other.get("output") != one["output"]
    ]
