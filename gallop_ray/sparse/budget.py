"""How many entries a density asks for, and which matrices share them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gallop_ray.sparse.candidates import Candidate
from gallop_ray.spec.method import LoraRank

Scope = Literal["global", "per_layer", "per_matrix", "per_row", "entropy"]
"""Of these, per_row and entropy are budgets within the quotas below (see gallop_ray.sparse.competition)."""

_TOGETHER = ("global", "entropy")  # all matrices are one quota


@dataclass(frozen=True)
class Quota:
    """k entries to choose among the candidates at these positions, which compete with each other."""

    matrices: tuple[int, ...]
    k: int


def everything(matrices: Sequence[object], k: int) -> Quota:
    """k entries of all matrices."""
    return Quota(tuple(range(len(matrices))), k)


def trainable_percent(trained: int, total: int) -> float:
    """100 k/(N+k) of k values trained beside N frozen ones, as PEFT prints it; 100 where the whole model trains."""
    return 100.0 if trained >= total else 100 * trained / (total + trained)


def entries_to_choose(density: float | LoraRank, candidates: Sequence[Candidate], total: int) -> int:
    """k, the number of entries to train, of a model with `total` parameters.

    A fraction is a share of all parameters of the base model. A lora_rank r asks for the r (in + out) entries per
    matrix that LoRA would train, and for none of a norm's vector, which LoRA does not train. Raises ValueError where
    the candidates hold fewer entries.
    """
    if isinstance(density, LoraRank):
        k = sum(_like_lora(density, c) for c in candidates)
    else:
        k = max(1, round(density * total))
    _refuse_beyond(k, sum(c.numel for c in candidates), density, "the target modules hold", total)
    return k


def quotas(density: float | LoraRank, scope: Scope, candidates: Sequence[Candidate], total: int) -> list[Quota]:
    """The entries to choose, by the matrices that compete.

    Where not all compete, a fraction is shared out in proportion to the matrices' sizes, and the sum stays exactly k; a
    lora_rank gives each matrix what LoRA would train there. Raises ValueError as entries_to_choose does.
    """
    k = entries_to_choose(density, candidates, total)
    if not isinstance(density, LoraRank):
        shares = _proportional(k, [c.numel for c in candidates])
    else:
        shares = [_like_lora(density, c) for c in candidates]
        if scope not in _TOGETHER:
            for c, share in zip(candidates, shares, strict=True):
                _refuse_beyond(share, c.numel, density, f"{c.name} holds", total)
    groups: dict[str, list[int]] = {}
    for position, candidate in enumerate(candidates):
        groups.setdefault(_group(candidate, scope), []).append(position)
    found = [Quota(tuple(group), sum(shares[m] for m in group)) for group in groups.values()]
    return [quota for quota in found if quota.k]


def layer(name: str) -> str:
    """The transformer block that a module or parameter belongs to, by the path's first number; "" outside of blocks."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])


def _group(candidate: Candidate, scope: Scope) -> str:
    if scope in _TOGETHER:
        return ""
    return layer(candidate.name) if scope == "per_layer" else candidate.name


def _like_lora(density: LoraRank, candidate: Candidate) -> int:
    return density.lora_rank * sum(candidate.shape) if len(candidate.shape) == 2 else 0


def _proportional(k: int, sizes: Sequence[int]) -> list[int]:
    """k shared out by size; the rounded shares add up to k."""
    available, before, shares = sum(sizes), 0, []
    # Differences of rounded running totals: rounding each share by itself would not add up.
    for size in sizes:
        shares.append(k * (before + size) // available - k * before // available)
        before += size
    return shares


def _refuse_beyond(k: int, available: int, density: float | LoraRank, holder: str, total: int) -> None:
    if k > available:
        raise ValueError(
            f"density {density} asks for {k:,} entries, but {holder} {available:,} "
            f"({available / total:.1%} of the model); lower the density or widen target_modules"
        )
