"""Steps of Llama-3-8B's shape on one GPU: ours against PEFT's adapters and full fine-tuning, one after another.

All share one model with random weights, and the same loss. Unlike those of `step` they cannot stay alive side by side:
each would need the model for itself. On a CPU, and with --quick, the pocket model's shape shows that it runs.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import torch.distributed as dist

from benchmarks.kernel import seconds_of
from benchmarks.models import RATE, TARGETS, Setting, device, number_type
from benchmarks.ours import resident
from gallop_ray.methods.gallop import Gallop
from gallop_ray.sparse.base_state import Structure
from gallop_ray.sparse.budget import entries_to_choose, everything
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.mask import Mask, choose_mask
from gallop_ray.sparse.memory import free_memory, is_out_of_memory
from gallop_ray.sparse.scoring import score_owned
from gallop_ray.spec.mask_methods import GallopSpec
from gallop_ray.training.context import NullReporter, Phases
from gallop_ray.training.engine import Engine
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.run import checkpointing

DENSITIES = (0.01, 0.0025, 0.001)
RANK = 16
Step = tuple[Callable[[], object], int]
"""What an arm repeats, and how many parameters it trains."""


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each arm, without and with gradient checkpointing, then the milliseconds between runs."""
    small = quick or not torch.cuda.is_available()
    shared = Setting("pocket", False, number_type(), 2, 16) if small else _LLAMA
    with _process_group():
        held, speed = resident(shared), _product_speed(256 if small else 8192)
        for checkpointed in (False, True):
            for name, arm in _arms(held).items():
                label = {**shared.label, "arm": name, "checkpointing": checkpointed}
                yield _said(label | _measured(arm, held, checkpointed, speed, rounds=2 if small else 5))
        yield _said({**shared.label, "arm": "between runs", **_between_runs(held)})


_LLAMA = Setting("meta-llama/Meta-Llama-3-8B", False, "bfloat16", 4, 1024)


def _arms(held: LoadedModel) -> dict[str, Callable[[], AbstractContextManager[Step]]]:
    arms: dict[str, Callable[[], AbstractContextManager[Step]]] = {
        f"density {density}": partial(_sparse, held, density) for density in DENSITIES
    }
    of_rank: dict[str, Any] = {"r": RANK, "target_modules": list(TARGETS)}
    arms |= {
        f"LoRA r{RANK}": partial(_tuner, held, peft.LoraConfig(**of_rank)),
        f"DoRA r{RANK}": partial(_tuner, held, peft.LoraConfig(**of_rank, use_dora=True)),
        f"SHiRA r{RANK}": partial(_tuner, held, peft.ShiraConfig(**of_rank)),
    }
    return arms | {"full": partial(_full, held)}


def _measured(
    arm: Callable[[], AbstractContextManager[Step]], held: LoadedModel, checkpointed: bool, speed: float, rounds: int
) -> dict[str, Any]:
    training = held.sweep.training.model_copy(update={"gradient_checkpointing": checkpointed})
    try:
        with checkpointing(held.model, training), arm() as (step, trained):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            seconds = seconds_of(step, rounds, warm_up=2)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return {"skipped": "out of memory"}
    finally:
        free_memory()
    tokens = sum(len(one.input_ids) for one in held.train)
    # Forward and dX; of full fine-tuning dW, too. Attention and what checkpointing computes twice are not counted.
    flops = (6 if trained == held.parameters else 4) * _in_products(held) * tokens
    return {
        "seconds": seconds,
        "trained": trained,
        "tokens_per_second": round(tokens / seconds),
        "utilisation": round(flops / seconds / speed, 3),
        "bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    }


@contextmanager
def _sparse(held: LoadedModel, density: float) -> Iterator[Step]:
    """A random mask's delta under the shipped DeepSpeed configuration."""
    delta = _delta(held, density)
    chosen = sum(p.numel() for p in delta.parameters)
    optimizer = torch.optim.AdamW(delta.parameters, lr=RATE, weight_decay=0.0)
    engine = Engine(delta.module, held.config(held.sweep.training, chosen), optimizer)
    engine.module.train()

    def step() -> None:
        engine.backward(held.losses(engine, held.train).mean())
        engine.step(RATE)
        delta.write()

    try:
        yield step, chosen
    finally:
        engine.close()
        delta.detach()


def _delta(held: LoadedModel, density: float) -> SparseDelta:
    """Entries drawn on the device: of billions of entries a CPU would take minutes. A few are drawn twice."""
    candidates, mask = find_candidates(held.model, TARGETS), dict[str, torch.Tensor]()
    share = entries_to_choose(density, candidates, held.parameters) / sum(c.numel for c in candidates)
    for c in candidates:
        drawn = torch.randint(c.numel, (max(1, round(share * c.numel)),), device=device())
        mask[c.name] = drawn.unique().to(torch.int32)
    return SparseDelta(held.model, candidates, Mask(mask))


@contextmanager
def _tuner(held: LoadedModel, config: peft.PeftConfig) -> Iterator[Step]:
    """PEFT's tuner as it comes, with float32 parameters and plain AdamW."""
    model: Any = held.model
    before = Structure(model)
    try:
        yield _plain(held, peft.get_peft_model(model, config))
    finally:
        before.restore()


@contextmanager
def _full(held: LoadedModel) -> Iterator[Step]:
    """Every parameter in the model's dtype, with plain AdamW; the weights are others afterwards."""
    try:
        yield _plain(held, held.model.requires_grad_(True))
    finally:
        held.model.requires_grad_(False)
        held.model.zero_grad()


def _plain(held: LoadedModel, model: Any) -> Step:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    model.train()

    def step() -> None:
        held.losses(model, held.train).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, sum(p.numel() for p in parameters)


def _between_runs(held: LoadedModel) -> dict[str, Any]:
    """Seconds of a scoring pass over the tokens, of GaLLoP's mask from it, and of a swap at density 1 %."""
    candidates = find_candidates(held.model, TARGETS)
    owned, phases = OwnedGradients(candidates), Phases(NullReporter(Path()))

    def score() -> None:
        with owned.capture():
            accumulate(held, held.train, held.sweep.training, phases, owned)

    scoring = seconds_of(score, rounds=1, warm_up=1)
    k = entries_to_choose(0.01, candidates, held.parameters)

    def choose() -> None:
        choose_mask(candidates, score_owned(owned, Gallop(GallopSpec()), seed=0), [everything(candidates, k)])

    choosing = seconds_of(choose, rounds=1, warm_up=0)  # it uses up the sums
    free_memory()
    delta = _delta(held, 0.01)

    def swap() -> None:
        with delta.base_in_place():
            pass

    swapping = seconds_of(swap) / 2  # it puts the base's entries into place, and then the others
    delta.detach()
    return {"scoring": scoring, "choosing": choosing, "swapping": swapping}


def _in_products(held: LoadedModel) -> int:
    """Parameters that a token is multiplied with: all but the embeddings, the head included."""
    model: Any = held.model
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return held.parameters - (0 if head is embedding else int(embedding.numel()))


def _product_speed(side: int) -> float:
    """FLOP per second of a square product in the dtype of the setting."""
    a, b = (torch.randn(side, side, device=device(), dtype=getattr(torch, number_type())) for _ in range(2))
    return float(2 * side**3 / seconds_of(lambda: a @ b))


@contextmanager
def _process_group() -> Iterator[None]:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _said(row: dict[str, Any]) -> dict[str, Any]:
    print(row, flush=True)
    return row
