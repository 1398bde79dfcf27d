"""The sweep file: what a user may ask for. Frozen, validated; imports neither torch, ray nor optuna."""

import re
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gallop_ray.spec.machine import DeepspeedSpec, ResourcesSpec, RetentionSpec, TrackingSpec
from gallop_ray.spec.methods import Frozen
from gallop_ray.spec.metrics import BUILT_IN, declare, maximized, metrics, objectives
from gallop_ray.spec.places import expanded, expanded_file_address, local_folder
from gallop_ray.spec.plugins import is_reference
from gallop_ray.spec.problems import did_you_mean
from gallop_ray.spec.registry import AnyMethodSpec
from gallop_ray.spec.space import Range
from gallop_ray.spec.tasks import Formulation, OwnTasks, TaskSpec

Text = Annotated[str, Field(min_length=1)]
PathOrName = Annotated[Text, AfterValidator(expanded)]


class ModelSpec(Frozen):
    """The base model: a preset (`pocket`, `smollm2-135m`, ...), a hub id, or a folder."""

    name: PathOrName = Field(
        description="a preset (`pocket`, `smollm2-135m`), a hub id, or a folder that transformers loads"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of weights and activations; bfloat16 on GPUs, float32 on CPUs"
    )


class Limits(Frozen):
    """At most this many examples of a task's split; null takes all of them."""

    train: int | None = Field(default=None, ge=1, description="of the task trained on")
    validation: int | None = Field(default=256, ge=1, description="of each task: what the search sees")
    test: int | None = Field(default=None, ge=1, description="of each task: what the results are measured on")


def _two_tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    if len(tasks) < 2:
        raise ValueError("must be two tasks or more; for one write its name alone")
    return tasks


def _tasks_form(value: object) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


Tasks = Annotated[
    Annotated[Text, Tag("one")] | Annotated[tuple[Text, ...], AfterValidator(_two_tasks), Tag("several")],
    Discriminator(_tasks_form),
]


class DataSpec(Frozen):
    """The task to train on, the tasks to measure forgetting on, and where their examples come from.

    With several tasks to train on, every run trains on each of them in turn, from the base model; the others are OOD
    tasks then, beside those of `ood`, and what is measured is averaged (GaLLoP, arXiv 2510.19778).
    """

    root: PathOrName = Field(default="hub", description="`hub`, `generated`, or a folder of <task>.<split>.jsonl")
    tasks: OwnTasks = Field(
        default={}, description="tasks of other sources by the names that `train` and `ood` call them, before root's"
    )
    train: Tasks = Field(
        description="the task to train on; its test set gives ID accuracy. A list: every run has a round for each"
    )
    ood: tuple[Text, ...] = Field(default=(), description="other tasks, on which forgetting is measured")
    limits: Limits = Limits()
    validation_share: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="held out of the training split (else the test split) without a validation one",
    )
    prompt: str = Field(
        default="{instruction}\n{input}\n",
        description="a template of {instruction} and {input}, or `chat`: the chat template",
    )
    split_seed: int = Field(default=0, description="orders the examples before limits and the held-out share are taken")
    formulation: Formulation | None = Field(
        default=None, description="of all tasks with answers to choose from that do not say it themselves"
    )

    def task(self, name: str) -> TaskSpec:
        """What is asked of a task, of `tasks` or of `root`."""
        task = self.tasks.get(name, TaskSpec())
        return task.model_copy(update={"formulation": task.formulation or self.formulation})

    @property
    def train_tasks(self) -> tuple[str, ...]:
        """The tasks to train on: one, or one a round."""
        return (self.train,) if isinstance(self.train, str) else self.train

    @property
    def train_task(self) -> str:
        """The only task to train on, of a sweep without rounds or of one round."""
        (task,) = self.train_tasks
        return task

    @property
    def rounds(self) -> tuple["DataSpec", ...]:
        """The data of each round; of a sweep without rounds this alone."""
        if isinstance(self.train, str):
            return (self,)
        others = {task: (*(each for each in self.train if each != task), *self.ood) for task in self.train}
        return tuple(self.model_copy(update={"train": task, "ood": ood}) for task, ood in others.items())


SCHEDULES = ("linear", "cosine", "constant", "cosine_with_restarts", "polynomial", "inverse_sqrt")


def _schedule(name: str) -> str:
    if name in SCHEDULES or is_reference(name):
        return name
    raise ValueError(f"must be {', '.join(map(repr, SCHEDULES))} or module:function{did_you_mean(name, SCHEDULES)}")


