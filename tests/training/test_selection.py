"""Gradients, scores and masks of a run equal slow single-process references, however the work is dealt out."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gallop_ray.methods.gallop import Gallop
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.gradients import OwnedGradients
from gallop_ray.sparse.weights import write_entries
from gallop_ray.spec.mask_methods import GallopSpec
from gallop_ray.tasks.encode import Encoded, answer_loss, collate
from gallop_ray.training.batches import batches
from gallop_ray.training.context import NullReporter, Phases
from gallop_ray.training.draw import permutation, share_of
from gallop_ray.training.gradient_pass import accumulate
from gallop_ray.training.resident import LoadedModel
from gallop_ray.training.run import checkpointing
from gallop_ray.training.selection import select
from tests.training import tiny

EXAMPLES = 7
MICRO_BATCHES = (1, 2, 5)
WORLDS = (1, 2, 3)


def reference_gradients(
    examples: Sequence[Encoded], dtype: torch.dtype, zeros: Sequence[int] = (), targets: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """One process, plain autograd, one example at a time, summed in the dtype or better: the mean's gradient."""
    model = tiny.model(dtype)
    matrices = {c.name: c.weight for c in find_candidates(model, targets)}
    for weight in matrices.values():
        weight.view(-1)[list(zeros)] = 0
        weight.requires_grad_(True)
    sums = {name: torch.zeros(w.shape, dtype=torch.promote_types(dtype, torch.float32)) for name, w in matrices.items()}
    for example in examples:
        batch = collate([example], 0)
        labels = batch.pop("labels")
        loss = answer_loss(model(**batch).logits, labels).mean()
        for name, gradient in zip(sums, torch.autograd.grad(loss, list(matrices.values())), strict=True):
            sums[name] += gradient / len(examples)
    return sums


def gradients(resident: LoadedModel, targets: Sequence[str] | None = None) -> dict[tuple[bool, int], dict[str, Tensor]]:
    """The mean gradients that this rank owns, by gradient checkpointing and size of the micro-batches."""
    owned, answers = OwnedGradients(find_candidates(resident.model, targets)), {}
    with owned.capture_gradients(), resident.usable(resident.model, resident.sweep.training):
        for recompute, size in itertools.product((False, True), MICRO_BATCHES):
            update = {"gradient_checkpointing": recompute, "micro_batch_size": size}
            training = resident.sweep.training.model_copy(update=update)
            with checkpointing(resident.model, training):
                accumulate(resident, resident.train[:EXAMPLES], training, Phases(NullReporter(Path())))
            answers[recompute, size] = {owned.candidates[i].name: owned.take(i) / EXAMPLES for i in owned.owned}
    return answers


def selection_examples(train: Sequence[Encoded], ratio: float, seed: int) -> list[Encoded]:
    """The seed's draw of a share of the examples."""
    return [train[i] for i in permutation(len(train), seed)[: share_of(len(train), ratio)]]


def gradients_at(
    stages: Sequence[int], dtype: str = "float32", targets: Sequence[str] | None = None
) -> dict[tuple[int, bool, int], dict[str, Tensor]]:
    found = {stage: gradients(tiny.resident(tiny.sweep(stage, dtype)), targets) for stage in stages}
    return {(stage, *setting): owned for stage, answers in found.items() for setting, owned in answers.items()}


