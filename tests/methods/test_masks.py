"""Each scored method's mask equals brute force from its formula, in float64."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call

from gallop_ray.methods import MatrixState, make_method
from gallop_ray.methods.lift import low_rank
from gallop_ray.methods.magnitude import smallness
from gallop_ray.sparse.candidates import find_candidates
from gallop_ray.sparse.scoring import generator_of
from gallop_ray.sparse.topk import EXCLUDED, largest
from gallop_ray.spec.mask_methods import LiftSpec
from gallop_ray.spec.registry import method_spec
from gallop_ray.training.batches import batches
from gallop_ray.training.selection import select
from tests.families import make_model
from tests.training import tiny
from tests.training.test_selection import reference_gradients, selection_examples

SEED, RATIO, DENSITY, BATCH = 11, 0.5, 0.03, 8
Matrices = dict[str, np.ndarray]


@cache
def weights() -> Matrices:
    return {c.name: c.weight.double().numpy() for c in find_candidates(tiny.model())}


@cache
def gradients(first_batch: bool = False) -> Matrices:
    first = next(batches(tiny.examples(), BATCH, SEED))
    examples = first if first_batch else selection_examples(tiny.examples(), RATIO, SEED)
    return {n: g.numpy() for n, g in reference_gradients(examples, torch.float64).items()}


@cache
def squares() -> Matrices:
    """The mean over the examples of each one's squared gradient."""
    found = [reference_gradients([e], torch.float64) for e in selection_examples(tiny.examples(), RATIO, SEED)]
    return {n: np.mean([g[n].numpy() ** 2 for g in found], axis=0) for n in weights()}


@cache
def inputs() -> Matrices:
    """The norm of each input (in,) over all tokens of the examples."""
    model = tiny.model(torch.float64)
    found = {n: np.zeros(w.shape[1]) for n, w in weights().items()}
    for c in find_candidates(model):

        def note(module: torch.nn.Module, args: Any, name: str = c.name) -> None:
            found[name] += (args[0][0].numpy() ** 2).sum(0)

        c.module.register_forward_pre_hook(note)
    for example in selection_examples(tiny.examples(), RATIO, SEED):
        model(input_ids=torch.tensor([example.input_ids]))
    return {n: np.sqrt(each) for n, each in found.items()}


@cache
def products() -> Matrices:
    """H g, of one loss over all examples at once and plain attention, in float64."""
    model = tiny.model(torch.float64)
    model.set_attn_implementation("eager")
    examples = selection_examples(tiny.examples(), RATIO, SEED)
    found = {f"{c.name}.weight": c.weight.detach() for c in find_candidates(model)}

    def mean_loss(*weights: torch.Tensor) -> torch.Tensor:
        losses, present = [], dict(zip(found, weights, strict=True))
        for example in examples:
            logits = functional_call(model, present, (torch.tensor([example.input_ids]),)).logits / 200
            losses.append(torch.nn.functional.cross_entropy(logits[0, :-1], torch.tensor(example.labels[1:])))
        return torch.stack(losses).mean()

    at = tuple(found.values())
    g = torch.autograd.functional.jacobian(mean_loss, at)
    h_g = torch.autograd.functional.hvp(mean_loss, at, g)[1]
    return {n.removesuffix(".weight"): h.numpy() for n, h in zip(found, h_g, strict=True)}


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean() + 1e-6).sqrt()  # the norms' own weights are 1


@cache
def flow() -> Matrices:
    """|w dR/d|w||, of a Llama written out for one position: no activation, no softmax, no rotation, only |w|."""
    model = tiny.model(torch.float64)
    w = {n: p.abs().requires_grad_() for n, p in model.named_parameters()}
    x = torch.ones(32, dtype=torch.float64)
    for i in (0, 1):
        of = {n.split(".")[-2]: p for n, p in w.items() if f"layers.{i}." in n}
        q, k, v = ((of[n] @ rms(x)).view(-1, 8) for n in ("q_proj", "k_proj", "v_proj"))
        pulls = (q.view(2, 2, 8) * k[:, None]).sum(-1, keepdim=True) / 8**0.5  # two heads share a key
        x = x + of["o_proj"] @ (pulls * v[:, None]).flatten()
        x = x + of["down_proj"] @ ((of["gate_proj"] @ rms(x)) * (of["up_proj"] @ rms(x)))
    (w["lm_head.weight"] @ rms(x)).sum().backward()
    return {n: np.abs(weights()[n] * w[f"{n}.weight"].grad.numpy()) for n in weights()}  # type: ignore[union-attr]