class TrainingSpec(Frozen):
    """The optimisation of one run. batch_size counts examples per optimizer step over all workers."""

    epochs: float = Field(default=1.0, gt=0, description="passes over the training examples; may be a part of one")
    steps: int | None = Field(default=None, ge=1, description="optimizer steps; overrides epochs")
    batch_size: int = Field(default=32, ge=1, description="examples per optimizer step, over all workers of a slot")
    micro_batch_size: int = Field(default=8, ge=1, description="examples per worker and backward pass")
    loss: Literal["example", "token"] = Field(
        default="example",
        description="what a batch's loss is the mean of: its examples' mean answer losses, or all its answer tokens",
    )
    learning_rate: float = Field(
        default=1e-4, gt=0, description="the highest of the schedule; search it for each method"
    )
    schedule: Annotated[str, AfterValidator(_schedule)] = Field(
        default="linear",
        description="after the warmup: linear, cosine, constant; cosine_with_restarts, polynomial and inverse_sqrt as "
        "transformers has them; or `module:function`, called with a step and the number of steps for a factor",
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps in which it rises from 0")
    weight_decay: float = Field(default=0.0, ge=0, description="of the trained parameters only")
    decay_to: Literal["zero", "base"] = Field(
        default="zero", description="what weight decay pulls a mask's entries to: 0, or their values in the base model"
    )
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest gradient norm; null does not clip")
    max_length: int = Field(default=512, ge=8, description="tokens of prompt and answer together")
    too_long: Literal["cut", "drop", "refuse"] = Field(
        default="cut",
        description="training examples of more tokens: cut from the left, where an answer stays whole; left out; or an "
        "error",
    )
    packing: bool = Field(
        default=False,
        description="put several examples into one row of up to max_length, each as if alone, which is faster; "
        "micro_batch_size then counts rows",
    )
    gradient_checkpointing: bool = Field(default=False, description="compute activations twice, to save memory")
    optimizer: Text = Field(
        default="adamw", description="a name in torch.optim (adamw, sgd, adafactor, ...), or `module:Class`"
    )
    optimizer_options: dict[str, Any] = Field(default={}, description="more of its arguments, such as betas")
    checkpoint_steps: int | None = Field(default=None, ge=1, description="optimizer steps between checkpoints of a run")
    checkpoint_minutes: float | None = Field(default=10, gt=0, description="as well after so much time")
    validate_steps: int | None = Field(
        default=None, ge=1, description="optimizer steps between validations while a run trains; null: none"
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="which step's values a run ends with; best: the first with the best validation by the objective",
    )


GENERATED_TEXT = "generated"


def _declared(name: str, info: ValidationInfo) -> str:
    if not (isinstance(info.context, dict) and info.context.get("stored")):
        declare(name)
    return name


class EvaluationSpec(Frozen):
    """How accuracy is measured; by likelihood always, by generation too unless switched off.

    What general text the model still predicts is measured where there is one.
    """

    batch_size: int = Field(default=16, ge=1, description="examples per worker and forward pass")
    generate: bool = Field(default=True, description="also generate answers to the test sets, and read them")
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="null: 16, and 256 for tasks without answer options, which reason first"
    )
    text: PathOrName | None = Field(
        default="auto",
        description="general text: a .jsonl file with a field `text`, a hub id (or id:configuration), `basics` (plain "
        "English that comes with the package) or `generated` (for the pocket model); null: none; auto: generated for "
        "the pocket model, else none",
    )
    metrics: tuple[Annotated[str, AfterValidator(_declared)], ...] = Field(
        default=(),
        description="more metrics made of accuracies: names that installed packages offer, or `module:object`",
    )
    text_examples: int = Field(default=64, ge=1, description="texts to take, each cut to training.max_length")

    def new_tokens(self, reasoning: bool = False) -> int:
        """How many tokens to generate at most."""
        return self.max_new_tokens or (256 if reasoning else 16)

    def text_of(self, model: str) -> str | None:
        """Where general text for the model comes from; null for none."""
        return (GENERATED_TEXT if model == "pocket" else None) if self.text == "auto" else self.text


PLAIN_SAMPLERS = ("tpe", "random", "grid", "nsga2")
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
    def maximize(self) -> bool:
        """Whether a larger `metric` is better."""
        return maximized(self.metric)


LOSS_OBJECTIVE = "val_id_loss"
"""What a search goes by that trains on what counts by its loss, unless it says something else."""


def _by_default(objective: ObjectiveSpec, metric: str) -> ObjectiveSpec:
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
    output: Annotated[Text, AfterValidator(local_folder)] = Field(
        default="runs",
        description="folder of sweeps, on storage that every node sees; `~` and $VARIABLES are replaced",
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
                _declared(str(name), info)
        return data

    @field_validator("objective", mode="after")
    @classmethod
    def _metric_has_tasks(cls, objective: ObjectiveSpec, info: ValidationInfo) -> ObjectiveSpec:
        data: DataSpec | None = info.data.get("data")
        if data is None or "metric" in objective.model_fields_set:
            return objective
        trained_on = [data.tasks[name] for name in data.train_tasks if name in data.tasks]
        if len(trained_on) == len(data.train_tasks) and all(task.counts_by_loss for task in trained_on):
            return _by_default(objective, LOSS_OBJECTIVE)
        return objective if data.rounds[0].ood else _by_default(objective, "val_id_accuracy")

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