def error(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest entry of its matrix."""
    assert got.keys() == expected.keys()
    assert all(g.dtype == torch.float32 for g in got.values())
    return max(float((got[n] - e).abs().max() / e.abs().max()) for n, e in expected.items())


@pytest.mark.parametrize(("world", "targets"), [*((world, None) for world in WORLDS), (2, tiny.EVERYWHERE)])
def test_gradients_equal_the_reference_however_they_are_dealt_out(
    ranks: Callable, world: int, targets: Sequence[str] | None
) -> None:
    expected = reference_gradients(tiny.examples()[:EXAMPLES], torch.float32, targets=targets)
    answers = ranks(world)(gradients_at, (0, 3), "float32", targets)
    assert len(answers[0]) == 12
    for setting in answers[0]:
        owned = [answer[setting] for answer in answers]
        assert sum(map(len, owned)) == len(expected), "each matrix has one owner"
        assert all(owned), "each rank owns some"
        assert error({n: g for one in owned for n, g in one.items()}, expected) < 1e-5, setting
    for answer, (stage, size) in itertools.product(answers, itertools.product((0, 3), MICRO_BATCHES)):
        assert tiny.same(answer[stage, False, size], answer[stage, True, size]), "recomputing repeats the bits"


def test_bfloat16_gradients_are_near_the_reference(ranks: Callable) -> None:
    expected = reference_gradients(tiny.examples()[:EXAMPLES], torch.bfloat16)
    answers = ranks(2)(gradients_at, (1, 3), "bfloat16")
    for setting in answers[0]:
        together = {n: g for answer in answers for n, g in answer[setting].items()}
        assert error(together, expected) < 0.03, setting


PLANTED = (0, 5, 17, 200, 511)
SEED = 11
RATIO = 0.5


@cache
def reference_scores(zero_guard: str) -> dict[str, np.ndarray]:
    """|g| / (|w| + eps) in float64; -inf where |w| <= eps and the guard excludes it."""
    spec = GallopSpec(zero_guard=zero_guard)
    examples = selection_examples(tiny.examples(), RATIO, SEED)
    slopes = reference_gradients(examples, torch.float64, PLANTED)
    weights = {c.name: c.weight.double().numpy().copy() for c in find_candidates(tiny.model())}
    scores = {}
    for name, weight in weights.items():
        weight.reshape(-1)[list(PLANTED)] = 0.0
        scores[name] = np.abs(slopes[name].numpy()) / (np.abs(weight) + spec.eps)
        if zero_guard == "exclude":
            scores[name][np.abs(weight) <= spec.eps] = -np.inf
    return scores


@cache
def reference_mask(zero_guard: str) -> tuple[int, dict[str, list[int]]]:
    """k, and the mask. k lies where the next score is clearly smaller, so that float32 rounding cannot change it."""
    scores = reference_scores(zero_guard)
    flat = np.concatenate([s.ravel() for s in scores.values()])
    order = np.argsort(-flat, kind="stable")
    ranked = flat[order]
    k = max(range(400, 800), key=lambda k: ranked[k - 1] / ranked[k])
    assert ranked[k - 1] / ranked[k] > 1.002
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[order[:k]] = True
    parts = np.split(chosen, np.cumsum([s.size for s in scores.values()])[:-1])
    found = {name: part.nonzero()[0].tolist() for name, part in zip(scores, parts, strict=True)}
    return k, {name: indices for name, indices in found.items() if indices}


def gallop_masks(stage: int, ks: dict[str, int]) -> dict[str, dict[str, list[int]]]:
    """On each rank: the mask of select() for each zero guard, on weights with planted zeros."""
    resident, masks = tiny.resident(tiny.sweep(stage)), {}
    candidates = find_candidates(resident.model)
    for candidate in candidates:
        write_entries(candidate.weight, torch.tensor(PLANTED), torch.zeros(len(PLANTED)))
    for zero_guard, k in ks.items():
        spec = GallopSpec(density=k / resident.parameters, selection_ratio=RATIO, zero_guard=zero_guard)
        context = tiny.context(resident, SEED)
        mask = select(context, candidates, Gallop(spec)).mask
        assert context.phases.seconds.keys() == {"scoring", "selecting"}
        masks[zero_guard] = {name: indices.tolist() for name, indices in mask.indices.items()}
    return masks


@pytest.mark.parametrize(("world", "stage"), [(1, 0), (2, 0), (3, 0), (1, 3), (2, 3)])
def test_gallops_mask_equals_brute_force(ranks: Callable, world: int, stage: int) -> None:
    references = {guard: reference_mask(guard) for guard in ("exclude", "none")}
    for masks in ranks(world)(gallop_masks, stage, {guard: k for guard, (k, _) in references.items()}):
        for guard, (_, expected) in references.items():
            assert masks[guard] == expected, guard


def test_the_zero_guard_decides_about_zeros() -> None:
    guarded, published = (reference_mask(guard)[1] for guard in ("exclude", "none"))
    assert not any(set(PLANTED) & set(indices) for indices in guarded.values())
    assert sum(len(set(PLANTED) & set(indices)) for indices in published.values()) == len(PLANTED) * len(
        reference_scores("none")
    )


def test_selection_examples_are_a_seeded_nested_draw() -> None:
    train = tiny.examples()

    def draw(ratio: float, seed: int) -> list[int]:
        return [train.index(one) for one in selection_examples(train, ratio, seed)]

    assert [len(draw(ratio, 0)) for ratio in (0.001, 0.1, 0.5, 1.0)] == [1, 2, 12, 24]
    assert sorted(draw(1.0, 0)) == list(range(24))
    for small, large in ((0.001, 0.1), (0.1, 0.5), (0.5, 1.0)):
        assert set(draw(small, 4)) < set(draw(large, 4))
    assert draw(0.5, 4) == draw(0.5, 4)
    assert len({tuple(sorted(draw(0.5, seed))) for seed in range(5)}) == 5


def test_the_draw_is_apart_from_the_order_of_the_batches() -> None:
    """Else a run of less than an epoch would score the very examples that it trains on."""
    for seed in range(5):
        drawn, trained = permutation(100, seed)[:20], next(batches(range(100), 20, seed))
        assert len(set(drawn) & set(trained)) < 15
