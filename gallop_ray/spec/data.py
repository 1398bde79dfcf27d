"""The base model and the data of a sweep."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from gallop_ray.spec.frozen import Frozen, Text
from gallop_ray.spec.places import PathOrName
from gallop_ray.spec.tasks import Formulation, OwnTasks, TaskSpec


class ModelSpec(Frozen):
    """The base model: a preset (`pocket`, `smollm2-135m`, ...), a hub id, or a folder."""

    name: PathOrName = Field(
        description="a preset (`pocket`, `smollm2-135m`), a hub id, or a folder that transformers loads, by path or by "
        "address in a bucket (s3://)"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of weights and activations; bfloat16 on GPUs, float32 on CPUs"
    )
    delta: PathOrName | None = Field(
        default=None,
        description="what a mask has trained on this model before, as a part of the base model here: the folder of a "
        "run or of an `export --to delta`, or its adapter.safetensors, by path or by address in a bucket (s3://)",
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


class ReplaySpec(Frozen):
    """Examples of another task, mixed into those of the task trained on: against forgetting, the plainest means."""

    task: Text = Field(description="of `data.tasks` or of `root`, plain text included; its training examples are taken")
    share: float = Field(gt=0, lt=1, description="of the examples of an epoch")

    def examples(self, train: int) -> int:
        """How many there are in an epoch with so many examples of the task trained on."""
        return max(1, round(self.share / (1 - self.share) * train))


class FisherDataSpec(Frozen):
    """Examples of what is to be kept: the weights that matter for them are held by `training.ewc`."""

    task: Text = Field(description="of `data.tasks` or of `root`, plain text included; its training examples are taken")
    examples: int = Field(default=64, ge=1, description="how many, each a pass of its own at the base weights")


class DataSpec(Frozen):
    """The task to train on, the tasks to measure forgetting on, and where their examples come from.

    With several tasks to train on, every run trains on each of them in turn, from the base model; the others are OOD
    tasks then, beside those of `ood`, and what is measured is averaged (GaLLoP, arXiv 2510.19778). In a sequence each
    task is trained on top of the previous ones, and the result is that of the final model.
    """

    root: PathOrName = Field(
        default="hub",
        description="`hub`, `generated`, or a folder of <task>.<split>.jsonl, by path or by address in a bucket (s3://)",
    )
    tasks: OwnTasks = Field(
        default={}, description="tasks of other sources by the names that `train` and `ood` call them, before root's"
    )
    train: Tasks = Field(
        description="the task to train on; its test set gives ID accuracy. A list: every run has a round for each"
    )
    ood: tuple[Text, ...] = Field(default=(), description="other tasks, on which forgetting is measured")
    sequence: bool = Field(
        default=False,
        description="whether a run learns the tasks of `train` one after another, each on top of those before, instead "
        "of each from the base model",
    )
    replay: ReplaySpec | None = Field(
        default=None, description="examples of another task to mix into training; masks are scored without them"
    )
    fisher: FisherDataSpec | None = Field(
        default=None, description="examples of another task, on which `training.ewc` is to keep the model as it is"
    )
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
    def read_tasks(self) -> tuple[str, ...]:
        """The tasks whose training examples are read."""
        return (*self.train_tasks, *(each.task for each in (self.replay, self.fisher) if each is not None))

    def epoch(self, train: int) -> int:
        """The examples of an epoch, of which `train` are of the task trained on."""
        return train + (self.replay.examples(train) if self.replay else 0)

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
        others = {
            task: (*(each for each in self.train if each != task and not self.sequence), *self.ood)
            for task in self.train
        }
        return tuple(self.model_copy(update={"train": task, "ood": ood}) for task, ood in others.items())
