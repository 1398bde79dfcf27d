"""Tables for the terminal and for a README. Accuracies, ratios and rates in percent, on test sets, by likelihood."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from gallop_ray.analysis import ranking
from gallop_ray.analysis.edges import MARK, Edge
from gallop_ray.analysis.ranking import (
    BASE,
    Summary,
    base_summary,
    is_confirmed,
    of_the_search,
    of_the_verdict,
    summaries,
)
from gallop_ray.records.results import RunResult
from gallop_ray.spec.measures import label_of
from gallop_ray.spec.metrics import Metric, find, shown_value, test_metrics
from gallop_ray.spec.search import ObjectiveSpec

Edges = Mapping[str, Sequence[Edge]]
_NO_EDGES: Edges = {}
_ON_FRONT = "*"
_WIDTH_OF_A_KEY = 15
_MISSING = "-"
_MOST_ROWS = 100
_NO_LIMIT = 10_000


def final_table(
    results: Iterable[RunResult],
    base: Mapping[str, Any] | None = None,
    objective: ObjectiveSpec | None = None,
    edges: Edges = _NO_EDGES,
) -> Table:
    """Each method's best configuration by the objective, or the Pareto front of several, with its test metrics.

    A method all of whose configurations failed has a row without numbers.

    Args:
        results: of each run.
        base: metrics of the base model under the names that results use; missing values are shown as -.
        objective: the sweep's objective.
        edges: of the best configurations, by key; their rows are marked, and each edge has a line below.
    """
    aim, every = objective or ObjectiveSpec(), list(results)
    results = of_the_verdict(every, aim)
    confirmed = ", run again on fresh seeds" if is_confirmed(results) else ""
    title = f"Pareto front by {_by(aim)}" if aim.metrics else f"Best configuration of each method by {aim.metric}"
    table = _table(title + confirmed, _first_heading(aim), results, aim)
    for row in _best_rows(results, base, aim, edges):
        table.add_row(*row)
    lines = [str(edge) for found in edges.values() for edge in found]
    if lines:
        table.caption = "\n".join(
            [f"{table.caption}", f"{MARK}: a better value may lie beyond what was tried:", *lines]
        )
    return table


def configurations_table(results: Iterable[RunResult], objective: ObjectiveSpec | None = None) -> Table:
    """One row per configuration with a result, the best first; of hundreds only the best."""
    aim, results = objective or ObjectiveSpec(), of_the_search(results)
    table = _table(f"Configurations by {_by(aim)}", "Configuration", results, aim)
    found = summaries(results, aim)
    for summary in found[:_MOST_ROWS]:
        cells = _cells(summary, aim, _metrics(results))
        table.add_row(summary.configuration + _ON_FRONT * summary.on_front, *cells)
    if len(found) > _MOST_ROWS:
        table.caption = f"{table.caption}\n{len(found) - _MOST_ROWS} more are in the report's tables."
    return table


def markdown_table(
    results: Iterable[RunResult],
    base: Mapping[str, Any] | None = None,
    objective: ObjectiveSpec | None = None,
    edges: Edges = _NO_EDGES,
) -> str:
    """The final table as Markdown, without the lines below it."""
    aim = objective or ObjectiveSpec()
    found = of_the_verdict(results, aim)
    headings = [_first_heading(aim), *_headings(aim, found)]
    rule = ["---", *["---:"] * (len(headings) - 1)]
    rows = [headings, rule, *_best_rows(found, base, aim, edges)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _by(objective: ObjectiveSpec) -> str:
    return " and ".join(objective.all_metrics)


def _first_heading(objective: ObjectiveSpec) -> str:
    return "Configuration" if objective.metrics else "Method"


def _metrics(results: Sequence[RunResult]) -> list[Metric]:
    """The columns: metrics of losses only where some were measured, and then no others that nothing has."""
    found = [each for each in test_metrics() if any(run.value(each.name) is not None for run in results)]
    losses = any(each.of == "loss" for each in found)
    if losses:
        return found
    return [each for each in test_metrics() if each.of == "share" and not (each.needs_ood and _no_others(results))]


def _no_others(results: Sequence[RunResult]) -> bool:
    """Whether nothing but the task trained on was measured."""
    return max((len(result.tasks) for result in results), default=0) == 1


def _headings(objective: ObjectiveSpec, results: Sequence[RunResult]) -> list[str]:
    values = [_heading(metric) for metric in objective.metrics] if objective.metrics else ["Val"]
    return ["Seeds", "Density", "LR", "Params", *values, *(metric.column for metric in _metrics(results))]


def _table(title: str, first: str, results: Sequence[RunResult], objective: ObjectiveSpec) -> Table:
    caption = _caption(results, objective)
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column(first, overflow="fold", min_width=_WIDTH_OF_A_KEY)
    for heading in _headings(objective, results):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def print_whole(console: Console, table: Table) -> None:
    """Print a table without cutting a number off, however narrow the console is.

    A log has long lines; a terminal shows one in several of its own, which can be read where `72.…` cannot.
    """
    needed = Measurement.get(console, console.options.update(max_width=_NO_LIMIT), table).maximum
    Console(file=console.file, width=max(console.width, needed), markup=False).print(table)


def _caption(results: Sequence[RunResult], objective: ObjectiveSpec) -> str:
    sets = max((len(result.tasks) for result in results), default=0) - 1
    of_them = f"the {sets} OOD test sets" if sets > 0 else "OOD test sets"
    errors = f", {objective.standard_errors:g} standard errors worse than the mean" if objective.standard_errors else ""
    front = f" {_ON_FRONT}: on the Pareto front." if objective.metrics else ""
    losses = ", losses in nats" if any(each.of == "loss" for each in _metrics(results)) else ""
    others = f"Collapse: share of {of_them} below 1 %."
    if _no_others(results):
        others = "Forgetting of other tasks was not measured: add tasks to data.ood."
    return (
        f"In percent{losses}, mean±standard deviation over seeds. Seeds: finished/ended.{front} Val is the "
        f"objective{errors};\n"
        f"the rest is on test sets by {_ways(results)}. {others}"
    )


def _ways(results: Sequence[RunResult]) -> str:
    tests = [task.get("test", {}) for result in results for task in result.tasks.values()]
    firsts = list(dict.fromkeys(next(iter(test)) for test in tests if test)) or ["likelihood"]
    if firsts == ["likelihood"] or firsts == ["generated"] or set(firsts) == {"likelihood", "generated"}:
        return "likelihood" + " (without options by generation)" * ("generated" in firsts)
    return f"what each task counts by ({', '.join(map(label_of, firsts))})"


def _heading(objective: str) -> str:
    metric = find(objective)
    column = objective if metric is None else metric.column
    return f"Val {column if column.isupper() else column.lower()}"


def _best_rows(
    results: Iterable[RunResult], base: Mapping[str, Any] | None, objective: ObjectiveSpec, edges: Edges
) -> list[list[str]]:
    results = list(results)
    metrics = _metrics(results)
    rows = [[BASE, "", "", "", "", *_cells(base_summary(base, objective), objective, metrics)[4:]]] if base else []
    found = summaries(results, objective)
    if objective.metrics:
        return [
            *rows,
            *([summary.configuration, *_cells(summary, objective, metrics)] for summary in found if summary.on_front),
        ]
    chosen = ranking.best(results, objective)
    rows += [[each.method + MARK * (each.configuration in edges), *_cells(each, objective, metrics)] for each in chosen]
    known = {summary.method for summary in chosen}
    without = {summary.method: summary for summary in reversed(found) if summary.method not in known}
    blank = [_MISSING] * (len(_headings(objective, results)) - 1)
    return [*rows, *([method, _seeds(without[method]), *blank] for method in sorted(without))]


def _cells(summary: Summary, objective: ObjectiveSpec, metrics: Sequence[Metric]) -> list[str]:
    density, rate = summary.first("density"), summary.first("learning_rate")
    return [
        _seeds(summary),
        _MISSING if density is None else f"{100 * density:.3g}",
        _MISSING if rate is None else f"{rate:.2g}",
        short_count(summary.first("trained_parameters")),
        *(_said(name, value, None) for name, value in zip(objective.all_metrics, summary.values, strict=True)),
        *(_said(metric.name, *summary.over_seeds(metric.name)) for metric in metrics),
    ]


def _seeds(summary: Summary) -> str:
    finished, ended = len(summary.finished), len(summary.runs)
    return str(finished) if finished == ended else f"{finished}/{ended}"


def _said(metric: str, mean: float | None, std: float | None) -> str:
    return _MISSING if mean is None else shown_value(metric, mean, std)


def short_count(number: float | None) -> str:
    """Three digits and a unit: 1.23M."""
    if number is None:
        return _MISSING
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
