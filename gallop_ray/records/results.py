"""Results of runs, configurations and the base model: result.json, status.json, configuration.json, base.json."""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gallop_ray.records.typed import Number, StoredRecord
from gallop_ray.spec import measures
from gallop_ray.spec.metrics import possible

FINAL = ("finished", "pruned", "failed", "diverged")
"""How a configuration can end, or a run; of runs only the one that was paused when its configuration was pruned."""
SEARCH, CONFIRMATION = "search", "confirmation"
"""The stage of a run: with one of the sweep's seeds, or with a fresh seed after the search."""
End = Literal["finished", "pruned", "failed", "diverged"]
Ways = dict[str, Number | None]
Share = Annotated[Number, Field(ge=0, le=1)]


def _possible(ways: Mapping[str, float | None]) -> Mapping[str, float | None]:
    if wrong := [way for way, value in ways.items() if value is not None and not measures.possible(way, value)]:
        raise ValueError(f"has a wrong {wrong[0]}: {ways[wrong[0]]!r}")
    return ways


Accuracies = dict[str, dict[str, Annotated[Ways, AfterValidator(_possible)]]]
"""By task, split and way of measuring."""

_MEASURED = re.compile(r"(val_|id_|ood_|mean_|forget_ratio|collapse_rate|text_loss|text_perplexity).*")
_NESTED = ("seconds", "tasks", "forgetting", "rounds")
_NO_MEASUREMENT = ("seed", "learning_rate", "selection_ratio", "started", "ended", "attempts", "micro_batch_size")


