"""The sweep file: what a user may ask for. Frozen, validated; imports neither torch, ray nor optuna."""

import re
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gallop_ray.spec.data import DataSpec, ModelSpec
from gallop_ray.spec.frozen import Frozen, Text
from gallop_ray.spec.machine import DeepspeedSpec, ResourcesSpec, RetentionSpec, TrackingSpec
from gallop_ray.spec.places import folder_or_bucket
from gallop_ray.spec.registry import AnyMethodSpec
from gallop_ray.spec.search import LOSS_OBJECTIVE, BudgetSpec, ObjectiveSpec, PruningSpec, SearchSpec, by_default
from gallop_ray.spec.training import EvaluationSpec, TrainingSpec, declared_metric

FIRST_FRESH_SEED = 1000
_MOST_SEEDS = 1000
_TAKEN = ("mlflow.db", "scores")
_FOLDER_NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"


def _count_to_seeds(value: object, start: int = 0) -> object:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a list of seeds, or how many to take (at least 1)")
    if value > _MOST_SEEDS:
        raise ValueError(f"must be at most {_MOST_SEEDS}, as a count of seeds; for this one seed write [{value}]")
    return tuple(range(start, start + value))


def _folder_name(value: str) -> str:
    if value in _TAKEN:
        raise ValueError("must be another name; a file or folder beside the sweeps has this one")
    if not re.fullmatch(_FOLDER_NAME, value):
        raise ValueError("must be of letters, digits, `_`, `.` and `-`, and start with a letter or a digit")
    return value


Seed = Annotated[int, Field(ge=0, le=2**63 - 1, strict=True)]  # what torch takes
SeedList = Annotated[tuple[Seed, ...], Field(min_length=1)]
_Written = Annotated[int, Field(ge=1, le=_MOST_SEEDS)] | SeedList
Seeds = Annotated[SeedList, BeforeValidator(_count_to_seeds, json_schema_input_type=_Written)]
FreshSeeds = Annotated[
    SeedList,
    BeforeValidator(partial(_count_to_seeds, start=FIRST_FRESH_SEED), json_schema_input_type=_Written),
]


class ConfirmationSpec(Frozen):
    """Run the best configurations of each method again with fresh seeds; the verdict then uses only those runs.

    The winner of a search is lucky as well as good. A number of seeds counts from 1000 on.
    """

    best: int = Field(default=1, ge=1, description="configurations per method")
    seeds: FreshSeeds = Field(description="how many fresh seeds (from 1000 on), or a list of them")


UNCHECKED = {"unchecked": True}
"""The context in which a Sweep's fields are validated one by one, but not held against each other.

For a reader that says everything that is wrong at once, and for the records of sweeps, which must stay readable.
"""


class Sweep(Frozen):
    """One sweep file: a search over configurations, each tried with every seed.

    Raises ValidationError, a ValueError, for fields that do not fit together, as for values that no field takes.
    """

    name: Annotated[str, AfterValidator(_folder_name)] = Field(
        max_length=100,
        description="the sweep's folder below `output`",
        json_schema_extra={"pattern": f"^{_FOLDER_NAME}$"},
    )
    output: Annotated[Text, AfterValidator(folder_or_bucket)] = Field(
        default="runs",
        description="folder of sweeps, on storage that every node sees, or a place in a bucket, `s3://bucket/prefix`; "
        "`~` and $VARIABLES are replaced",
    )
    model: ModelSpec
    data: DataSpec
    methods: tuple[AnyMethodSpec, ...] = Field(
        min_length=1, description="the methods to compare, each with its options"
    )
    seeds: Seeds = Field(
        default=(0,), description="how many seeds (from 0 on) every configuration runs with, or a list"
    )
    search: SearchSpec = SearchSpec()
    objective: ObjectiveSpec = Field(default=ObjectiveSpec(), validate_default=True)
    budget: BudgetSpec = BudgetSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    pruning: PruningSpec = PruningSpec()
    confirmation: ConfirmationSpec | None = None
    resources: ResourcesSpec = ResourcesSpec()
    retention: RetentionSpec = RetentionSpec()
    deepspeed: DeepspeedSpec = DeepspeedSpec()
    tracking: TrackingSpec = TrackingSpec()

    @model_validator(mode="before")
    @classmethod
    def _metrics_first(cls, data: Any, info: ValidationInfo) -> Any:
        """The objective, which comes first, may be one of evaluation.metrics; what is wrong there is said there."""
        evaluation = data.get("evaluation") if isinstance(data, dict) else None
        named = evaluation.get("metrics") if isinstance(evaluation, dict) else None
        for name in named if isinstance(named, list | tuple) else ():
            with suppress(ValueError):
                declared_metric(str(name), info)
        return data

    @field_validator("objective", mode="after")
    @classmethod
    def _metric_has_tasks(cls, objective: ObjectiveSpec, info: ValidationInfo) -> ObjectiveSpec:
        data: DataSpec | None = info.data.get("data")
        if data is None or "metric" in objective.model_fields_set:
            return objective
        trained_on = [data.tasks[name] for name in data.train_tasks if name in data.tasks]
        if len(trained_on) == len(data.train_tasks) and all(task.counts_by_loss for task in trained_on):
            return by_default(objective, LOSS_OBJECTIVE)
        return objective if data.rounds[0].ood else by_default(objective, "val_id_accuracy")

    @model_validator(mode="after")
    def _fields_fit(self, info: ValidationInfo) -> Self:
        if isinstance(info.context, dict) and info.context.get("unchecked"):
            return self
        # Here, because the rules are about a Sweep: their module needs this one.
        from gallop_ray.spec.checks import broken_rules

        errors = [
            InitErrorDetails(type=PydanticCustomError("rule", "{rule}", {"rule": message}), loc=paths[0], input=None)
            for paths, message in broken_rules(self)
        ]
        if errors:
            raise ValidationError.from_exception_data("Sweep", errors)
        return self


class Configuration(Frozen):
    """One point of the search space, all values resolved: what a run needs beside the sweep's fixed parts."""

    method: AnyMethodSpec
    training: TrainingSpec
