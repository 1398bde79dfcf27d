"""How a run is trained and evaluated."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from gallop_ray.spec.frozen import Frozen, Text
from gallop_ray.spec.metrics import declare
from gallop_ray.spec.places import PathOrName
from gallop_ray.spec.plugins import is_reference
from gallop_ray.spec.problems import did_you_mean

SCHEDULES = ("linear", "cosine", "constant", "cosine_with_restarts", "polynomial", "inverse_sqrt")


def _schedule(name: str) -> str:
    if name in SCHEDULES or is_reference(name):
        return name
    raise ValueError(f"must be {', '.join(map(repr, SCHEDULES))} or module:function{did_you_mean(name, SCHEDULES)}")


class TrainingSpec(Frozen):
    """The optimisation of one run. batch_size counts examples per optimizer step over all workers."""

    fixed: ClassVar[tuple[str, ...]] = ("max_length", "too_long", "checkpoint_steps", "checkpoint_minutes")
    """Fields that are the same for a whole sweep: slots keep the data as tokens, and checkpoints change no result."""

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
    density_exponent: float = Field(
        default=0.0,
        ge=-4,
        le=4,
        description="a, where the learning rate is learning_rate x density^a, the density being the share of the "
        "model's parameters that a method trains; 0: one rate whatever the density",
    )
    schedule: Annotated[str, AfterValidator(_schedule)] = Field(
        default="linear",
        description="after the warmup: linear, cosine, constant; cosine_with_restarts (of one cycle: cosine), "
        "polynomial and inverse_sqrt (its time scale is the warmup, 10 000 steps without one) as transformers has "
        "them; or `module:function`, called with a step and the number of steps for a factor",
    )
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps in which it rises from 0")
    weight_decay: float = Field(default=0.0, ge=0, description="of the trained parameters only")
    decay_to: Literal["zero", "base"] = Field(
        default="zero",
        description="what weight decay pulls to: 0, or weights and a mask's entries to the base model's values, a "
        "tuner's to where they began",
    )
    ewc: float = Field(
        default=0.0,
        ge=0,
        description="lambda of elastic weight consolidation: lambda / 2 sum F (w - base)^2 is added to the loss, F "
        "being the diagonal Fisher information on data.fisher; for methods that train the model's own weights",
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
        default="adamw", description="a name in torch.optim (adamw, sgd, nadam, ...), or `module:Class`"
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


def declared_metric(name: str, info: ValidationInfo) -> str:
    if not (isinstance(info.context, dict) and info.context.get("stored")):
        declare(name)
    return name


class EvaluationSpec(Frozen):
    """How accuracy is measured; by likelihood always, by generation too unless switched off.

    What general text the model still predicts is measured where there is one.
    """

    batch_size: int = Field(
        default=16,
        ge=1,
        description="examples per worker and forward pass; four times as many are answered together by generation",
    )
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
    metrics: tuple[Annotated[str, AfterValidator(declared_metric)], ...] = Field(
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
