"""Which right answers changed: what a run answers right that another, or the base model, does not, and the reverse."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy.special import bdtr

from gallop_ray.analysis.answers import base_recorded, recorded
from gallop_ray.analysis.ranking import Summary
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import Correct

_GENERATED = "generated"


@dataclass(frozen=True)
class Flips:
    """How the right answers to a task's test set changed, in one way of measuring.

    Counts are of examples, means over the `seeds`. p: of McNemar's exact two-sided test that gains and losses are
    equally likely; of several seeds the largest, since they share their examples and cannot be added up.
    """

    task: str
    way: str
    examples: int
    both: float
    gained: float
    lost: float
    p: float
    seeds: int = 1

    @property
    def neither(self) -> float:
        """Examples that neither answers right."""
        return self.examples - self.both - self.gained - self.lost


def flips(before: Correct, after: Correct) -> list[Flips]:
    """What changed on each task that both were measured on: by what it counts by, and by generation.

    Measures that are not right or wrong for each example, such as losses, have none.
    """
    return list(_flips(before, after))


def _flips(before: Correct, after: Correct) -> Iterator[Flips]:
    for task, splits in after.items():
        ways, others = splits.get("test", {}), before.get(task, {}).get("test", {})
        for way in dict.fromkeys([*list(ways)[:1], _GENERATED]):
            old, new = others.get(way), ways.get(way)
            if isinstance(old, str) and isinstance(new, str) and len(old) == len(new):
                yield _counted(task, way, old, new)


def _counted(task: str, way: str, old: str, new: str) -> Flips:
    pairs = list(zip(old, new, strict=True))
    gained, lost = pairs.count(("0", "1")), pairs.count(("1", "0"))
    return Flips(task, way, len(pairs), pairs.count(("1", "1")), gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of McNemar's test, from the examples that one alone answers right, and the other alone."""
    changed = gained + lost
    return min(1.0, 2 * float(bdtr(min(gained, lost), changed, 0.5))) if changed else 1.0


def flips_from_base(folder: SweepFolder, sweep: Sweep, best: Sequence[Summary]) -> list[tuple[str, Flips]]:
    """By method, how its best configuration's right answers differ from the base model's, over its seeds."""
    before = base_recorded(folder, sweep)
    return [(each.method, one) for each in best for one in _over_seeds(folder, each, before)]


def _over_seeds(folder: SweepFolder, each: Summary, before: Correct) -> list[Flips]:
    of_each: dict[tuple[str, str], list[Flips]] = defaultdict(list)
    for run in each.finished:
        for one in _flips(before, recorded(folder.run(each.configuration, run.seed))):
            of_each[one.task, one.way].append(one)
    return [_together(found) for found in of_each.values()]


def _together(found: Sequence[Flips]) -> Flips:
    both, gained, lost = (fmean(getattr(one, name) for one in found) for name in ("both", "gained", "lost"))
    first, p = found[0], max(one.p for one in found)
    return Flips(first.task, first.way, first.examples, both, gained, lost, p, len(found))
