"""A step on examples of mixed lengths: packed into rows, against padded to the longest of each micro-batch."""

import math
import random
from dataclasses import replace
from typing import Any

import torch

from benchmarks.arms import Work, take_turns, training_arm
from benchmarks.models import RATE, TARGETS, Setting, setting
from benchmarks.ours import random_mask, resident
from benchmarks.report import row
from gallop_ray.sparse.budget import entries_to_choose
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.tasks.encode import IGNORED, Encoded
from gallop_ray.training.batches import micro_batches, micro_steps
from gallop_ray.training.engine import Engine

DENSITY = 0.01
MEDIAN, SPREADS = 90, (0.8, 1.2)  # tokens, and standard deviations of their logarithm: the larger, the more padding
MICRO_BATCH = 8


def measure(quick: bool) -> list[dict[str, Any]]:
    """A row for each mix of lengths; its time ratio is the inverse of that of tokens per second."""
    shared = setting(quick)
    shared = replace(shared, sequences=8, length=64) if quick else replace(shared, sequences=32, length=512)
    return [_row(shared, spread, quick) for spread in SPREADS]


def _row(shared: Setting, spread: float, quick: bool) -> dict[str, Any]:
    arms = {name: training_arm(mixed, shared, spread, name == "packed") for name in ("packed", "padded")}
    found = take_turns(arms, quick)
    speed = {f"{name}_tokens_per_second": round(each.counts["tokens"] / each.seconds) for name, each in found.items()}
    label = {**shared.label, "tokens": f"{shared.sequences} of up to {shared.length}, spread {spread}", **speed}
    return row(found["packed"], "padding", found["padded"], **label)


def mixed(shared: Setting, spread: float, packing: bool) -> Work:
    """One optimizer step over examples of mixed lengths, the last third of each to be learnt."""
    sizes = {"micro_batch_size": MICRO_BATCH, "packing": packing}
    held = resident(shared, **sizes)
    model: Any = held.model  # any class of transformers'
    training, batch = held.sweep.training, examples(shared, spread, model.config.vocab_size)
    steps = micro_steps(batch, training, 0, 1)
    candidates = find_candidates(held.model, TARGETS)
    mask = random_mask(candidates, entries_to_choose(DENSITY, candidates, held.parameters))
    delta = SparseDelta(held.model, candidates, mask)
    optimizer = torch.optim.AdamW(delta.parameters, lr=RATE, weight_decay=0.0)
    engine = Engine(delta.module, held.config(training, mask.chosen, steps), optimizer)
    engine.module.train()

    def run() -> dict[str, int]:
        for part in micro_batches(batch, training, steps):
            engine.backward(held.losses(engine, part).mean() * (len(part) * steps / len(batch)))
            engine.step(RATE)
        delta.write()
        return {"tokens": sum(len(one.input_ids) for one in batch)}

    return Work(run)


def examples(shared: Setting, spread: float, vocabulary: int) -> list[Encoded]:
    """Random tokens in random lengths, the same for both."""
    draw, made = random.Random(0), []
    for _ in range(shared.sequences):
        length = min(shared.length, max(8, round(draw.lognormvariate(math.log(MEDIAN), spread) * shared.length / 512)))
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        begin = 2 * length // 3
        made.append(Encoded(ids, [IGNORED] * begin + ids[begin:]))
    return made
