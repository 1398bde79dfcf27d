"""The verdict in plain words."""

from collections.abc import Sequence

from gallop_ray.reporting.comparison import LEAST_SEEDS, Comparison
from gallop_ray.reporting.power import seeds_text
from gallop_ray.spec.schema import Sweep

_NAMES = {
    "mean_accuracy": "mean of ID and OOD accuracy",
    "id_accuracy": "ID accuracy",
    "ood_accuracy": "OOD accuracy",
    "forget_ratio": "forget ratio",
}
_NAMED_AT_MOST = 4


def best_text(metric: str, leader: str, rest: Sequence[str], runner_up: Comparison | None) -> str:
    """One that is told apart from all others."""
    return f"{leader} is best by {_named(metric)} on test sets, ahead of {listed(rest)}.{_ahead(runner_up)}"


def tied_text(metric: str, leader: str, tied: Sequence[str], beaten: Sequence[str], margin: float) -> str:
    """All that is not told apart is as good, within the margin."""
    ahead = f" Ahead of {listed(beaten)}." if beaten else ""
    within = f"they differ by less than {100 * margin:g} points"
    return f"{leader} is tied with {listed(tied)} by {_named(metric)} on test sets: {within}.{ahead}"


def open_text(
    metric: str,
    leader: str,
    undecided: Sequence[str],
    beaten: Sequence[str],
    closest: Comparison | None,
    needed: int | None,
    methods: int,
) -> str:
    """The leader may be no better than some others; `methods` were compared."""
    if closest is None:
        said = f"{leader} and {undecided[0]} have fewer than two seeds in common; a verdict takes at least two."
        return f"Not enough seeds to name a best method by {_named(metric)} on test sets: {said}"
    if closest.difference == 0:
        apart = f"{leader} and {listed(undecided)} are not told apart by {closest.seeds} seeds."
    else:
        apart = f"{leader} is ahead, but {closest.seeds} seeds do not tell it from {listed(undecided)}."
    also = f" It is better than {listed(beaten)}." if beaten else ""
    return (
        f"Not enough seeds by {_named(metric)} on test sets: {apart}{also}{_ahead(closest)} "
        f"{_needed(needed, closest, methods)}"
    )


def selection_text(sweep: Sweep) -> str | None:
    """That the objective saw the tasks on which forgetting is measured, where it did."""
    seen = [metric for metric in sweep.objective.all_metrics if metric != "val_id_accuracy"]
    if not seen:
        return None
    tasks = dict.fromkeys(task for each in sweep.data.rounds for task in each.ood)
    return (
        f"The search goes by {' and '.join(seen)}, so it sees validation data of the OOD tasks "
        f"({listed(list(tasks))}): OOD accuracy and forgetting are those of a model selected for these tasks (oracle "
        "selection), not of tasks unknown to the search."
    )


def listed(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    if len(names) > _NAMED_AT_MOST:
        return f"{', '.join(names[: _NAMED_AT_MOST - 1])} and {len(names) - _NAMED_AT_MOST + 1} others"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _named(metric: str) -> str:
    return _NAMES.get(metric, metric)


def _ahead(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    low, high = sorted((comparison.low, comparison.high))
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    pair = f"{comparison.first_method} minus {comparison.second_method}"
    return f" {pair}: {100 * comparison.difference:+.1f} points (95 % interval {interval}, {comparison.seeds} seeds)."


def _needed(needed: int | None, closest: Comparison, methods: int) -> str:
    if closest.seeds < LEAST_SEEDS:
        return f"No verdict rests on {closest.seeds} seeds, whatever they say: {seeds_text(methods)}."
    if needed is None and closest.difference == 0:
        return "They do not differ so far."
    if needed is None:
        return "Even a thousand seeds would hardly separate them on these test examples; more examples might."
    more = "more `seeds` in the sweep file and the same command again add them"
    return f"If that difference is real, about {needed} seeds would separate them; {more}."
