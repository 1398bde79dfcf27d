"""What a reader must know before believing a sweep's results: one list, which every place that shows results takes.

The table on the terminal, `status`, `best`, the report and MLflow's description show it whole.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, variance

from gallop_ray.analysis.answers import recorded
from gallop_ray.analysis.chance import at_chance
from gallop_ray.analysis.edges import edges_of
from gallop_ray.analysis.learning import Learning, learning, nothing_learnt
from gallop_ray.analysis.ranking import Summary, best
from gallop_ray.records.events import Step
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.metrics import display_name
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.metrics import VACUOUS_BELOW, Correct, base_metrics, plain, vacuous

_WAYS_APART = 0.2
_SEEDS_APART = 0.2
_SETS_APART = 0.1
_SURE = 3.0
"""Standard errors beyond which a difference is none of chance."""
_FALLING, _LEAST_LOSSES = 0.05, 10


@dataclass(frozen=True)
class Diagnosis:
    """Something that qualifies what a sweep's results say. kind: of a fixed list, for programs; text: a sentence."""

    kind: str
    text: str


@dataclass(frozen=True)
class _Results:
    """What the diagnoses look at."""

    folder: SweepFolder
    sweep: Sweep
    best: Sequence[Summary]

    @cached_property
    def base(self) -> dict[str, float | None]:
        """Metrics of the base model; empty before it was measured."""
        found = self.folder.base()
        return base_metrics(found, self.sweep.data) if found else {}

    @cached_property
    def learning(self) -> Learning | None:
        """Which methods have learnt."""
        return learning(self.folder, self.sweep, self.best)


def diagnoses(folder: SweepFolder, sweep: Sweep, chosen: Sequence[Summary] | None = None) -> list[Diagnosis]:
    """The diagnoses of a sweep's best configurations, the weightiest first; empty where nothing is amiss.

    chosen: each method's best configuration, where they are known already.
    """
    results = _Results(folder, sweep, best(folder.results(), sweep.objective) if chosen is None else chosen)
    if not results.best:
        return []
    return [found for look in _LOOKS for found in look(results)]


def _learnt_nothing(results: _Results) -> Iterator[Diagnosis]:
    found = results.learning
    if found is not None and found.means and not found.learnt:
        yield Diagnosis("nothing learnt", nothing_learnt(found))


def _unmeasured(results: _Results) -> Iterator[Diagnosis]:
    """Neither other tasks nor general text: a verdict is then of what was learnt alone."""
    if not any(each.ood for each in results.sweep.data.rounds) and results.folder.base_text_loss() is None:
        yield Diagnosis(
            "forgetting not measured",
            "forgetting was not measured: add tasks to data.ood, for example capitals with `capitals: {source: "
            "basics:capitals}` in data.tasks, and general text with `evaluation: {text: basics}`",
        )


def _edges(results: _Results) -> Iterator[Diagnosis]:
    for found in edges_of(results.folder, results.sweep, results.best).values():
        for edge in found:
            yield Diagnosis("at an edge", f"a better value may lie beyond what was tried: {edge}")


def _vacuous(results: _Results) -> Iterator[Diagnosis]:
    generated = results.base.get("ood_accuracy_generated")
    if generated is not None and vacuous(generated):
        yield Diagnosis(
            "nothing to forget",
            f"by generation the base model's OOD accuracy is {100 * generated:.1f} %, below {100 * VACUOUS_BELOW:g} %: "
            "it does not follow the answer format, and the forget ratio by generation says nothing. The one by "
            "likelihood does",
        )


def _at_chance(results: _Results) -> Iterator[Diagnosis]:
    for each in at_chance(results.folder, results.sweep):
        yield Diagnosis("at chance", str(each))


def _ways_disagree(results: _Results) -> Iterator[Diagnosis]:
    """Likelihood and generation, of the task trained on and of forgetting."""
    nothing_to_forget = vacuous(results.base.get("ood_accuracy_generated") or 0.0)
    names = ["id_accuracy"] if nothing_to_forget else ["id_accuracy", "forget_ratio"]
    for each in results.best:
        for name in names:
            likely, said = (each.over_seeds(f"{name}{way}")[0] for way in ("", "_generated"))
            if likely is not None and said is not None and abs(said - likely) > _WAYS_APART:
                yield Diagnosis(
                    "ways disagree",
                    f"{each.method} has {display_name(name)} {100 * likely:.1f} % by likelihood and {100 * said:.1f} % "
                    "by generation: look at both before you trust one",
                )


def _seeds_disagree(results: _Results) -> Iterator[Diagnosis]:
    for each in results.best:
        values = [value for run in each.finished if (value := run.value("id_accuracy")) is not None]
        if len(values) > 1 and max(values) - min(values) > _SEEDS_APART:
            yield Diagnosis(
                "seeds disagree",
                f"{each.method} has {display_name('id_accuracy')} from {100 * min(values):.1f} % to "
                f"{100 * max(values):.1f} %, so that its mean describes no seed; take more seeds, or a lower learning "
                "rate",
            )


