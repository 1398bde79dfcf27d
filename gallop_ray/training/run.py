"""One run: a configuration with one seed, on a loaded model that it leaves unchanged."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gallop_ray.disk.regular import remove
from gallop_ray.errors import BaseChanged
from gallop_ray.methods import Attachment
from gallop_ray.methods.full import NothingAttached
from gallop_ray.sparse.budget import trainable_percent
from gallop_ray.sparse.candidates import looking, reached
from gallop_ray.sparse.weights import full_shape, rank
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.plan import optimizer_steps
from gallop_ray.spec.schema import Configuration
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.lengths import Fitted
from gallop_ray.tasks.metrics import Accuracies, forgetting, is_vacuous, summarize
from gallop_ray.tasks.outputs import summarize_outputs
from gallop_ray.tasks.passes import evaluating
from gallop_ray.tasks.progress import Report
from gallop_ray.tasks.text import VALIDATION
from gallop_ray.training.attach import Attached, attached
from gallop_ray.training.base_guard import check_frozen
from gallop_ray.training.checkpoint import Checkpoint, restore, take_checkpoint
from gallop_ray.training.context import Phases, Reporter, RunContext
from gallop_ray.training.determinism import make_deterministic
from gallop_ray.training.engine import Engine
from gallop_ray.training.held import on_cpu
from gallop_ray.training.loop import TrainState, train
from gallop_ray.training.measure import Measured, Validation, measure
from gallop_ray.training.optimizers import make_optimizer, without_decay
from gallop_ray.training.pause import Judged, Paused, interim, judge, unlogged
from gallop_ray.training.resident import LoadedModel

_LARGEST_EXPONENT = 700.0  # of which a float holds the exponential


def measure_base(resident: LoadedModel, report: Report | None = None) -> Measured:
    """Measure the base model, with which every run of the sweep is compared. report: told how far it is."""
    with resident.usable(resident.model, resident.sweep.training):
        found = resident.of_base[resident.sweep.data.train_tasks[0]] = measure(resident, resident.model, report)
    return found


def execute(
    resident: LoadedModel,
    configuration: Configuration,
    seed: int,
    base: Accuracies,
    reporter: Reporter,
    base_text_loss: float | None = None,
) -> dict[str, Any]:
    """Score, choose, attach, train, measure, save, detach. Returns what result.json says about the run.

    A run that has left a checkpoint resumes from it. Collective. Raises Diverged, ValueError or BaseChanged, the same
    on every rank; the base model is restored in every case, unless a BaseChanged says that it is not.
    """
    result = execute_until(None, resident, configuration, seed, base, reporter, base_text_loss)
    assert not isinstance(result, Judged)
    return result


def execute_until(
    until: int | None,
    resident: LoadedModel,
    configuration: Configuration,
    seed: int,
    base: Accuracies,
    reporter: Reporter,
    base_text_loss: float | None = None,
) -> dict[str, Any] | Judged:
    """As `execute`, up to an optimizer step, unless that is the run's last: there it is judged and put aside.

    Its checkpoint stays, and another call continues it, bitwise as if it had not been paused.
    """
    context = RunContext(resident, configuration, seed, reporter, Phases(reporter))
    make_deterministic()  # again: a run that failed in the midst of a backward pass may have left torch stricter
    look(resident)
    torch.manual_seed(seed)  # after look(), which only the first run of a worker does
    checkpoint = resident.held.take(reporter.checkpoint)
    if checkpoint is not None and (kept := checkpoint.interim) is not None:
        context.phases.take_up(kept.seconds, kept.peak_memory_bytes, kept.started)
    swaps = until is not None or (checkpoint is not None and checkpoint.interim is not None)
    surrounding = context.phases.phase("swapping") if swaps else nullcontext()
    try:
        with surrounding, checkpointing(resident.model, context.training), attached(context, checkpoint) as what:
            trained = sum(full_shape(p).numel() for p in what.attachment.parameters)
            context = context.at_density(trained)
            measured, state = _train_and_measure(context, what, trained, checkpoint, base, until)
            if isinstance(measured, Measured):
                with context.phases.phase("saving"):
                    check_frozen(resident, configuration.method, what.trained, "while it trains")
                    what.attachment.save(reporter.adapter, _metadata(resident, configuration, seed))
    except BaseChanged:
        if rank() == 0:  # adapter and checkpoint do not belong to the base model whose hash they carry
            remove(reporter.adapter)
            remove(reporter.checkpoint)
        raise
    if isinstance(measured, Paused):
        return _put_aside(context, measured, state, what.scores)
    return {
        **asked(context.configuration, seed),
        **_size(resident, trained),
        **_examples(resident),
        "scores": what.scores,
        "mask": what.record(),
        "steps": state.steps,
        "best_step": state.best_step,
        "micro_batch_size": context.training.micro_batch_size,
        "train_loss": state.loss if state.steps else None,
        **_metrics(resident, measured, base, base_text_loss),
        "tasks": measured.accuracies,
        "correct": measured.correct,
        "outputs": measured.outputs,
        "predictions": measured.predictions,
        **context.phases.record(),
    }


def look(resident: LoadedModel) -> None:
    """Find out, once per base model, which modules text reaches: those that a training example calls."""
    examples = resident.train or next(iter(resident.trains.values()), [])
    if reached(resident.model) is None and examples:
        model = resident.model
        with resident.usable(model, resident.sweep.training), looking(model), evaluating(model):
            resident.losses(model, examples[:1])


def _metrics(
    resident: LoadedModel, measured: Measured, base: Accuracies, base_text_loss: float | None
) -> dict[str, Any]:
    data, tuned, loss = resident.sweep.data, measured.accuracies, measured.text_loss
    return {
        **summarize(tuned, base, data.train_task, data.ood),
        **({} if measured.val_text_loss is None else {VALIDATION: measured.val_text_loss}),
        "ood_tasks": len(data.ood),
        "forgetting": forgetting(tuned, base, data.ood),
        "forgetting_is_vacuous": is_vacuous(base, data.ood),
        **summarize_outputs(measured.outputs),
        "text_loss": loss,
        "text_perplexity": None if loss is None else math.exp(min(loss, _LARGEST_EXPONENT)),
        "text_loss_increase": None if loss is None or base_text_loss is None else loss - base_text_loss,
    }


def _train_and_measure(
    context: RunContext,
    what: Attached,
    trained: int,
    checkpoint: Checkpoint | None,
    base: Accuracies,
    until: int | None,
) -> tuple[Measured | Paused, TrainState]:
    resident, phases, attachment = context.resident, context.phases, what.attachment
    if not trained:
        with phases.phase("evaluating"), resident.usable(attachment.module, context.training):
            phases.first_forward()
            known = resident.of_base.get(resident.sweep.data.train_task)
            if known is None or not isinstance(attachment, NothingAttached):  # others may compute otherwise
                known = measure(resident, attachment.module, phases.progress)
            return known, TrainState(steps=0)
    with phases.phase("attaching"):
        optimizer = _optimizer(context, what)
        engine = Engine(attachment.module, resident.config(context.training, trained, context.micro_steps), optimizer)
    try:
        with phases.phase("training"):
            validation = Validation(context, attachment, base)
            begun = None if checkpoint is None else _go_on(context, attachment, engine, checkpoint, validation)
            keep = partial(_keep, what=what, engine=engine, validation=validation, path=context.reporter.checkpoint)
            state = train(context, attachment, engine, what.refresher, what.decay, begun, keep, validation, until)
            if state.step < state.steps:
                with phases.phase("swapping"):
                    checkpoint = on_cpu(_checkpoint(state, what, engine, validation))  # before anything is measured
                return Paused(checkpoint, judge(context, attachment, engine, state)), state
            state.best_step = validation.go_back()
            # Before the evaluation: what is measured must be what the adapter reproduces.
            attachment.finalize()
        with phases.phase("evaluating"):
            measured = measure(resident, engine.module, phases.progress)
        engine.keep_whole()  # here, not in close(): it is collective, and close() also follows one rank's failure
        return measured, state
    finally:
        engine.close()


def _optimizer(context: RunContext, what: Attached) -> torch.optim.Optimizer:
    """The run's optimizer, without the weight decay where that goes to the base, which Attached.decay does."""
    method = context.configuration.method
    return make_optimizer(without_decay(context.training), what.attachment.parameters, method.entry_ages)


