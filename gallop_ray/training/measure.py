"""What is measured of a model: the base, a run while it trains, and a run at its end."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor, nn

from gallop_ray.methods import Attachment
from gallop_ray.sparse.weights import gather_all, local, write_all
from gallop_ray.spec.metrics import find, maximized
from gallop_ray.tasks.accuracy import Generated
from gallop_ray.tasks.examples import Example, Split
from gallop_ray.tasks.measured import measured
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.metrics import Accuracies, Correct, accuracies, summarize
from gallop_ray.tasks.outputs import Outputs, describe
from gallop_ray.tasks.predictions import Prediction, predictions, prompts_of
from gallop_ray.tasks.progress import Report, counting, part
from gallop_ray.tasks.text import VALIDATION, text_loss
from gallop_ray.tasks.values import Values
from gallop_ray.training.checkpoint import Best
from gallop_ray.training.context import RunContext
from gallop_ray.training.engine import Engine
from gallop_ray.training.resident import LoadedModel


@dataclass(frozen=True)
class Measured:
    """What a model was given for each example, what it generated for test sets, and the loss of general text."""

    correct: Correct
    outputs: Outputs
    text_loss: float | None
    val_text_loss: float | None = None
    """Of other text, where the objective goes by it."""
    chance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What guessing reaches on validation examples, as base.json has it."""
    predictions: Sequence[Prediction] = ()
    """What it said to the first test examples of each task."""

    @property
    def accuracies(self) -> Accuracies:
        """The means over examples."""
        return accuracies(self.correct)


def measure(resident: LoadedModel, module: nn.Module, report: Report | None = None) -> Measured:
    """What each task counts by and, on test splits, all else; general text. Collective, equal on every rank.

    report: told how far it is.
    """
    with counting(_work(resident), report):
        return _measure(resident, module)


def _work(resident: LoadedModel) -> int:
    """Examples to measure, each as often as the model goes through it."""
    total = 0
    for name, task in resident.tasks.items():
        if task.harness is not None:
            total += len(task.validation) + len(task.test)
            continue
        how = measuring(resident.sweep, name, task.test)
        total += len(task.validation) * how.passes(test=False) + len(task.test) * how.passes(test=True)
    return total


def _measure(resident: LoadedModel, module: nn.Module) -> Measured:
    settings, tokenizer = resident.evaluation(), resident.tokenizer
    correct: dict[str, dict[str, dict[str, Values]]] = {}
    generated: dict[str, Generated] = {}
    said: list[Prediction] = []
    for name, task in resident.tasks.items():
        if task.harness is not None:
            size = settings.batch_size
            correct[name] = {}
            splits: Mapping[Split, Sequence[Example]] = {"validation": task.validation, "test": task.test}
            for split, examples in splits.items():
                with part(f"{name}, {split}", len(examples)):
                    correct[name][split] = task.harness.measure(module, tokenizer, split, size)
            asked = [one.instruction for one in resident.shown(task)]
            said += predictions(name, task.test, correct[name]["test"], None, asked)
            continue
        how = measuring(resident.sweep, name, task.test)
        validation = measured(module, tokenizer, task.validation, how, settings, test=False)
        test = measured(module, tokenizer, task.test, how, settings, test=True)
        correct[name] = {"validation": validation.ways, "test": test.ways}
        if test.generated is not None:
            generated[name] = test.generated
        asked = prompts_of(resident.shown(task), tokenizer, how.settings(settings))
        said += predictions(name, task.test, test.ways, test.generated, asked)
    tests = {name: task.test for name, task in resident.tasks.items()}
    outputs = describe(tests, generated, resident.sweep.data.train_tasks[0]) if generated else {}
    chance = {name: of_it for name, task in resident.tasks.items() if (of_it := _chance(task.validation))}
    reported, val = (
        text_loss(module, each, tokenizer.pad_token_id) for each in (resident.text, resident.validation_text)
    )
    return Measured(correct, outputs, reported, val, chance, said)


