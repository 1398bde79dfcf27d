"""What a worker keeps between runs: the base model, the tokenizer, and the task data as tokens."""

import gc
import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from gallop_ray.records.identity import SETTINGS
from gallop_ray.sparse.base_settings import Settings, base_settings
from gallop_ray.sparse.base_state import BaseState, base_hash
from gallop_ray.sparse.fisher import OwnedFisher
from gallop_ray.sparse.weights import full_shape, world_size
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.chat import fix_time
from gallop_ray.tasks.encode import Encoded, answer_loss, answer_positions, collate, encode, encode_prompt, on_device
from gallop_ray.tasks.examples import SPLITS, Example, TaskData
from gallop_ray.tasks.fisher import encoded_fisher
from gallop_ray.tasks.lengths import Fitted, fitted
from gallop_ray.tasks.load import load_tasks
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.packing import Packed, packed_losses
from gallop_ray.tasks.replay import encoded_replay
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.tasks.text import load_text, load_validation_text
from gallop_ray.training.engine import (
    Engine,
    deepspeed_config,
    init_distributed,
    quiet,
    refuse_extra,
    split_over_ranks,
    zero_stage,
)
from gallop_ray.training.held import Held, held_bytes
from gallop_ray.training.model_checks import embeddings, position_limit, refuse_positions, refuse_unknown_tokens
from gallop_ray.training.models import load_model
from gallop_ray.training.packing_check import packs, refuse_packing


