"""Tasks on which forgetting can be seen: those of some candidates that the base model does better than by guessing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from gallop_ray.analysis.chance import LEVEL, p_above
from gallop_ray.spec.data import DataSpec, Limits, ModelSpec
from gallop_ray.spec.measures import normalization
from gallop_ray.spec.problems import first_line
from gallop_ray.tasks.choices import by_likelihood
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.settings import EvaluationSettings

TRIED = 24
"""Examples per task: of four options, twelve right ones are no chance."""


@dataclass(frozen=True)
class Proposal:
    """A task, whether it should be taken, and a clause that says why. above: None where it could not be tried."""

    task: str
    above: bool | None
    why: str


def propose(model: Any, tokenizer: Any, data: DataSpec, settings: EvaluationSettings) -> list[Proposal]:
    """What is to be said of each OOD task of `data`, by the base model's first answers on its test examples."""
    few = data.model_copy(update={"limits": Limits(train=1, validation=1, test=TRIED)})
    return [_tried(model, tokenizer, few, task, settings) for task in data.ood]


def _tried(model: Any, tokenizer: Any, data: DataSpec, task: str, settings: EvaluationSettings) -> Proposal:
    try:
        examples = load_task(task, data, ("test",)).test
        if any(one.kind != "choice" for one in examples):
            return Proposal(task, None, "its answers are no options to choose from, so that it has no level of chance")
        normalize = data.task(task).normalize or normalization(task)
        right = sum(by_likelihood(model, tokenizer, examples, settings, normalize).ways["likelihood"])
    except (ValueError, OSError) as error:
        return Proposal(task, False, f"it cannot be measured: {first_line(error)}")
    level = _level(examples)
    above = p_above(right, len(examples), level) < LEVEL
    said = f"the base model has {right} of {len(examples)} right, chance is {100 * level:.0f} %"
    return Proposal(task, above, said if above else f"{said}: there is nothing to forget")


def _level(examples: list[Example]) -> float:
    return fmean(1 / len(one.options) for one in examples)


def loaded(spec: ModelSpec) -> tuple[Any, Any] | str:
    """The model and its tokenizer where it is here and small enough to try; else why it is not tried."""
    from gallop_ray.training.models import local_tokenizer, small_enough, try_model

    if local_tokenizer(spec) is None:
        return f"{spec.name} is not on this machine yet"
    if not small_enough(spec):
        return f"{spec.name} is large"
    try:
        return try_model(spec)
    except (ValueError, OSError) as error:
        return first_line(error)


def lines(found: list[Proposal], untried: str = "") -> Iterator[str]:
    """What to say of them."""
    for each in found:
        yield f"{each.task}: {'left out, ' if each.above is False else ''}{each.why}"
    if untried:
        yield f"{untried}: whether it can do these tasks is said by the sweep, once it has measured the base model"


def untried(tasks: Iterable[str]) -> list[Proposal]:
    """The same of tasks that could not be tried: all are taken."""
    return [Proposal(task, None, "taken untried") for task in tasks]