def _keep(state: TrainState, what: Attached, engine: Engine, validation: Validation, path: Path) -> None:
    """Write a checkpoint."""
    _checkpoint(state, what, engine, validation).save(path)


def _checkpoint(state: TrainState, what: Attached, engine: Engine, validation: Validation) -> Checkpoint:
    optimizer = engine.state(what.attachment.parameters)
    return take_checkpoint(state.step, state.loss, optimizer, what.kept(), what.delta, validation.best())


def _put_aside(context: RunContext, paused: Paused, state: TrainState, scores: str | None) -> Judged:
    """Keep a run's checkpoint. Only now that the base is known to be as it was: a run that changes it has failed."""
    with context.phases.phase("swapping"):
        kept = replace(paused.checkpoint, interim=interim(context, state, scores))
        context.resident.held.put(context.reporter.checkpoint, kept)
    return replace(paused.judged, seconds=context.phases.total())


def _go_on(
    context: RunContext, attachment: Attachment, engine: Engine, checkpoint: Checkpoint, validation: Validation
) -> TrainState:
    validation.recall(checkpoint.best)  # first: it leaves the best step's values in the parameters
    restore(checkpoint, engine.state(attachment.parameters))
    attachment.write()  # the weights of a new attempt are still the base's
    steps = optimizer_steps(context.training, len(context.resident.epoch))
    state = TrainState(steps, step=checkpoint.step, kept=checkpoint.step, loss=checkpoint.loss)
    if (kept := checkpoint.interim) is not None:
        state.unlogged, state.since = unlogged(kept), state.since - kept.since
    return state


@contextmanager
def checkpointing(model: Any, training: TrainingSpec) -> Iterator[None]:
    """Gradient checkpointing while this is open, where the run asks for it."""
    if not training.gradient_checkpointing:
        yield
        return
    # Reentrant checkpointing needs inputs that require gradients, which frozen embeddings do not give.
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    # transformers then makes the embeddings' output require gradients, permanently; only the reentrant kind needs it.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()


def _examples(resident: LoadedModel) -> dict[str, int]:
    """How many examples the task has to train on, and what became of those that are too long."""
    found = resident.fitted.get(resident.sweep.data.train_task, Fitted(resident.train))
    return {"train_examples": len(found.items), "cut_examples": found.cut, "dropped_examples": found.dropped}


def _size(resident: LoadedModel, trained: int) -> dict[str, Any]:
    total = resident.parameters
    return {
        "trained_parameters": trained,
        "density": trained / total,
        "trainable_percent": trainable_percent(trained, total),
    }


def _metadata(resident: LoadedModel, configuration: Configuration, seed: int) -> Mapping[str, str]:
    return {
        "base_hash": resident.base_hash,
        "base_settings": json.dumps(dict(resident.settings)),
        "base_model": resident.sweep.model.name,
        "configuration": configuration.model_dump_json(),
        "seed": str(seed),
    }
