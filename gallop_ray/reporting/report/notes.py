"""What a reader has to know besides the verdict."""

from collections.abc import Iterator

from gallop_ray.analysis.advice import cut_grids
from gallop_ray.analysis.edges import edges_of
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.tasks.metrics import VACUOUS_BELOW, vacuous

_DISAGREEMENT = 0.2  # of two forget ratios


def notes(material: ReportData) -> list[str]:
    """Warnings as sentences, the most important first."""
    found = (_unfinished, _bad, _learnt_nothing, _at_edges, _cut_grids, _vacuous, _disagreeing, _few_seeds)
    return [note for look in found for note in look(material)]


def _unfinished(material: ReportData) -> Iterator[str]:
    runs, state = material.status.runs, material.status.state
    left = runs.to_do + runs.running
    if left:
        over = runs.total - left
        yield f"the sweep is {state}: {over} of {runs.total} runs are over, and what is said here may change."


def _bad(material: ReportData) -> Iterator[str]:
    failed, pruned = material.status.runs.failed, material.status.runs.pruned
    if failed:
        were = "run" if failed == 1 else "runs"
        yield f"{failed} {were} failed or diverged and {'counts' if failed == 1 else 'count'} in no mean; see the end."
    if pruned:
        were = "1 run was spared" if pruned == 1 else f"{pruned} runs were spared"
        yield f"{were}, because the configuration was pruned or had failed."


def _vacuous(material: ReportData) -> Iterator[str]:
    generated = material.base.get("ood_accuracy_generated")
    if generated is not None and vacuous(generated):
        yield (
            f"by generation the base model's OOD accuracy is {100 * generated:.1f} %, below {100 * VACUOUS_BELOW:g} %: "
            "it does not follow the answer format, and the forget ratio by generation says nothing. The one by "
            "likelihood does."
        )


def _learnt_nothing(material: ReportData) -> Iterator[str]:
    base, means = material.base.get("id_accuracy"), [each.over_seeds("id_accuracy")[0] for each in material.best]
    known = [mean for mean in means if mean is not None]
    if base is not None and known and max(known) <= base:
        yield (
            f"no method is better than the base model ({100 * base:.1f} %) at the task that it was trained on: more "
            "steps or other learning rates may help."
        )


def _at_edges(material: ReportData) -> Iterator[str]:
    for found in edges_of(material.folder, material.sweep, material.best).values():
        for edge in found:
            yield f"a better value may lie beyond what was tried: {edge}."


def _cut_grids(material: ReportData) -> Iterator[str]:
    yield from (f"{text}." for text in cut_grids(material.sweep))


def _disagreeing(material: ReportData) -> Iterator[str]:
    """The methods that have forgotten by one way of measuring and not by the other."""
    if vacuous(material.base.get("ood_accuracy_generated") or 0.0):
        return
    for each in material.best:
        likely, said = (each.over_seeds(name)[0] for name in ("forget_ratio", "forget_ratio_generated"))
        if likely is not None and said is not None and abs(said - likely) > _DISAGREEMENT:
            yield (
                f"{each.method} forgets {100 * likely:.1f} % by likelihood and {100 * said:.1f} % by generation: look "
                "at both before you trust one."
            )


def _few_seeds(material: ReportData) -> Iterator[str]:
    if material.best and max(len(each.finished) for each in material.best) == 1:
        yield "every number here is of one seed: there are no error bars, and differences may be chance."
