"""One run: a configuration with one seed, on a resident base model that is the same afterwards as before."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gallop_ray.methods import METHODS, Attachment, MaskMethod
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.weights import full_shape
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.methods import MaskMethodSpec
from gallop_ray.spec.schema import Configuration, TrainingSpec
from gallop_ray.tasks.accuracy import generation_correct, likelihood_correct
from gallop_ray.tasks.metrics import summarize
from gallop_ray.training.engine import Engine
from gallop_ray.training.loop import TrainState, train
from gallop_ray.training.phases import Phases
from gallop_ray.training.report import Reporter
from gallop_ray.training.resident import Resident
from gallop_ray.training.selection import select

Accuracies = dict[str, dict[str, dict[str, float]]]


def measure_base(resident: Resident) -> Accuracies:
    """The base model's accuracies, to which every run of the sweep is compared."""
    with resident.usable(resident.model, resident.sweep.training):
        return measure(resident, resident.model)


def measure(resident: Resident, module: nn.Module) -> Accuracies:
    """{task: {split: {"likelihood": share right, "generated": share right}}}; generation on the test split only."""
    settings, tokenizer = resident.evaluation(), resident.tokenizer
    accuracies: Accuracies = {}
    for name, task in resident.tasks.items():
        accuracies[name] = {
            split: {"likelihood": _share(likelihood_correct(module, tokenizer, examples, settings))}
            for split, examples in (("validation", task.validation), ("test", task.test))
        }
        if resident.sweep.evaluation.generate:
            generated = generation_correct(module, tokenizer, task.test, settings)
            accuracies[name]["test"]["generated"] = _share(generated.correct)
    return accuracies


def _share(correct: list[bool]) -> float:
    return sum(correct) / len(correct)


def execute(
    resident: Resident, configuration: Configuration, seed: int, base: Accuracies, reporter: Reporter
) -> dict[str, Any]:
    """Score, choose, attach, train, measure, save, detach. Returns what result.json says of the run.

    Collective. Raises Diverged or ValueError on every rank alike; the base model is restored in every case.
    """
    phases = Phases(reporter)
    training = configuration.training
    torch.manual_seed(seed)
    with (
        checkpointing(resident.model, training),
        _attached(resident, configuration, seed, phases) as (attachment, mask),
    ):
        trained = sum(full_shape(p).numel() for p in attachment.parameters)
        accuracies, state = _train_and_measure(resident, attachment, trained, training, seed, phases, reporter)
        with phases.phase("saving"):
            attachment.save(reporter.adapter, _metadata(resident, configuration, seed))
    return {
        **asked(configuration, seed),
        **_size(resident, trained),
        "mask": mask,
        "steps": state.steps,
        "train_loss": state.loss,
        **summarize(accuracies, base, resident.sweep.data.train, resident.sweep.data.ood),
        "tasks": accuracies,
        **phases.record(),
    }


def _train_and_measure(
    resident: Resident,
    attachment: Attachment,
    trained: int,
    training: TrainingSpec,
    seed: int,
    phases: Phases,
    reporter: Reporter,
) -> tuple[Accuracies, TrainState]:
    with phases.phase("attaching"):
        optimizer = torch.optim.AdamW(
            attachment.parameters, lr=training.learning_rate, weight_decay=training.weight_decay
        )
        engine = Engine(attachment.module, resident.config(training, trained), optimizer)
    try:
        with phases.phase("training"):
            state = train(resident, attachment, engine, training, seed, phases, reporter)
            attachment.settle()
        with phases.phase("evaluating"):
            return measure(resident, engine.module), state
    finally:
        engine.close()


@contextmanager
def _attached(
    resident: Resident, configuration: Configuration, seed: int, phases: Phases
) -> Iterator[tuple[Attachment, dict[str, Any]]]:
    """The method's parameters on the model while this is open, and what mask.json says of them."""
    spec = configuration.method
    method = METHODS[spec.type](spec)
    attachment: Attachment
    record: dict[str, Any] = {}
    if isinstance(method, MaskMethod):
        assert isinstance(spec, MaskMethodSpec)
        candidates = find_candidates(resident.model, spec.target_modules)
        mask = select(resident, candidates, spec, method, configuration.training, seed, phases)
        with phases.phase("attaching"):
            attachment = SparseDelta(resident.model, candidates, mask)
        chosen = {name: indices.numel() for name, indices in mask.indices.items()}
        record = {"chosen": mask.chosen, "matrices": {c.name: [chosen.get(c.name, 0), c.numel] for c in candidates}}
    else:
        with phases.phase("attaching"):
            attachment = method.attach(resident.model)
    try:
        yield attachment, record
    finally:
        attachment.detach()


@contextmanager
def checkpointing(model: Any, training: TrainingSpec) -> Iterator[None]:
    """Gradient checkpointing while this is open, where the run asks for it."""
    if not training.gradient_checkpointing:
        yield
        return
    # Reentrant checkpointing hides the layers from autograd's inputs.
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    # transformers lets the frozen embeddings ask for gradients, which only the reentrant kind needs, and for ever.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def _size(resident: Resident, trained: int) -> dict[str, Any]:
    total = resident.parameters
    return {
        "trained_parameters": trained,
        "density": trained / total,
        "trainable_percent": 100 * trained / (total + trained),
    }


def _metadata(resident: Resident, configuration: Configuration, seed: int) -> Mapping[str, str]:
    return {
        "base_hash": resident.base_hash,
        "base_model": resident.sweep.model.name,
        "configuration": configuration.model_dump_json(),
        "seed": str(seed),
    }