@dataclass(frozen=True)
class LoadedModel:
    """A base model that serves one run after another, and everything else that the runs of a sweep share."""

    sweep: Sweep
    model: nn.Module
    tokenizer: Any
    base_hash: str
    parameters: int
    """N, all parameters of the base model."""
    tasks: dict[str, TaskData]
    train: list[Encoded]
    """Of the task trained on; empty where a run has rounds, see `rounds`."""
    trains: Mapping[str, list[Encoded]] = field(default_factory=dict)
    """Of each task to train on."""
    replayed: list[Encoded] = field(default_factory=list)
    """Of the task that is mixed in, for the task trained on that has most."""
    fisher_examples: list[Encoded] = field(default_factory=list)
    """Of the task that `training.ewc` keeps."""
    fisher: dict[tuple[str, ...], OwnedFisher] = field(default_factory=dict)
    """By names of weights, their Fisher information on these; filled on first use."""
    fitted: Mapping[str, Fitted] = field(default_factory=dict)
    """Of each task to train on, how many examples were too long."""
    text: list[Encoded] = field(default_factory=list)
    """General text whose loss is reported."""
    validation_text: list[Encoded] = field(default_factory=list)
    """Other general text, where the objective goes by its loss."""
    magnitudes: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    """By names of candidates, the magnitudes of their weights as exponent_counts; filled on first use."""
    of_base: dict[str, Any] = field(default_factory=dict)
    """What this worker has measured of the base model, by the task trained on, to which some measures refer."""
    scores: Path | None = None
    """The folder of the score store; None for no store."""
    at_rest: BaseState | None = None
    """The state of the base model between runs."""
    settings: Settings = field(default_factory=dict)
    """What the base model computes with besides its weights."""
    held: Held = field(default_factory=lambda: Held(0))
    """Paused runs in memory."""
    load: Callable[[], nn.Module] | None = None
    """Loads the base model again, complete and on the CPU, to restore what a run has changed."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the base weights."""
        return next(self.model.parameters()).dtype

    @cached_property
    def epoch(self) -> list[Encoded]:
        """What a run is trained on, in the order of the data: the task's own examples, and those that are mixed in."""
        mixed_in = self.sweep.data.epoch(len(self.train)) - len(self.train)
        return [*self.train, *self.replayed[:mixed_in]]

    @cached_property
    def train_hash(self) -> str:
        """sha256 over the tokens and labels of the training examples."""
        digest = hashlib.sha256()
        for example in self.train:
            digest.update(array("q", [len(example.input_ids), *example.input_ids, *example.labels]).tobytes())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Hashes of what results depend on but the sweep only names: weights, examples, text, and their tokens."""
        examples = {
            name: {split: _hash_of(map(repr, map(_content, getattr(task, split)))) for split in SPLITS}
            for name, task in self.tasks.items()
        }
        beside = {"data.replay": self.replayed, "data.fisher": self.fisher_examples}
        read = {**self.trains, **{name: examples for name, examples in beside.items() if examples}}
        tokens = {name: _hash_of(str(one.input_ids) for one in encoded) for name, encoded in read.items()}
        text = _hash_of(str(one.input_ids) for one in (*self.text, *self.validation_text))
        judged = {name: task.harness.identity for name, task in self.tasks.items() if task.harness is not None}
        return {
            "base model": self.base_hash,
            SETTINGS: dict(self.settings),
            "examples of": examples,
            "tokens of": tokens,
            "general text": text,
            **({"lm-evaluation-harness": judged} if judged else {}),
        }

    @cached_property
    def rounds(self) -> dict[str, "LoadedModel"]:
        """By task to train on, a copy whose sweep trains on that task alone; everything large is shared."""
        if isinstance(self.sweep.data.train, str):
            return {self.sweep.data.train: self}
        sweeps = [self.sweep.model_copy(update={"data": data}) for data in self.sweep.data.rounds]
        tasks = self.sweep.data.train
        return {t: replace(self, sweep=s, train=self.trains[t]) for t, s in zip(tasks, sweeps, strict=True)}

    @property
    def device(self) -> torch.device:
        """Where the forward passes run."""
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def stage(self) -> int:
        """The ZeRO stage that is used."""
        return zero_stage(self.sweep.deepspeed, self.dtype)

    def config(self, training: TrainingSpec, trained: int = 0, micro_steps: int | None = None) -> dict[str, Any]:
        """The DeepSpeed configuration of a run that trains `trained` parameters."""
        return deepspeed_config(self.sweep.deepspeed, training, self.dtype, world_size(), trained, micro_steps)

    def evaluation(self) -> EvaluationSettings:
        """How accuracy is measured in this sweep."""
        return EvaluationSettings(
            prompt=self.sweep.data.prompt,
            max_length=self.sweep.training.max_length,
            batch_size=self.sweep.evaluation.batch_size,
            max_new_tokens=self.sweep.evaluation.new_tokens(),
            max_reasoning_tokens=self.sweep.evaluation.new_tokens(reasoning=True),
        )

    def shown(self, task: TaskData) -> Sequence[Example]:
        """The test examples whose prompts and answers a run keeps."""
        return task.test[: self.sweep.retention.predictions]

    def losses(self, forward: Callable[..., Any], examples: Sequence[Encoded]) -> Tensor:
        """Each example's mean answer loss (examples,), by one forward pass; of examples that are packed, in rows."""
        if isinstance(examples, Packed):
            return packed_losses(forward, examples, self.tokenizer.pad_token_id, self.device)
        batch = collate(examples, self.tokenizer.pad_token_id)
        labels = batch.pop("labels")
        # Logits are the largest activation, and few tokens are answers: compute them only there.
        positions = answer_positions(labels)
        inputs = {name: on_device(tensor, self.device) for name, tensor in batch.items()}
        logits = forward(**inputs, use_cache=False, logits_to_keep=on_device(positions, self.device)).logits
        return answer_loss(logits, labels, positions)

    @contextmanager
    def usable(self, module: nn.Module, training: TrainingSpec) -> Iterator[None]:
        """Context manager: `module` runs forward and backward without an optimizer.

        Only ZeRO-3 needs an engine for that, to fetch each layer's weights when they are needed.
        """
        if self.stage < 3:
            yield
            return
        engine = Engine(module, self.config(training), optimizer=None)
        try:
            yield
        finally:
            engine.close()


_FIRST = ("instruction", "input", "options", "keys", "label", "number")


def _content(example: Example) -> tuple[Any, ...]:
    """All fields of an example but its place in its file; later ones only where they are set, as in old records."""
    values = {
        each.name: (getattr(example, each.name), each.default) for each in fields(example) if each.name != "place"
    }
    later = ((name, value) for name, (value, default) in values.items() if name not in _FIRST and value != default)
    return (*(values[name][0] for name in _FIRST), *later)