def _sets_disagree(results: _Results) -> Iterator[Diagnosis]:
    """Validation and test: the search goes by the one, the reader by the other."""
    for each in results.best:
        pairs = [(run.value("val_id_accuracy"), run.value("id_accuracy")) for run in each.finished]
        known = [(one, other) for one, other in pairs if one is not None and other is not None]
        if not known:
            continue
        validation, test = (fmean(each) for each in zip(*known, strict=True))
        if abs(validation - test) > max(_SETS_APART, _SURE * _error(results, each, validation, test)):
            yield Diagnosis(
                "validation and test disagree",
                f"{each.method} has {display_name('id_accuracy')} {100 * validation:.1f} % on the validation set and "
                f"{100 * test:.1f} % on the test set: they are not of one kind, or the search has fitted the first",
            )


def _error(results: _Results, of: Summary, validation: float, test: float) -> float:
    """The standard error of their difference if both sets were of one kind; infinite where no examples are known.

    By the examples alone: all seeds meet the same ones.
    """
    correct = recorded(results.folder.run(of.configuration, of.finished[0].seed))
    counts = [_examples(correct, results.sweep, split) for split in ("validation", "test")]
    if not all(counts):
        return math.inf
    share = (validation * counts[0] + test * counts[1]) / sum(counts)
    return math.sqrt(share * (1 - share) * sum(1 / count for count in counts))


def _examples(correct: Correct, sweep: Sweep, split: str) -> int:
    """How many examples of this split of the tasks trained on were measured by what the task counts by."""
    rounds = len(sweep.data.rounds) > 1
    keys = [f"{task}/{task}" if rounds else task for task in sweep.data.train_tasks]
    return sum(len(plain(correct.get(key, {}).get(split, {})) or ()) for key in keys)


def _still_falling(results: _Results) -> Iterator[Diagnosis]:
    """Whether the loss of the last fifth of the steps is lower than that of the fifth before."""
    for each in results.best:
        falls = [fall for run in each.finished if (fall := _fall(results.folder, each.configuration, run.seed))]
        if falls and len(falls) == len(each.finished):
            yield Diagnosis(
                "learning unfinished",
                f"the training loss of {each.method} was still falling at its end, by {100 * fmean(falls):.0f} % over "
                "the last fifth of the steps: it may not have learnt all that it can; raise training.epochs or steps",
            )


def _fall(folder: SweepFolder, configuration: str, seed: int) -> float | None:
    """By what share the loss fell in the last fifth, beyond chance; None where it did not, or is of few values.

    Of several rounds, each of which is trained by itself, the largest.
    """
    losses: dict[str | None, list[float]] = defaultdict(list)
    for each in folder.run(configuration, seed).events():
        if isinstance(each, Step) and each.loss is not None:
            losses[each.round].append(each.loss)
    return max((fall for known in losses.values() if (fall := _fall_of(known)) is not None), default=None)


def _fall_of(losses: Sequence[float]) -> float | None:
    size = len(losses) // 5
    if size * 5 < _LEAST_LOSSES:
        return None
    before, last = losses[-2 * size : -size], losses[-size:]
    fall = fmean(before) - fmean(last)
    error = math.sqrt((variance(before) + variance(last)) / size) if size > 1 else math.inf
    return fall / fmean(before) if fall > max(_FALLING * fmean(before), 2 * error) else None


def _too_long(results: _Results) -> Iterator[Diagnosis]:
    """All runs have the same examples, so that the first of them tells."""
    names = ("train_examples", "cut_examples", "dropped_examples")
    runs = [run for each in results.best for run in each.finished][:1]
    for used, cut, dropped in ((int(run.value(name) or 0) for name in names) for run in runs):
        said = [f"{cut} were cut"] * bool(cut) + [f"{dropped} were left out"] * bool(dropped)
        if said:
            yield Diagnosis(
                "examples too long",
                f"of {used + dropped} training examples {' and '.join(said)}, being longer than training.max_length",
            )


def _one_seed(results: _Results) -> Iterator[Diagnosis]:
    if max(len(each.finished) for each in results.best) == 1:
        text = "every number here is of one seed: there are no error bars, and differences may be chance"
        yield Diagnosis("one seed", text)


_LOOKS: tuple[Callable[[_Results], Iterator[Diagnosis]], ...] = (
    _learnt_nothing,
    _unmeasured,
    _edges,
    _at_chance,
    _vacuous,
    _ways_disagree,
    _seeds_disagree,
    _sets_disagree,
    _still_falling,
    _too_long,
    _one_seed,
)
