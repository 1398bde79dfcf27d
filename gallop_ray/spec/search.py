"""What varies in a sweep, what the search goes by, how long it takes and what it stops early."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, WithJsonSchema, model_validator

from gallop_ray.spec.frozen import Frozen, Text
from gallop_ray.spec.method import BUILT_IN
from gallop_ray.spec.metrics import maximized, metrics, objectives
from gallop_ray.spec.places import PathOrName, expanded_file_address
from gallop_ray.spec.plugins import is_reference
from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.space import Range

PLAIN_SAMPLERS = ("tpe", "random", "grid", "nsga2")
WIDENING = ("tpe", "random")
"""The samplers whose ranges may grow while they draw."""
SAMPLERS = (*PLAIN_SAMPLERS, "gp", "cmaes", "nomad")


def _sampler(name: str) -> str:
    """Whether Optuna has a class of that name, the search finds out: nothing here imports Optuna."""
    if name in SAMPLERS or is_reference(name) or re.fullmatch(r"[A-Z]\w*Sampler", name):
        return name
    known = (*SAMPLERS, "GPSampler", "CmaEsSampler", "QMCSampler", "NSGAIIISampler")
    listed = ", ".join(map(repr, SAMPLERS))
    raise ValueError(f"must be one of {listed}, a class of optuna.samplers or module:Class{did_you_mean(name, known)}")


class SearchSpec(Frozen):
    """Which fields vary. Keys of `space` are dotted paths.

    `training.learning_rate` varies a field for every method, `method.density` an option for every method that has
    it, `gallop.density` or `gallop.training.learning_rate` only where the method of that name runs.

    Points of `first` give values to keys of `space`; each method that searches all keys of a point tries it before
    anything else, what the point leaves open drawn at random.
    """

    sampler: Annotated[str, AfterValidator(_sampler)] = Field(
        default="tpe",
        description="tpe, gp, cmaes, nomad (go by results after half of the budget or 10 points), nsga2, random, grid; "
        "any other of Optuna by its class (`QMCSampler`), or `module:Class`",
    )
    sampler_options: dict[str, Any] = Field(
        default={},
        description="arguments of gp, cmaes or a sampler that is named by its class; its seed is given to it",
    )
    seed: int = Field(default=0, description="of the sampler")
    space: dict[str, Range] = Field(default={}, description="a range for each dotted path that varies")
    first: tuple[Annotated[dict[str, Any], Field(min_length=1)], ...] = Field(
        default=(), description="points that are tried before anything else"
    )
    widen: int = Field(
        default=0,
        ge=0,
        le=20,
        description="how often a log range may grow threefold for a method whose best lies in the outermost tenth of "
        "it; the next configuration, of the same budget, is the best one with a value from what was added",
    )
    warm_start: tuple[PathOrName, ...] = Field(
        default=(),
        description="folders of earlier sweeps: tpe, gp, nomad or a sampler of your own knows from the start what has "
        "finished there, of methods with the same options and search space; it counts for nothing else",
    )
    storage: Annotated[Text, AfterValidator(expanded_file_address)] | None = Field(
        default=None,
        description="database of the studies, such as sqlite:////srv/studies.db or postgresql://HOST/studies; "
        "null: a journal file in the sweep's folder",
    )


def _known_objectives() -> list[str]:
    return [*objectives(), *(f"val_{each.name}" for each in metrics() if each.name not in BUILT_IN)]


def _objective(name: str, info: ValidationInfo) -> str:
    known = _known_objectives()
    if name not in known and not (isinstance(info.context, dict) and info.context.get("stored")):
        *most, last = map(repr, known)
        raise ValueError(f"must be {', '.join(most)} or {last}{did_you_mean(name, known)}")
    return name


Metric = Annotated[
    str,
    AfterValidator(_objective),
    WithJsonSchema({"anyOf": [{"enum": objectives()}, {"type": "string", "pattern": "^val_"}]}),
]
"""A validation metric: one of the table, or of evaluation.metrics with `val_` before its name."""


def _several(metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    if len(metrics) < 2:
        raise ValueError("must be two metrics or more; for one write `metric: ...`")
    return metrics


class ObjectiveSpec(Frozen):
    """What the search goes by: the mean over seeds of a validation metric, or a Pareto front of several.

    With several, `metric` is the first of them.
    """

    metric: Metric = Field(
        default="val_mean_accuracy",
        description="the one to go by; by default val_id_accuracy where data.ood is empty, and val_id_loss where what "
        "is trained on is a task of `data.tasks` that counts by its loss",
    )
    metrics: Annotated[tuple[Metric, ...], AfterValidator(_several)] | None = Field(
        default=None, description="two or more, for a Pareto front"
    )
    race: Metric | None = Field(
        default=None,
        description="what samplers, races and rungs go by instead, such as val_answer_loss, which sees smaller "
        "differences; the best and the verdict stay with `metric`; null: the same",
    )
    standard_errors: float = Field(
        default=0.0, ge=0, description="how many standard errors over seeds count against a configuration's mean"
    )

    @model_validator(mode="before")
    @classmethod
    def _metric_is_the_first(cls, data: Any) -> Any:
        several = data.get("metrics") if isinstance(data, dict) and "metric" not in data else None
        if isinstance(several, list | tuple) and several and several[0] in _known_objectives():
            return {**data, "metric": several[0]}
        return data

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """One metric, or those of the Pareto front."""
        return self.metrics or (self.metric,)

    @property
    def named(self) -> tuple[Metric, ...]:
        """All that anything goes by."""
        return (*self.all_metrics, *([self.race] if self.race else []))

    @property
    def racing(self) -> "ObjectiveSpec":
        """What samplers, races and rungs go by."""
        return self.model_copy(update={"metric": self.race, "race": None}) if self.race else self

    @property
    def maximize(self) -> bool:
        """Whether a larger `metric` is better."""
        return maximized(self.metric)


LOSS_OBJECTIVE = "val_id_loss"
"""What a search goes by that trains on what counts by its loss, unless it says something else."""


def by_default(objective: ObjectiveSpec, metric: str) -> ObjectiveSpec:
    """With another default, which still counts as not given."""
    found = objective.model_copy(update={"metric": metric})
    found.model_fields_set.discard("metric")
    return found


class BudgetSpec(Frozen):
    """How much to spend. A method with nothing to search runs one configuration."""

    configurations: int | None = Field(
        default=None, ge=1, description="tried for each method; null: 8, and with sampler grid all of its points"
    )
    hours: float | None = Field(
        default=None, gt=0, description="start no run that would take longer than this since the start"
    )


PRUNINGS = ("none", "median", "race", "asha")
_SMALLEST_RUNG = 1e-6


def _pruning(name: str) -> str:
    if name in PRUNINGS or is_reference(name):
        return name
    raise ValueError(f"must be {', '.join(map(repr, PRUNINGS))} or module:function{did_you_mean(name, PRUNINGS)}")


def _rungs(values: tuple[int | float, ...]) -> tuple[int | float, ...]:
    if not values or any(isinstance(each, float) and not _SMALLEST_RUNG <= each < 1 for each in values):
        raise ValueError("must be optimizer steps (1, 2, ...), or shares of a run's steps (above 0 and below 1)")
    if len({isinstance(each, int) for each in values}) > 1 or list(values) != sorted(set(values)):
        raise ValueError("must be all steps or all shares, each larger than the one before")
    return values


RungStep = Annotated[int, Field(ge=1, strict=True)] | Annotated[float, Field(strict=True)]


class PruningSpec(Frozen):
    """Stop a configuration after some of its seeds, or some steps of its first one, going by validation data.

    `median`: when its mean is worse than the median of its method's others. `race`: when it is not among the best
    1/reduction of them, or worse than the best one on the same examples. `asha`: configurations wait at rungs of steps,
    then of seeds, and the best 1/reduction of each rung continue (arXiv 1810.05934).
    """

    type: Annotated[str, AfterValidator(_pruning)] = Field(
        default="none",
        description="the rule by which to stop: none, median, race, asha, or `module:function`, called with the sweep, "
        "the configuration's finished runs and those of its method's others for a reason, or None",
    )
    after_seeds: int = Field(default=1, ge=1, description="seeds that every configuration runs")
    after_configurations: int = Field(default=4, ge=1, description="others that must have come as far")
    reduction: float = Field(default=3, gt=1, description="of race and asha: one in so many continues")
    significance: float = Field(default=0.05, gt=0, lt=1, description="of a race's paired test, one-sided")
    rungs: Annotated[tuple[RungStep, ...], AfterValidator(_rungs)] | None = Field(
        default=None,
        description="steps of a configuration's first seed at which it is judged by its validation loss, or shares of "
        "all steps; null: none, and with asha 1/reduction^2 and 1/reduction",
    )