def _hash_of(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()


def load_base_model(
    sweep: Sweep, load: Callable[..., tuple[Any, Any]] = load_model, moment: datetime | None = None
) -> LoadedModel:
    """Load the base model and the data of a sweep, and split the model over the ranks under ZeRO-3.

    moment: the present time for chat templates; None for the actual one. Raises ValueError for a model that cannot be
    loaded or trusted, and for data that does not fit it.
    """
    quiet()
    init_distributed()
    refuse_extra(sweep.deepspeed, sweep.training, getattr(torch, sweep.model.dtype), world_size())
    model, tokenizer = load(sweep.model)
    refuse_positions(model, sweep)
    if packs(sweep):
        refuse_packing(model)
    if moment is not None:
        fix_time(tokenizer, moment)
    model.requires_grad_(False)
    model.config.use_cache = False
    identity = base_hash(model)  # before ZeRO-3 splits the weights
    tasks = load_tasks(sweep)
    data = sweep.data
    fit = {task: fitted(sweep, tasks[task], tokenizer) for task in data.train_tasks}
    trains = {task: each.items for task, each in fit.items()}
    resident = LoadedModel(
        sweep=sweep,
        model=model,
        tokenizer=tokenizer,
        base_hash=identity,
        settings=base_settings(model),
        parameters=sum(full_shape(p).numel() for p in model.parameters()),
        tasks=tasks,
        train=trains[data.train] if isinstance(data.train, str) else [],
        trains=trains,
        replayed=encoded_replay(sweep, max(map(len, trains.values())), tokenizer),
        fisher_examples=encoded_fisher(sweep, tokenizer),
        fitted=fit,
        text=load_text(sweep, tokenizer),
        validation_text=load_validation_text(sweep, tokenizer),
        held=Held(held_bytes(sweep)),
        load=lambda: cast(nn.Module, load(sweep.model)[0]),
    )
    _refuse_unfit(resident)  # before the split: it reads the shape of the embeddings
    if resident.stage == 3:
        split_over_ranks(model, resident.config(sweep.training))
    else:
        model.to(resident.device)
    # Each run ends with a full garbage collection, which would else walk packages, model and data every time.
    gc.unfreeze()  # what an earlier model of this process has left frozen
    gc.collect()
    gc.freeze()
    return replace(resident, at_rest=BaseState(model))


def _refuse_unfit(resident: LoadedModel) -> None:
    """Raises ValueError where some text has a token, or a position, without an embedding in the model."""
    sweep, model = resident.sweep, resident.model
    prompt, length = sweep.data.prompt, sweep.training.max_length
    rows, limit = embeddings(model), position_limit(model)
    texts = (one.input_ids for one in (*resident.text, *resident.validation_text))
    refuse_unknown_tokens(rows, "evaluation.text", texts)
    refuse_unknown_tokens(rows, "data.replay", (one.input_ids for one in resident.replayed))
    refuse_unknown_tokens(rows, "data.fisher", (one.input_ids for one in resident.fisher_examples))
    for name, task in resident.tasks.items():
        measured = [one for split in task.prompted[1:] for one in split]
        prompts = [encode_prompt(one, resident.tokenizer, prompt, length) for one in measured if one.kind != "plain"]
        trained = [one.input_ids for one in resident.trains.get(name, ())]
        how = measuring(sweep, name, task.test)
        losses = any(each.by == "loss" for each in how.of(test=True))
        lost = [encode(one, resident.tokenizer, prompt, length, how.learn).input_ids for one in measured if losses]
        refuse_unknown_tokens(rows, f"task {name}", [*prompts, *trained, *lost])
        new = how.new_tokens(resident.evaluation())
        longest = max(map(len, prompts), default=0)
        if limit is not None and new and longest + new > limit:
            raise ValueError(
                f"task {name} has prompts of up to {longest} tokens, and {new} more are generated, but the model has "
                f"{limit} positions; lower training.max_length or evaluation.max_new_tokens"
            )
