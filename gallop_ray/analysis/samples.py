"""A few of the answers in predictions.jsonl: those that changed from the base model's, and some that did not."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gallop_ray.analysis.ranking import Summary
from gallop_ray.records.files import Record
from gallop_ray.records.folders import SweepFolder

PER_KIND = 2
_KINDS = {
    (True, False): "lost",
    (False, True): "gained",
    (False, False): "wrong in both",
    (True, True): "right in both",
}
"""By whether the base model is right, and whether the tuned one is; in the order in which they are shown."""


@dataclass(frozen=True)
class Sample:
    """One answer. kind: how it compares with the base model's; empty for free text, which is not right or wrong."""

    method: str
    seed: int
    task: str
    kind: str
    prompt: str
    reference: str
    output: str
    base_output: str


def samples(folder: SweepFolder, best: Sequence[Summary]) -> list[Sample]:
    """Answers of the first finished seed of each method's best configuration; up to two per task and kind."""
    return [one for each in best for one in _of_one(folder, each)]


def _of_one(folder: SweepFolder, each: Summary) -> Iterator[Sample]:
    seeds = sorted(run.seed for run in each.finished)
    for seed in seeds[:1]:
        found = folder.run(each.configuration, seed).predictions()
        for kind, one in chosen(found):
            texts = (str(one.get(name) or "") for name in ("prompt", "reference", "output", "base_output"))
            yield Sample(each.method, seed, str(one["task"]), kind, *texts)


def chosen(found: Iterable[Record]) -> list[tuple[str, Record]]:
    """Of each task and kind the first few answers, those that changed first; with their kinds."""
    by_task: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        if one.get("output") is not None:
            by_task[str(one["task"])][_kind(one)].append(one)
    return [
        (kind, one) for kinds in by_task.values() for kind in (*_KINDS.values(), "") for one in kinds[kind][:PER_KIND]
    ]


def _kind(one: Record) -> str:
    before, now = one.get("base_right"), one.get("right")
    return _KINDS[before, now] if isinstance(before, bool) and isinstance(now, bool) else ""
