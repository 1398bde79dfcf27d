"""Ours, as shipped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.arms import Work
from benchmarks.models import RATE, TARGETS, Setting, base_model, examples
from gallop_ray.methods.random import Random
from gallop_ray.sparse.budget import entries_to_choose, everything
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Mask, choose_mask
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.spec.mask_methods import RandomSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.training.context import NullReporter, Phases
from gallop_ray.training.engine import Engine, init_distributed, quiet
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.resident import LoadedModel


def sparse(shared: Setting, density: float) -> Work:
    """A random mask's delta under the shipped DeepSpeed configuration."""
    held = resident(shared)
    candidates = find_candidates(held.model, TARGETS)
    mask = random_mask(candidates, entries_to_choose(density, candidates, held.parameters))
    delta = SparseDelta(held.model, candidates, mask)
    optimizer = torch.optim.AdamW(delta.parameters, lr=RATE, weight_decay=0.0)
    engine = Engine(delta.module, held.config(held.sweep.training, mask.chosen), optimizer)
    engine.module.train()

    def run() -> dict[str, int]:
        engine.backward(held.losses(engine, held.train).mean())
        engine.step(RATE)
        delta.write()
        return {"trained": mask.chosen}

    return Work(run)


def random_mask(candidates: list[Candidate], k: int) -> Mask:
    """k entries drawn at random."""
    return choose_mask(
        candidates, score_owned(OwnedGradients(candidates), Random(RandomSpec()), seed=0), [everything(candidates, k)]
    )


def scoring(shared: Setting) -> Work:
    """The scoring pass over the tokens, the gradient sums staying with their owner."""
    held = resident(shared)
    owned = OwnedGradients(find_candidates(held.model, TARGETS))
    phases = Phases(NullReporter(Path()))

    def run() -> dict[str, int]:
        with owned.capture_gradients():
            accumulate(held, held.train, held.sweep.training, phases)
        return {"scored": sum(c.numel for c in owned.candidates)}

    return Work(run)


def resident(shared: Setting, **training: Any) -> LoadedModel:
    """The base model and the tokens as a slot's worker holds them, under a sweep of defaults but for `training`."""
    quiet()
    init_distributed()
    model = base_model(shared)
    size = {"batch_size": shared.sequences, "micro_batch_size": shared.sequences}
    sweep = Sweep.model_validate(
        {
            "name": "bench",
            "model": {"name": shared.model, "dtype": shared.dtype},
            "data": {"root": "generated", "train": "none"},
            "methods": [{"type": "random"}],
            "training": {"max_length": shared.length, **size, **training},
        }
    )
    return LoadedModel(
        sweep=sweep,
        model=model,
        tokenizer=SimpleNamespace(pad_token_id=0),
        base_hash="",
        parameters=sum(p.numel() for p in model.parameters()),
        tasks={},
        train=examples(shared, model.config.vocab_size),
    )
