"""Finished runs of a sweep on a tiny model that lies in a folder, and what each of them had trained when it saved."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.configuration import asked
from gallop_ray.spec.schema import Configuration, Sweep
from gallop_ray.training.context import NullReporter
from gallop_ray.training.resident import LoadedModel, load_base_model
from gallop_ray.training.run import execute, measure_base
from gallop_ray.training.save import save_model
from tests.training import tiny

METHODS: dict[str, dict[str, Any]] = {
    "gallop": {"density": 0.05, "selection_ratio": 0.5},
    "random": {"density": 0.02},
    "lora": {"rank": 2, "dropout": 0.1},
    "peft": {
        "tuner": "ia3",
        "options": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    },
    "full": {},
    "hybrid": {"parts": [{"type": "random", "density": 0.03}, {"type": "lora", "rank": 2}]},
}
IDS = torch.arange(1, 25).view(2, 12)


def save_base(folder: Path) -> None:
    """A tiny model with the pocket model's tokenizer; one of its weights is -0.0, which additions easily lose."""
    model, tokenizer = tiny.of_pocket_vocabulary(tie_word_embeddings=True)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[0, :] = -0.0
    save_model(model, folder)
    tokenizer.save_pretrained(folder)


GENERATED = {"root": "generated", "train": "second", "limits": {"train": 24, "validation": 5, "test": 5}}


def sweep(base: Path, dtype: str, data: dict[str, Any] = GENERATED, delta: str | None = None) -> Sweep:
    return Sweep.model_validate(
        {
            "name": dtype,
            "model": {"name": str(base), "dtype": dtype, "delta": delta},
            "data": data,
            "methods": [{"type": "gallop"}],
            "training": {"steps": 4, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 1e-2, "max_length": 32},
            "evaluation": {"batch_size": 5, "generate": False},
        }
    )


def logits(model: Any) -> Tensor:
    """What the model says to some fixed tokens, float32 (2, 12, vocabulary)."""
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


class Witness(NullReporter):
    """Sees the model as it is saved: after training and measuring, before it is the base again."""

    def __init__(self, adapter: Path, model: nn.Module) -> None:
        super().__init__(adapter)
        self.model = model

    def event(self, event: str, **fields: Any) -> None:
        if fields.get("phase") == "saving":
            ours = {n: w for n, w in tiny.whole_weights(self.model).items() if not n.endswith(".values")}
            save_file({**ours, "logits": logits(self.model)}, self.adapter.with_name("seen.safetensors"))


def train(
    base: Path,
    output: Path,
    dtype: str,
    methods: dict[str, dict[str, Any]] = METHODS,
    data: dict[str, Any] = GENERATED,
    delta: str | None = None,
) -> None:
    """On a rank: one finished run of each method, with what it had trained in seen.safetensors beside its adapter."""
    resident = load_base_model(sweep(base, dtype, data, delta))
    folder = SweepFolder(output / dtype)
    folder.create(resident.sweep.model_dump(mode="json"))
    base = measure_base(resident)
    base_accuracies = base.accuracies
    folder.write_base(base_accuracies, base.correct, base.outputs, base.text_loss, base.chance, base.predictions)
    for method, options in methods.items():
        asked_for = {"method": {"type": method, **options}, "training": resident.sweep.training.model_dump()}
        _run(resident, Configuration.model_validate(asked_for), folder, base_accuracies)


def _run(resident: LoadedModel, configuration: Configuration, folder: SweepFolder, base: Any) -> None:
    place = folder.configuration(f"{configuration.method.name}-1")
    place.create(configuration.model_dump(mode="json"))
    run = place.run(0)
    run.start({"configuration": configuration.model_dump(mode="json"), **asked(configuration, 0)}, "slot-0")
    result = execute(resident, configuration, 0, base, Witness(run.adapter, resident.model))
    run.write_predictions(result.pop("predictions"), folder.base_predictions)
    for document in ("mask", "correct", "outputs"):
        run.write(document, result.pop(document))
    run.finish({"configuration": place.key, "status": "finished", "reason": None, **result})


@dataclass(frozen=True)
class Trained:
    """Where the tiny base model and the runs on it are."""

    base: Path
    output: Path

    def run(self, method: str, dtype: str = "float32") -> RunFolder:
        return SweepFolder(self.output / dtype).run(f"{method}-1", 0)

    def load(self, dtype: str = "float32", folder: Path | None = None) -> Any:
        return LlamaForCausalLM.from_pretrained(folder or self.base, dtype=getattr(torch, dtype)).eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """All parameters by name, of a copy."""
    return tiny.whole_weights(copy.deepcopy(model))
