"""The tables of results: each method's best configuration, all configurations, further measures, tasks."""

from collections.abc import Callable, Iterable, Sequence

from gallop_ray.analysis.chance import above_chance
from gallop_ray.analysis.ranking import BASE, Summary
from gallop_ray.analysis.verdict import listed
from gallop_ray.records.summary import mean_and_std
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import (
    Cell,
    Column,
    ReportTable,
    count_cell,
    gigabytes_cell,
    measured_cell,
    metric_cell,
    number_cell,
    seconds_cell,
    spread_cell,
    text_cell,
)
from gallop_ray.spec.measures import label_of
from gallop_ray.spec.metrics import display_name, test_metrics

Part = tuple[Column, Callable[[Summary], Cell]]
_OVER_SEEDS = "mean ± standard deviation over seeds (n - 1)."


def best_sheet(material: ReportData) -> ReportTable:
    """The best configuration of each method, and the base model."""
    fresh = ", run again on fresh seeds" if material.confirmed else ""
    by = " and ".join(map(display_name, material.sweep.objective.all_metrics))
    caption = (
        f"Each method's best configuration by {by}{fresh}. Accuracies, forget ratio and collapse rate are on "
        "test sets by what each task counts by, in percent (losses in nats), mean ± standard deviation (n - 1) over n "
        f"seeds.{_denominator(material)} Val is the objective, by which the search chose; Trained the number of "
        "trained parameters; Selection the share of the training examples whose gradient is scored; LR the learning "
        "rate."
    )
    parts = [_method(), *_parts(material), _configuration()]
    return _sheet("best", "The best of each method", caption, parts, material.best, material.base_row)


def configurations_sheet(material: ReportData) -> ReportTable:
    """Every configuration that has a run which is over."""
    front = " *: on the Pareto front of the objective's metrics." if material.sweep.objective.metrics else ""
    caption = f"Every configuration by the runs of the search, the best first.{front} As above."
    parts = [_configuration(), *_parts(material)]
    return _sheet("configurations", "All configurations", caption, parts, material.found, None, folded=True)


def tasks_sheets(material: ReportData) -> list[ReportTable]:
    """What each task counts by on its test set and, folded, what else was measured of it."""
    ways = _ways(material)
    if not material.best or not ways:
        return []
    counts = {task: of_it[0] for task, of_it in ways.items()}
    alike = len({*counts.values()}) == 1
    by = label_of(next(iter(counts.values()))) if alike else "by what each task counts by"
    trained = f"{' and '.join(material.sweep.data.train_tasks)} is the task trained on."
    caption = f"Test sets, {by}; {trained} {_unit(counts.values())}, {_OVER_SEEDS}"
    named = {task: task if alike else f"{task}, {label_of(way)}" for task, way in counts.items()}
    parts = [_method(), *(_share(named[task], _task(task, way)) for task, way in counts.items())]
    sheets = [_sheet("tasks", "Task by task", caption, parts, material.best, material.base_row)]
    more = dict.fromkeys(way for of_it in ways.values() for way in of_it[1:])
    return [*sheets, *(_also_sheet(material, way, [task for task in ways if way in ways[task]]) for way in more)]


def _unit(ways: Iterable[str]) -> str:
    losses = {way == "loss" for way in ways}
    return "In percent, losses in nats" if len(losses) > 1 else "In nats" if True in losses else "In percent"


def _also_sheet(material: ReportData, way: str, tasks: Sequence[str]) -> ReportTable:
    parts = [_method(), *(_share(task, _task(task, way)) for task in tasks)]
    caption = f"Test sets, {label_of(way)}. {_unit([way])}, {_OVER_SEEDS}"
    title = f"The same, {label_of(way)}"
    return _sheet(f"tasks_{way}", title, caption, parts, material.best, material.base_row, folded=True)


def _ways(material: ReportData) -> dict[str, list[str]]:
    """Of each task that was measured the ways of its test set, the one that counts first."""
    data, found = material.sweep.data, dict[str, list[str]]()
    for result in material.results:
        for task in (*data.train_tasks, *data.ood):
            if ways := result.tasks.get(task, {}).get("test"):
                found.setdefault(task, list(ways))
    return found


def _task(task: str, way: str) -> str:
    return f"tasks_{task}_test_{way}"


_FURTHER = {
    "Parseable": "parseable_share",
    "Memorization": "memorization",
}
_LOSSES = {"Text loss": "text_loss", "Increase of text loss": "text_loss_increase", "Perplexity": "text_perplexity"}


