"""`python -m benchmarks.plain_script FOLDER`: one configuration after another with the HF Trainer and PEFT.

GaLLoP is PEFT's SHiRA with a mask of its own: as many entries, chosen by the same score, but matrix by matrix, because
a SHiRA layer holds r (in + out) of them.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from transformers import Trainer, TrainingArguments

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.mask_methods import GallopSpec
from gallop_ray.spec.method import LoraRank
from gallop_ray.spec.other_methods import LoraSpec
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.spec.training import TrainingSpec
from gallop_ray.tasks.choices import by_likelihood
from gallop_ray.tasks.encode import Encoded, collate, encode
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.context import Phases
from gallop_ray.training.models import load_model


def main(folder: SweepFolder) -> None:
    """Measure the base model, then run every configuration of the folder with the first seed."""
    sweep = Sweep.model_validate(folder.spec())
    model, tokenizer = _load(sweep)
    _measure(sweep, model, tokenizer, sweep.training)
    for asked in folder.configurations():
        _run(sweep, Configuration.model_validate(asked.configuration().sections()), asked.run(sweep.seeds[0]))


def _run(sweep: Sweep, configuration: Configuration, record: RunFolder) -> None:
    record.start({}, "script")
    phases, training = Phases(record), configuration.training
    model, tokenizer = _load(sweep)
    data = load_task(sweep.data.train_task, sweep.data)
    train = [encode(example, tokenizer, sweep.data.prompt, training.max_length) for example in data.train]
    collator = partial(collate, pad_id=tokenizer.pad_token_id)
    if isinstance(configuration.method, GallopSpec):
        config: peft.PeftConfig = _scored_mask(model, configuration.method, train, training, collator, phases)
    else:
        assert isinstance(configuration.method, LoraSpec)
        config = _lora(configuration.method)
    adapted: Any = peft.get_peft_model(model, config)
    model.zero_grad()
    trainer = Trainer(
        adapted,
        _arguments(training, record),
        train_dataset=train,
        data_collator=collator,
    )
    phases.first_forward()
    with phases.phase("training"):
        trainer.train()
    with phases.phase("evaluating"):
        _measure(sweep, adapted, tokenizer, training)
    with phases.phase("saving"):
        adapted.save_pretrained(record.path / "adapter")
    record.finish({"status": "finished", **phases.record()})


def _load(sweep: Sweep) -> tuple[Any, Any]:
    model, tokenizer = load_model(sweep.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, tokenizer


def _measure(sweep: Sweep, model: Any, tokenizer: Any, training: TrainingSpec) -> None:
    settings = EvaluationSettings(sweep.data.prompt, training.max_length, sweep.evaluation.batch_size)
    data = load_task(sweep.data.train_task, sweep.data)
    for examples in (data.validation, data.test):
        by_likelihood(model, tokenizer, examples, settings)


def _lora(method: LoraSpec) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=method.rank, lora_alpha=method.chosen_alpha, lora_dropout=method.dropout, target_modules="all-linear"
    )


def _scored_mask(
    model: Any, method: GallopSpec, train: list[Encoded], training: TrainingSpec, collator: Any, phases: Phases
) -> peft.ShiraConfig:
    """SHiRA on the entries with the largest |g| / (|w| + eps), g being the gradient over a share of the examples."""
    phases.first_forward()
    size = training.micro_batch_size
    with phases.phase("scoring"):
        share = train[: max(1, round(method.selection_ratio * len(train)))]
        for first in range(0, len(share), size):
            batch = {key: value.to(model.device) for key, value in collator(share[first : first + size]).items()}
            model(**batch).loss.backward()

    def mask(layer: Any, r: int, **_: Any) -> torch.Tensor:
        weight = layer.weight
        score = weight.grad.abs() / (weight.abs() + method.eps)
        chosen = score.flatten().topk(r * sum(weight.shape)).indices
        return torch.zeros_like(weight).flatten().scatter_(0, chosen, 1).view_as(weight)

    assert isinstance(method.density, LoraRank)
    kind: Any = "scored"
    config = peft.ShiraConfig(r=method.density.lora_rank, mask_type=kind, target_modules="all-linear")
    config.mask_fn = mask  # type: ignore[assignment]
    return config


def _arguments(training: TrainingSpec, record: RunFolder) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(record.path),
        max_steps=training.steps or -1,
        per_device_train_batch_size=training.micro_batch_size,
        gradient_accumulation_steps=training.batch_size // training.micro_batch_size,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.clip_norm or 0.0,
        save_strategy="no",
        seed=record.seed,
    )


if __name__ == "__main__":
    main(SweepFolder(Path(sys.argv[1])))