def _chance(examples: Sequence[Example]) -> dict[str, float]:
    if any(one.kind != "choice" for one in examples):
        return {}
    return {"level": fmean(1 / len(one.options) for one in examples), "examples": len(examples)}


@dataclass(frozen=True)
class _Kept:
    """The best step so far, and what this rank stores of each trained parameter then."""

    step: int
    value: float
    stored: list[Tensor]


class Validation:
    """Measures the validation sets every so many steps. Everything here is collective.

    base: accuracies of the base model. The step that counts as best is the first with the best value of the sweep's
    objective; with `keep: best` the last step is measured, too, so that it can be that.
    """

    def __init__(self, context: RunContext, attachment: Attachment, base: Accuracies) -> None:
        self._context, self._attachment, self._base = context, attachment, base
        self._keeps = context.training.keep == "best"
        self._kept: _Kept | None = None

    def due(self, step: int, steps: int) -> bool:
        """Whether to measure after optimizer step `step` (1, 2, ...) of `steps`."""
        every = self._context.training.validate_steps
        return every is not None and (step % every == 0 or (self._keeps and step == steps))

    def measure(self, step: int, steps: int, engine: Engine) -> float:
        """Measure, say so, and remember the step where it is the best. Returns the seconds it took."""
        begun = time.perf_counter()
        with self._context.phases.phase("evaluating"):
            with self._attachment.finalized():
                found = self._metrics(engine)
            # What a forward pass alone has gathered would hide the shards that are written next.
            engine.drop_gathered()
            self._context.reporter.event("validation", step=step, steps=steps, **found)
        value = found.get(self._context.resident.sweep.objective.metric)
        if self._keeps and value is not None and self._is_best(value):
            self._kept = _Kept(step, value, [local(p).clone() for p in self._attachment.parameters])
        return time.perf_counter() - begun

    def _metrics(self, engine: Engine) -> dict[str, float]:
        """What the objective needs, and what comes with it, under the names that results use."""
        resident = self._context.resident
        sweep, settings = resident.sweep, resident.evaluation()
        alone = not any(metric is None or metric.needs_ood for metric in map(find, sweep.objective.all_metrics))
        correct = {}
        for name, task in resident.tasks.items():
            if name == sweep.data.train_task or not alone:
                if task.harness is not None:
                    size = settings.batch_size
                    ways = task.harness.measure(engine.module, resident.tokenizer, "validation", size)
                else:
                    how = measuring(sweep, name, task.validation)
                    ways = measured(engine.module, resident.tokenizer, task.validation, how, settings, test=False).ways
                correct[name] = {"validation": ways}
        metrics = summarize(accuracies(correct), self._base, sweep.data.train_task, sweep.data.ood)
        metrics[VALIDATION] = text_loss(engine.module, resident.validation_text, resident.tokenizer.pad_token_id)
        return {name: value for name, value in metrics.items() if name.startswith("val_") and value is not None}

    def _is_best(self, value: float) -> bool:
        if self._kept is None:
            return True
        maximize = maximized(self._context.resident.sweep.objective.metric)
        return value > self._kept.value if maximize else value < self._kept.value

    def best(self) -> Best | None:
        """The best step so far for a checkpoint; None where none is kept."""
        if self._kept is None:
            return None
        values = gather_all(self._attachment.parameters, self._kept.stored)
        return Best(self._kept.step, self._kept.value, values)

    def recall(self, best: Best | None) -> None:
        """Take up what an earlier attempt found best. Leaves its values in the parameters."""
        if best is not None:
            for parameter, values in zip(self._attachment.parameters, best.values, strict=True):
                write_all(parameter, values)
            self._kept = _Kept(best.step, best.value, [local(p).clone() for p in self._attachment.parameters])

    @torch.no_grad()
    def go_back(self) -> int | None:
        """Put the best step's values back; which step that is, None where the last step's stay because none is kept."""
        if self._kept is None:
            return None
        for parameter, stored in zip(self._attachment.parameters, self._kept.stored, strict=True):
            local(parameter).copy_(stored)
        self._attachment.write()
        return self._kept.step