def further_sheet(material: ReportData) -> ReportTable | None:
    """Metrics by generation and of retained knowledge; None where there are none."""
    known = {name for name in material.frame.columns if material.frame[name].notna().any()}
    generated = {f"{metric.column} (gen.)": f"{metric.name}_generated" for metric in test_metrics()}
    parts = [_share(heading, field) for heading, field in (generated | _FURTHER).items() if field in known]
    parts += [_loss(heading, field) for heading, field in _LOSSES.items() if field in known]
    parts += _lost_above_chance(material)
    if not parts:
        return None
    caption = (
        "Test sets by generating and parsing answers (gen.), and, where they were measured: the share of answers that "
        "could be parsed, memorization (share of wrong OOD answers in the training task's format), and the mean token "
        "cross-entropy on held-out text, its increase over the base model, and its perplexity. Mean ± standard "
        "deviation over seeds. Lost above chance: of the base model's right answers beyond guessing, the share lost."
    )
    title = "By generating, and what else was measured"
    return _sheet("further", title, caption, [_method(), *parts], material.best, material.base_row)


def _lost_above_chance(material: ReportData) -> list[Part]:
    """Forgetting that counts what guessing gives as nothing; of no task, no column."""
    above = above_chance(material.folder, material.sweep)
    if not above.base:
        return []
    column = Column(
        "Lost above chance", "lost_above_chance", note=f"of what the base model can: {listed([*above.base])}"
    )

    def cell(summary: Summary) -> Cell:
        return metric_cell("forget_ratio", *mean_and_std(map(above.lost, summary.finished)))

    return [(column, cell)]


def _sheet(
    name: str,
    title: str,
    caption: str,
    parts: Sequence[Part],
    found: Sequence[Summary],
    base: Summary | None,
    folded: bool = False,
) -> ReportTable:
    """One row per summary; columns that are empty in all rows are left out."""
    rows = [[cell(each) for _, cell in parts] for each in ([base] if base else []) + list(found)]
    kept = [place for place in range(len(parts)) if any(row[place].value not in (None, "") for row in rows)]
    columns = [parts[place][0] for place in kept]
    return ReportTable(
        name, title, caption, columns, [[row[p] for p in kept] for row in rows], 1 if base else 0, folded
    )


def _parts(material: ReportData) -> list[Part]:
    return [
        (Column("Seeds", "seeds", note="finished / ended"), _seeds),
        *(_share(metric.column, metric.name, metric.note) for metric in test_metrics()),
        *_objective(material),
        (Column("Trained", "trained_parameters", note="parameters"), _trained),
        (Column("Density %", "density"), _density),
        (Column("Selection", "selection_ratio", note="selection ratio"), _first("selection_ratio")),
        (Column("LR", "learning_rate", note="learning rate"), _first("learning_rate")),
        (Column("Time", "seconds_total", note="mean of a run"), _time),
        (Column("Memory, GB", "peak_memory_bytes", note="largest peak of rank 0"), _memory),
    ]


def _objective(material: ReportData) -> list[Part]:
    metrics = material.sweep.objective.all_metrics

    def cell(place: int) -> Callable[[Summary], Cell]:
        return lambda summary: metric_cell(metrics[place], summary.values[place])

    names = {metric: "Val" if len(metrics) == 1 else display_name(metric) for metric in metrics}
    note = "the objective: what the search went by"
    return [(Column(names[metric], metric, note=note), cell(place)) for place, metric in enumerate(metrics)]


def _method() -> Part:
    return Column("Method", "method", numeric=False), lambda summary: text_cell(summary.method)


def _configuration() -> Part:
    def cell(summary: Summary) -> Cell:
        key = "" if summary.method == BASE else summary.configuration
        return Cell(key + "*" * (summary.on_front and bool(key)), key)

    return Column("Configuration", "configuration", numeric=False), cell


def _share(heading: str, metric: str, note: str = "") -> Part:
    return Column(heading, metric, note=note), lambda summary: measured_cell(summary, metric)


def _loss(heading: str, metric: str) -> Part:
    return Column(heading, metric), lambda summary: spread_cell(*summary.over_seeds(metric), digits=3)


def _seeds(summary: Summary) -> Cell:
    finished, ended = len(summary.finished), len(summary.runs)
    if summary.method == BASE:
        return Cell("")
    return Cell(str(finished) if finished == ended else f"{finished}/{ended}", finished)


def _first(name: str) -> Callable[[Summary], Cell]:
    return lambda summary: number_cell(summary.first(name))


def _trained(summary: Summary) -> Cell:
    return count_cell(summary.first("trained_parameters"))


def _time(summary: Summary) -> Cell:
    return seconds_cell(summary.over_seeds("seconds_total")[0])


def _density(summary: Summary) -> Cell:
    share = summary.first("density")
    return number_cell(None) if share is None else Cell(f"{100 * share:.3g}", share)


def _memory(summary: Summary) -> Cell:
    peaks = [peak for run in summary.finished if (peak := run.value("peak_memory_bytes")) is not None]
    return gigabytes_cell(max(peaks, default=None))


def _denominator(material: ReportData) -> str:
    sets = len(material.sweep.data.ood)
    return f" Collapse is the share of the {sets} OOD test sets below 1 %." if sets else ""
