"""How many entries a density asks for."""

from collections.abc import Sequence

from gallop_ray.sparse.candidates import Candidate
from gallop_ray.spec.methods import LoraRank


def entries_to_choose(density: float | LoraRank, candidates: Sequence[Candidate], total: int) -> int:
    """k, the number of entries to train, of a model with `total` parameters.

    A fraction is a share of all parameters of the base model; a lora_rank r asks for the r (in + out) entries a matrix
    that LoRA would train. Raises ValueError where the candidates hold fewer entries than that.
    """
    if isinstance(density, LoraRank):
        k = sum(density.lora_rank * sum(c.shape) for c in candidates)
    else:
        k = max(1, round(density * total))
    available = sum(c.numel for c in candidates)
    if k > available:
        raise ValueError(
            f"density {density} asks for {k:,} entries, but the target modules hold {available:,} "
            f"({available / total:.1%} of the model); lower the density or widen target_modules"
        )
    return k
