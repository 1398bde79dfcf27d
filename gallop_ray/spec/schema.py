"""The sweep file: what a user may ask for. Frozen, validated; imports neither torch, ray nor optuna."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from gallop_ray.spec.methods import AnyMethodSpec, Frozen
from gallop_ray.spec.space import Range

Text = Annotated[str, Field(min_length=1)]


class ModelSpec(Frozen):
    """The base model: a preset (`pocket`, `smollm2-135m`, ...), a hub id, or a folder."""

    name: Text
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"


class Limits(Frozen):
    """At most this many examples of a task's split; null takes all of them."""

    train: int | None = Field(default=None, ge=1)
    validation: int | None = Field(default=256, ge=1)
    test: int | None = Field(default=None, ge=1)


class DataSpec(Frozen):
    """The task to train on, the tasks to measure forgetting on, and where their examples come from."""

    root: Text = Field(default="hub", description="`hub`, `generated`, or a folder of <task>.<split>.jsonl")
    train: Text
    ood: tuple[Text, ...] = ()
    limits: Limits = Limits()
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    prompt: str = Field(default="{instruction}\n{input}\n", description="a template, or `chat`")
    split_seed: int = 0


class TrainingSpec(Frozen):
    """The optimisation of one run. batch_size counts examples per optimizer step over all workers."""

    epochs: float = Field(default=1.0, gt=0)
    steps: int | None = Field(default=None, ge=1, description="overrides epochs")
    batch_size: int = Field(default=32, ge=1)
    micro_batch_size: int = Field(default=8, ge=1, description="examples per worker and backward pass")
    learning_rate: float = Field(default=1e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    max_length: int = Field(default=512, ge=8, description="tokens of prompt and answer together")
    gradient_checkpointing: bool = False
    optimizer: Text = Field(default="adamw", description="a name in torch.optim: adamw, sgd, adafactor, ...")
    optimizer_options: dict[str, Any] = {}
    checkpoint_steps: int | None = Field(default=None, ge=1, description="optimizer steps between checkpoints of a run")


class EvaluationSpec(Frozen):
    """How accuracy is measured; by likelihood always, by generation too unless switched off."""

    batch_size: int = Field(default=16, ge=1)
    generate: bool = True
    max_new_tokens: int = Field(default=16, ge=1)


class SearchSpec(Frozen):
    """Which fields vary. Keys of `space` are dotted paths.

    `training.learning_rate` varies a field for every method, `method.density` an option for every method that has
    it, `gallop.density` or `gallop.training.learning_rate` only where the method of that name runs.
    """

    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0
    space: dict[str, Range] = {}


Metric = Literal["val_mean_accuracy", "val_id_accuracy", "val_ood_accuracy", "val_forget_ratio"]


class ObjectiveSpec(Frozen):
    """What the search goes by: the mean over seeds of a validation metric."""

    metric: Metric = "val_mean_accuracy"

    @property
    def maximize(self) -> bool:
        """Whether larger is better."""
        return self.metric != "val_forget_ratio"


class BudgetSpec(Frozen):
    """How much to spend. A method with nothing to search runs one configuration."""

    configurations: int = Field(default=8, ge=1, description="per method")
    hours: float | None = Field(default=None, gt=0, description="start no configuration after this long")


class PruningSpec(Frozen):
    """Stop a configuration early when its mean over seeds is below the median of its method's others."""

    type: Literal["none", "median"] = "none"
    after_seeds: int = Field(default=1, ge=1)
    after_configurations: int = Field(default=4, ge=1)


class ResourcesSpec(Frozen):
    """The size of a slot, and how many; `auto` takes as many as the cluster holds."""

    workers_per_slot: int = Field(default=1, ge=1)
    cpus_per_worker: float = Field(default=1, gt=0)
    gpus_per_worker: float = Field(default=0, ge=0)
    slots: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"


class RetentionSpec(Frozen):
    """What stays on the disk. `best` removes all adapters but those of each method's best configuration so far."""

    # The overlap of masks between seeds is reported of adapters that are there: by default none is missing.
    adapters: Literal["all", "best"] = "all"
    disk_gb: float | None = Field(default=None, gt=0, description="stop when the sweep's folder would exceed this")


class DeepspeedSpec(Frozen):
    """DeepSpeed ZeRO. `extra` is merged into the DeepSpeed configuration as it is."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False
    extra: dict[str, Any] = {}


class TrackingSpec(Frozen):
    """MLflow. Without a uri: the environment's MLFLOW_TRACKING_URI, else an SQLite file beside the sweeps."""

    uri: str | None = None
    experiment: str = "gallop_ray"


def _count_to_seeds(value: object) -> object:
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("must be a list of seeds, or how many to take (at least 1)")
    return tuple(range(value))


def _folder_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", value):
        raise ValueError("must be of letters, digits, `_`, `.` and `-`, and start with a letter or a digit")
    return value


Seed = Annotated[int, Field(ge=0, strict=True)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(_count_to_seeds)]


class Sweep(Frozen):
    """One sweep file: a search over configurations, each tried with every seed."""

    name: Annotated[str, AfterValidator(_folder_name)]
    output: Text = Field(default="runs", description="folder of sweeps, on storage that every node sees")
    model: ModelSpec
    data: DataSpec
    methods: tuple[AnyMethodSpec, ...] = Field(min_length=1)
    seeds: Seeds = (0,)
    search: SearchSpec = SearchSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    budget: BudgetSpec = BudgetSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    pruning: PruningSpec = PruningSpec()
    resources: ResourcesSpec = ResourcesSpec()
    retention: RetentionSpec = RetentionSpec()
    deepspeed: DeepspeedSpec = DeepspeedSpec()
    tracking: TrackingSpec = TrackingSpec()


class Configuration(Frozen):
    """One point of the search space, all values resolved: what a run needs beside the sweep's fixed parts."""

    method: AnyMethodSpec
    training: TrainingSpec
