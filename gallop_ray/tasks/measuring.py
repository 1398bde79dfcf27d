"""What is measured of a task, and how: by its kind where data.tasks says nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gallop_ray.spec.measures import BUILT_IN, Measure, Normalize, measure, normalization
from gallop_ray.spec.metrics import TEXT_LOSS, Scores, find
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.tasks import Learn
from gallop_ray.tasks.examples import Example, Kind
from gallop_ray.tasks.measure_values import values_of
from gallop_ray.tasks.settings import EvaluationSettings

_BY_KIND: dict[Kind, str] = {"choice": "likelihood", "number": "generated", "text": "loss", "plain": "loss"}
_LATIN = ("rouge1", "rougeL")
_TRIED = 8  # right answers that an own measure is tried with


@dataclass(frozen=True)
class Measuring:
    """What is measured of a task's examples, all of one kind.

    `counts` is measured of every split and goes first; `also`, which may have it as well, of test sets alone, and
    losses wherever the objective goes by them.
    """

    task: str
    kind: Kind
    counts: Measure
    also: tuple[Measure, ...] = ()
    normalize: Normalize = "characters"
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    losses: bool = False
    """Whether the objective goes by losses."""
    learn: Learn = "all"
    """Which turns of a conversation losses are of."""

    def of(self, test: bool) -> list[Measure]:
        """The measures of a split, the one that counts first."""
        loss = (BUILT_IN["loss"],) if self.losses else ()
        return list(dict.fromkeys((self.counts, *(self.also if test else ()), *loss)))

    def passes(self, test: bool) -> int:
        """How often the model goes through the examples of a split."""
        kinds = {each.by for each in self.of(test)}
        return len(kinds - {"loss"} if "likelihood" in kinds else kinds)  # whose passes give the loss, too

    def settings(self, usual: EvaluationSettings) -> EvaluationSettings:
        """How to evaluate this task, by what is usual in a sweep."""
        if self.max_new_tokens is not None:
            new = self.max_new_tokens
            usual = replace(usual, max_new_tokens=new, max_reasoning_tokens=new)
        return replace(usual, stop=self.stop)

    def new_tokens(self, usual: EvaluationSettings) -> int:
        """How many tokens are generated for an example at most."""
        settings = self.settings(usual)
        generates = any(each.by == "generation" for each in self.of(test=True))
        most = settings.max_new_tokens if self.kind == "choice" else settings.max_reasoning_tokens
        return most if generates else 0

    def check(self, examples: Sequence[Example]) -> None:
        """Raise ValueError where these examples cannot be measured so, before anything is spent."""
        for each in self.of(test=True):
            if not _fits(each, self.kind):
                raise ValueError(
                    f"task {self.task}: measure {each.name} is not for {_SAID[self.kind]}; choose another, or leave it "
                    f"out for {_BY_KIND[self.kind]}"
                )
            if each.function:
                some = examples if each.name == "json_equal" else examples[:_TRIED]
                _refuse_blind(each, values_of(each, [one.answer for one in some], some), some)


def _refuse_blind(each: Measure, values: Sequence[float], examples: Sequence[Example]) -> None:
    """Raise ValueError where a built-in measure gives nothing for the right answer itself: no output can score."""
    for value, one in zip(values, examples, strict=True):
        if value == 0 and each.name in BUILT_IN and each.name != "json_valid":
            place = f"{one.place}: " if one.place else ""
            fix = (
                "it reads Latin letters and digits alone; take chrf"
                if each.name in _LATIN
                else "choose another measure"
            )
            raise ValueError(
                f"{place}measure {each.name} gives 0 for the right answer {one.answer[:80]!r} itself; {fix}"
            )


_SAID: dict[Kind, str] = {
    "choice": "a choice",
    "number": "answers that are numbers",
    "text": "free text",
    "plain": "plain text without a prompt",
}


def _fits(each: Measure, kind: Kind) -> bool:
    if each.by == "likelihood":
        return kind == "choice"
    if each.name == "generated":
        return kind in ("choice", "number")
    return each.by == "loss" or kind != "plain"


def measuring(sweep: Sweep, task: str, examples: Sequence[Example]) -> Measuring:
    """What a sweep measures of a task with these examples."""
    asked, kind = sweep.data.task(task), examples[0].kind
    if asked.harness is not None:  # it judges by itself; of whole texts it says how likely they are
        return Measuring(task, kind, BUILT_IN["loss" if kind == "plain" else "likelihood"])
    named = measure(asked.measure) if asked.measure else BUILT_IN[_BY_KIND[kind]]
    also, metrics = [measure(name) for name in asked.also], sweep.objective.named
    if kind == "choice" and sweep.evaluation.generate:
        also.insert(0, BUILT_IN["generated"])
    return Measuring(
        task,
        kind,
        named,
        tuple(also),
        asked.normalize or normalization(task),
        asked.max_new_tokens,
        asked.stop,
        any((metric := find(name)) and metric.of == "loss" and metric.name != TEXT_LOSS for name in metrics),
        asked.learn,
    )


def refuse_unmeasured_objective(sweep: Sweep, tasks: Mapping[str, Measuring]) -> None:
    """Raise ValueError where the objective is made of shares, and tasks that it needs count by their loss; and where it
    is the margin of what does not count by likelihood."""
    known = {name: None if how.counts.by == "loss" else 0.5 for name, how in tasks.items()}
    for each in sweep.data.rounds:
        scores = Scores(known[each.train_task], {task: 0.5 for task in each.ood if known[task] is not None})
        judged = sweep.data.task(each.train_task).harness is not None
        for name in sweep.objective.named:
            metric = find(name)
            if (
                metric is not None
                and metric.of == "margin"
                and (judged or tasks[each.train_task].counts.by != "likelihood")
            ):
                raise ValueError(
                    f"objective.metric {name} cannot be measured: {each.train_task} does not count by likelihood here; "
                    "choose another objective"
                )
            if metric is not None and metric.of == "share" and metric.value(scores, scores) is None:
                loss = [task for task in (each.train_task, *each.ood) if known[task] is None]
                raise ValueError(
                    f"objective.metric {name} cannot be measured: {', '.join(loss)} counts by loss; write objective: "
                    "{metric: val_id_loss}, or give the task a measure in data.tasks"
                )