def both(formula: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[[], Matrices]:
    return lambda: {n: formula(w, gradients()[n]) for n, w in weights().items()}


def approximated() -> Matrices:
    scores = {}
    for name, w in weights().items():
        u, s, vh = np.linalg.svd(w, full_matrices=False)
        scores[name] = np.abs(u[:, :4] @ np.diag(s[:4]) @ vh[:4])
    return scores


def blocks(side: int) -> Callable[[], Matrices]:
    return lambda: {n: block_means(np.abs(g), side) for n, g in gradients().items()}


def block_means(matrix: np.ndarray, side: int) -> np.ndarray:
    rows, columns = matrix.shape
    means: np.ndarray = matrix.reshape(rows // side, side, columns // side, side).mean((1, 3))
    return means


def everything(k: int) -> list[tuple[list[str], int]]:
    return [(list(weights()), k)]


def total() -> int:
    return sum(p.numel() for p in tiny.model().parameters())


def of_density() -> int:
    return round(DENSITY * total())


def by_layer() -> list[tuple[list[str], int]]:
    """In proportion to the layers' sizes, which are equal here."""
    names = [[n for n in weights() if f"layers.{i}." in n] for i in (0, 1)]
    half = of_density() // 2
    return [(names[0], half), (names[1], of_density() - half)]


def like_lora(rank: int) -> list[tuple[list[str], int]]:
    return [([n], rank * sum(w.shape)) for n, w in weights().items()]


def sift() -> list[tuple[list[str], int]]:
    rate = of_density() / sum(w.size for w in weights().values())
    return [([n], int(rate * w.size) + 1) for n, w in weights().items()]


def ratios() -> Matrices:
    return both(lambda w, g: np.abs(g) / (np.abs(w) + 1e-8))()


def of_micro_batch() -> Matrices:
    first = next(batches(tiny.examples(), BATCH, SEED))[:2]
    return {n: g.abs().numpy() for n, g in reference_gradients(first, torch.float64).items()}


def by_entropy(weight_of: Callable[[float, float], float]) -> Callable[[], list[tuple[list[str], int]]]:
    """Seat after seat to the matrix with the largest quotient, as a parliament is elected after Sainte-Lague."""

    def seats() -> list[tuple[list[str], int]]:
        weights_of, given = {}, dict.fromkeys(weights(), 0)
        for name, r in ratios().items():
            p = r / r.sum()
            weights_of[name] = weight_of(float(np.sqrt((r**2).sum())), float(-(p * np.log(p + 1e-8)).sum()))
        for _ in range(of_density()):
            given[max(given, key=lambda n: weights_of[n] / (2 * given[n] + 1))] += 1
        fair = {n: of_density() * w / sum(weights_of.values()) for n, w in weights_of.items()}
        assert all(abs(given[n] - share) < 1 for n, share in fair.items()), "in proportion, up to rounding"
        return [([n], k) for n, k in given.items()]

    return seats


def in_rows(scores: Callable[[], Matrices]) -> Callable[[], Matrices]:
    """First the largest entry of each row, then the second largest of each, ...; of those of a rank the largest."""

    def ordered() -> Matrices:
        found = {}
        for name, values in scores().items():
            larger = (values[:, None, :] > values[:, :, None]).sum(-1)
            found[name] = values / values.max() / 2 - larger
        return found

    return ordered


def by_matrix() -> list[tuple[list[str], int]]:
    """In proportion to the matrices' sizes."""
    sizes = [w.size for w in weights().values()]
    ends = [0, *(of_density() * sum(sizes[: i + 1]) // sum(sizes) for i in range(len(sizes)))]
    return [([n], ends[i + 1] - ends[i]) for i, n in enumerate(weights())]


DOWN = [n for n in weights() if n.endswith("down_proj")]


@pytest.mark.parametrize(
    ("family", "named"),
    [("gpt2", "c_proj"), ("gpt_oss", r"experts\.down_proj\.0"), ("mixtral", None), ("llama", None)],
)
def test_s2ft_takes_no_outputs_for_inputs(family: str, named: str | None) -> None:
    targets = ["mlp.c_proj"] if family == "gpt2" else ["down_proj"]
    candidates = find_candidates(make_model(family), targets)
    method: Any = make_method(method_spec("s2ft").model_validate({"type": "s2ft", "density": 0.02}))
    if named is None:
        assert method.quotas(candidates, 100_000)
        return
    with pytest.raises(ValueError, match=rf"{named} are not its inputs: it is stored \(in, out\)"):
        method.quotas(candidates, 100_000)


def columns() -> Matrices:
    return {n: torch.rand(weights()[n].shape[1], generator=generator_of(SEED, n)).double().numpy() for n in DOWN}


def channels() -> list[tuple[list[str], int]]:
    return [([n], round(of_density() / len(DOWN) / weights()[n].shape[0])) for n in DOWN]


CASES: dict[str, tuple[dict[str, Any], Callable[[], Matrices], Callable[[], list[tuple[list[str], int]]]]] = {
    "gallop": ({}, both(lambda w, g: np.abs(g) / (np.abs(w) + 1e-8)), lambda: everything(of_density())),
    "gallop with exponents": (
        {"gradient_exponent": 2.0, "magnitude_exponent": 0.5},
        both(lambda w, g: g**2 / (np.abs(w) + 1e-8) ** 0.5),
        lambda: everything(of_density()),
    ),
    "gallop per layer": ({"scope": "per_layer"}, both(lambda w, g: np.abs(g) / (np.abs(w) + 1e-8)), by_layer),
    "sift as its authors' code": ({"first": "micro_batch"}, of_micro_batch, sift),
    "skeleton": ({}, both(lambda w, g: np.maximum(0, -w * g)), lambda: everything(of_density())),
    "fisher": ({}, squares, lambda: everything(of_density())),
    "taylor": (
        {},
        lambda: {n: w**2 * squares()[n] for n, w in weights().items()},
        lambda: everything(of_density()),
    ),
    "wanda": ({}, in_rows(lambda: {n: np.abs(w) * inputs()[n] for n, w in weights().items()}), by_matrix),
    "wanda of all matrices": (
        {"scope": "global"},
        lambda: {n: np.abs(w) * inputs()[n] for n, w in weights().items()},
        lambda: everything(of_density()),
    ),
    "grasp": (
        {},
        lambda: {n: np.maximum(0, w * products()[n]) for n, w in weights().items()},
        lambda: everything(of_density()),
    ),
    "synflow": ({}, flow, lambda: everything(of_density())),
    "synflow per matrix": ({"scope": "per_matrix"}, flow, by_matrix),
    "s2ft": ({}, columns, channels),
    "gem": ({}, ratios, by_entropy(lambda norm, entropy: norm * entropy)),
    "gem of april": (
        {"variant": "norm_over_entropy"},
        ratios,
        by_entropy(lambda norm, entropy: norm / (entropy + 1e-8)),
    ),
    "saft per row": ({"scope": "per_row"}, in_rows(both(lambda w, g: np.abs(g))), by_matrix),
    "magnitude per row": ({"scope": "per_row"}, in_rows(both(lambda w, g: np.abs(w))), by_matrix),
    "saft": ({}, both(lambda w, g: np.abs(g)), lambda: everything(of_density())),
    "saft per matrix": (
        {"scope": "per_matrix", "density": {"lora_rank": 3}},
        both(lambda w, g: np.abs(g)),
        lambda: like_lora(3),
    ),
    "sift": ({}, lambda: {n: np.abs(g) for n, g in gradients(first_batch=True).items()}, sift),
    "sift with a ratio": ({"selection_ratio": RATIO}, both(lambda w, g: np.abs(g)), sift),
    "snip": ({}, both(lambda w, g: np.abs(w * g)), lambda: everything(of_density())),
    "magnitude": ({}, both(lambda w, g: np.abs(w)), lambda: everything(of_density())),
    "magnitude lowest": ({"choose": "lowest"}, both(lambda w, g: -np.abs(w)), lambda: everything(of_density())),
    "sara": ({}, both(lambda w, g: -np.abs(w)), lambda: everything(of_density())),
    "lift": ({"rank": 4, "density": {"lora_rank": 2}}, approximated, lambda: like_lora(2)),
    "smt as its authors' code": (
        {"block_size": 8, "block_score": "absolute_of_mean"},
        lambda: {n: np.abs(block_means(g, 8)) for n, g in gradients().items()},
        lambda: everything(round(of_density() / 64)),
    ),
    "smt": ({"block_size": 8}, blocks(8), lambda: everything(round(of_density() / 64))),
}


def brute_force(scores: Matrices, quotas: list[tuple[list[str], int]]) -> dict[str, list[int]]:
    """A full stable sort of what competes."""
    chosen: dict[str, list[int]] = {n: [] for n in scores}
    for names, k in quotas:
        flat = np.concatenate([scores[n].ravel() for n in names])
        owners = np.concatenate([np.full(scores[n].size, i) for i, n in enumerate(names)])
        places = np.concatenate([np.arange(scores[n].size) for n in names])
        for at in np.argsort(-flat, kind="stable")[:k]:
            chosen[names[owners[at]]].append(int(places[at]))
    return {n: sorted(indices) for n, indices in chosen.items() if indices}


def entries_of_blocks(chosen: Mapping[str, list[int]], side: int) -> dict[str, list[int]]:
    found = {}
    for name, units in chosen.items():
        shape = weights()[name].shape
        grid = np.zeros((shape[0] // side, shape[1] // side), dtype=bool)
        grid.ravel()[units] = True
        found[name] = np.kron(grid, np.ones((side, side), dtype=bool)).ravel().nonzero()[0].tolist()
    return found


def entries_of_columns(name: str, chosen: list[int]) -> list[int]:
    grid = np.zeros(weights()[name].shape, dtype=bool)
    grid[:, chosen] = True
    found: list[int] = grid.ravel().nonzero()[0].tolist()
    return found


def masks() -> dict[str, dict[str, list[int]]]:
    """On each rank: the mask of every case."""
    resident, found = tiny.resident(tiny.sweep(0, batch_size=BATCH)), {}
    for case, (options, _, _) in CASES.items():
        asked: dict[str, Any] = {"type": case.split()[0], "density": DENSITY, **options}
        if asked["type"] not in ("sift", "lift", "magnitude", "sara", "s2ft", "synflow"):
            asked["selection_ratio"] = RATIO
        context = tiny.context(resident, SEED, method=asked)
        method: Any = make_method(context.configuration.method)
        mask = select(context, find_candidates(resident.model, method.spec.target_modules), method).mask
        found[case] = {n: i.tolist() for n, i in mask.indices.items()}
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_masks_equal_brute_force(ranks: Callable, world: int) -> None:
    expected = {case: brute_force(scores(), quotas()) for case, (_, scores, quotas) in CASES.items()}
    for case in ("smt", "smt as its authors' code"):
        expected[case] = entries_of_blocks(expected[case], 8)
    expected["s2ft"] = {n: entries_of_columns(n, chosen) for n, chosen in expected["s2ft"].items()}
    for found in ranks(world)(masks):
        for case in CASES:
            assert found[case] == expected[case], case


def test_scopes_differ() -> None:
    assert brute_force(CASES["gallop"][1](), by_layer()) != brute_force(
        CASES["gallop"][1](), everything(of_density())
    ), "or the test above would show nothing"


def test_smallness_orders_all_floats() -> None:
    values = torch.tensor([0.0, -1e-45, 1e-38, -0.5, 0.5000001, 1.0, 3e38])
    scores = smallness(values)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len(set(scores.tolist())) == len(values)
    assert bool((scores >= 0).all() and scores.isfinite().all())


def test_largest_equals_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (40, 30), generator=generator).float()
    scores[3] = EXCLUDED
    for k in (1, 17, 600, 1170):
        order = scores.view(-1).sort(descending=True, stable=True).indices
        assert torch.equal(largest(scores, k), order[:k].sort().values)


def flat(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix whose singular values differ by 0.1 % from one to the next, and its best approximation of rank 16."""
    generator, smaller = torch.Generator().manual_seed(rows), min(rows, columns)
    draws = (torch.randn(n, smaller, generator=generator, dtype=torch.float64) for n in (rows, columns))
    u, v = (torch.linalg.qr(draw).Q for draw in draws)
    values = 0.999 ** torch.arange(smaller, dtype=torch.float64)
    return (u * values) @ v.t(), (u[:, :16] * values[:16]) @ v[:, :16].t()


@pytest.mark.parametrize(("rows", "columns"), [(1536, 576), (2048, 2048)])
def test_lift_ranks_large_matrices_as_their_exact_approximation_does(rows: int, columns: int) -> None:
    matrix, best = flat(rows, columns)
    k = 8 * (rows + columns)
    expected = set(largest(best.abs().float(), k).tolist())
    assert set(largest(low_rank(matrix, 16).abs(), k).tolist()) == expected
    if rows > columns:
        u, s, vh = torch.linalg.svd(matrix.float().double(), full_matrices=False)
        of_svd = largest(((u[:, :16] * s[:16]) @ vh[:16]).abs().float(), k)
        found = [low_rank(w, 16).abs() for w in (matrix.float(), matrix.float().t())]
        assert set(largest(found[0], k).tolist()) == set(of_svd.tolist())
        assert set(largest(found[1].t().contiguous(), k).tolist()) == set(of_svd.tolist()), "wide as well as tall"


def test_lift_s_mask_is_the_same_for_every_seed_and_after_a_refresh_of_what_has_not_changed() -> None:
    method: Any = make_method(LiftSpec(rank=4))
    weight = torch.randn(640, 600, generator=torch.Generator().manual_seed(5))
    first, second = (method.score(weight, None, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first, second)
    chosen = largest(first, 500)
    state = MatrixState(weight, None, chosen, torch.zeros(500), 7, 20, torch.Generator().manual_seed(2))
    assert torch.equal(method.refresh(state), chosen)