class EndedRun(StoredRecord):
    """What decisions need to know about a finished or failed run: its identity, its end, its metrics (`model_extra`).

    `configuration`, `seed` and `method` are always set: if the file lacks them, from its path.
    """

    configuration: str = ""
    seed: int = 0
    method: str = ""
    status: End
    reason: str | None = None
    stage: str = SEARCH
    attempts: int = 1
    seconds: Ways = {}
    started: Number | None = None
    ended: Number | None = None

    @model_validator(mode="after")
    def _metrics_are_numbers(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if _MEASURED.fullmatch(name) and not (is_number_or_null(value) and possible(name, value or 0.0)):
                raise ValueError(f"has a wrong {name}: {value!r:.60}")
        return self

    @property
    def finished(self) -> bool:
        """Whether it ended without failing or diverging."""
        return self.status == "finished"

    @property
    def failed(self) -> bool:
        """Whether it failed or diverged."""
        return self.status in ("failed", "diverged")

    @property
    def total_seconds(self) -> float | None:
        """How long it took; None where that was not recorded."""
        return self.seconds.get("total")

    def value(self, name: str) -> float | None:
        """A number under its name in results.jsonl, such as a metric; None where there is none."""
        found: Any = (self.model_extra or {}).get(name)
        if found is None and name in type(self).model_fields:
            found = getattr(self, name)
        elif found is None and name.partition("_")[0] in _NESTED:
            found = self.flat().get(name)
        return found if isinstance(found, int | float) and not isinstance(found, bool) else None

    def flat(self) -> dict[str, Any]:
        """Flattened to one level, as a line of results.jsonl."""
        return flatten({name: value for name, value in self.as_json().items() if name != "version"})

    def measurements(self) -> dict[str, float]:
        """What was measured: all numbers that are not settings or points in time.

        Nested ones are named <group>/<rest>: MLflow shows each group's charts in its own section.
        """
        return {
            name: float(value)
            for key, nested in self.as_json().items()
            for name, value in (flatten(nested, f"{key}/") if isinstance(nested, Mapping) else {key: nested}).items()
            if isinstance(value, int | float) and not isinstance(value, bool) and name not in _NO_MEASUREMENT
        }

    def essence(self, metric: str) -> "EndedRun":
        """A copy with one metric and the total time only, to keep thousands in memory."""
        # Without validation, which these values have been through.
        return EndedRun.model_construct(
            None,
            version=self.version,
            configuration=self.configuration,
            seed=self.seed,
            method=self.method,
            status=self.status,
            reason=self.reason,
            stage=self.stage,
            attempts=self.attempts,
            seconds={"total": self.total_seconds},
            started=self.started,
            ended=self.ended,
            **{metric: self.value(metric)},
        )


class RunResult(EndedRun):
    """result.json: everything about a run that is over. docs/records.md defines the fields."""

    failure: str | None = None
    slot: str = ""
    method_type: str = ""
    scores: str | None = None
    selection_ratio: Number | None = None
    learning_rate: Number | None = None
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None
    trained_parameters: Annotated[int, Field(ge=0)] | None = None
    density: Share | None = None
    trainable_percent: Number | None = None
    train_examples: Annotated[int, Field(ge=0)] | None = None
    cut_examples: Annotated[int, Field(ge=0)] | None = None
    dropped_examples: Annotated[int, Field(ge=0)] | None = None
    steps: int = 0
    best_step: int | None = None
    train_loss: Number | None = None
    ood_tasks: int = 0
    forgetting_is_vacuous: bool | None = None
    parseable_share: Share | None = None
    memorization: Number | None = None
    tasks: Accuracies = {}
    forgetting: dict[str, Ways] = {}
    rounds: dict[str, dict[str, Any]] = {}
    peak_memory_bytes: Number | None = None


class JudgedAt(StoredRecord):
    """Where a run was paused: the rung in its sweep's terms, the step of how many, and its validation losses there.

    micro_batch_size: with which it continues; smaller than asked after it was out of memory.
    """

    rung: Number
    step: int
    steps: int
    loss: Number
    losses: dict[str, list[Number]] = {}
    seconds: Ways = {}
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None


class Rungs(StoredRecord):
    """rungs.json: the rungs of steps that a run has come to."""

    rungs: tuple[JudgedAt, ...] = ()

    def at(self, rung: float) -> JudgedAt | None:
        """What was measured at a rung; None where the run has not come to it."""
        return next((each for each in self.rungs if each.rung == rung), None)


class ConfigurationStatus(StoredRecord):
    """status.json: the status of a configuration in the search."""

    status: Literal["running", "waiting", End]
    reason: str | None = None
    objective: Number | None = None
    seeds_done: tuple[int, ...] = ()

    @property
    def over(self) -> bool:
        """Whether the search is done with it."""
        return self.status in FINAL


class StoredConfiguration(StoredRecord):
    """configuration.json: the options of its method and its training, known to this version or not."""

    method: dict[str, Any]
    training: dict[str, Any]

    def sections(self) -> dict[str, dict[str, Any]]:
        """Both sections, as Configuration takes them."""
        return {"method": self.method, "training": self.training}

    def option(self, path: str) -> Any:
        """The value at a normalised path, such as `method.density`; None where it has none."""
        section, _, field = path.partition(".")
        return (self.method if section == "method" else self.training).get(field)


class Chance(StoredRecord):
    """What guessing reaches on a task's validation examples: the mean of 1 / options."""

    level: Share
    examples: Annotated[int, Field(gt=0)]


class BaseResult(StoredRecord):
    """base.json: what the base model reaches, and what guessing would where there are options to choose from."""

    chance: dict[str, Chance] = {}

    tasks: dict[str, dict[str, Annotated[dict[str, Number], AfterValidator(_possible)]]]

    @model_validator(mode="before")
    @classmethod
    def _of_the_first_version(cls, value: Any) -> Any:
        """Its base.json held the tasks at the top level."""
        return {"tasks": value} if isinstance(value, dict) and "version" not in value else value


class BaseProgress(StoredRecord):
    """base_progress.json: how far the measurement of the base model is, of how many examples; what: of what now."""

    time: Number
    done: int
    total: int
    what: str = ""


class BaseText(StoredRecord):
    """base_text.json: the base model's loss on general text."""

    text_loss: Number | None = None


def is_number_or_null(value: Any) -> bool:
    """Whether a value is null, or a finite number within float's range; booleans are not numbers."""
    if isinstance(value, float):
        return isfinite(value)
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000)


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one level, names joined by underscores: {"seconds": {"total": 3}} gives seconds_total."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}_")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
