"""What is measured of a model: the base, and each run at its end."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from gallop_ray.tasks.accuracy import EvaluationSettings, Generated, generation_correct, likelihood_correct
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.metrics import Accuracies, Correct, accuracies
from gallop_ray.tasks.outputs import Outputs, describe
from gallop_ray.tasks.text import text_loss
from gallop_ray.training.resident import Resident


@dataclass(frozen=True)
class Measured:
    """Which examples a model answers right, what it generated for test sets, and the loss of general text."""

    correct: Correct
    outputs: Outputs
    text_loss: float | None

    @property
    def accuracies(self) -> Accuracies:
        """The shares of right answers."""
        return accuracies(self.correct)


def measure(resident: Resident, module: nn.Module) -> Measured:
    """Accuracy by likelihood and, on test splits, by generation; general text. Collective, equal on every rank."""
    settings, tokenizer = resident.evaluation(), resident.tokenizer
    correct: dict[str, dict[str, dict[str, str]]] = {}
    generated: dict[str, Generated] = {}
    for name, task in resident.tasks.items():
        correct[name] = {"validation": measure_plain(module, tokenizer, task.validation, settings)}
        options = task.test[0].number is None
        ways = measure_plain(module, tokenizer, task.test, settings) if options else {}
        if resident.sweep.evaluation.generate:
            generated[name] = generation_correct(module, tokenizer, task.test, settings)
            ways = {**ways, "generated": _digits(generated[name].correct)}
        correct[name]["test"] = ways
    tests = {name: task.test for name, task in resident.tasks.items()}
    outputs = describe(tests, generated, resident.sweep.data.train_tasks[0]) if generated else {}
    return Measured(correct, outputs, text_loss(module, resident.text, tokenizer.pad_token_id))


def measure_plain(module: Any, tokenizer: Any, examples: list[Example], settings: EvaluationSettings) -> dict[str, str]:
    """Which examples are answered right by the way that metrics without a suffix go by: {way: digits}."""
    if all(one.number is None for one in examples):
        return {"likelihood": _digits(likelihood_correct(module, tokenizer, examples, settings))}
    return {"generated": _digits(generation_correct(module, tokenizer, examples, settings).correct)}


def _digits(correct: list[bool]) -> str:
    return "".join(str(int(each)) for each in correct)
