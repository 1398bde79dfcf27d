"""One sparse adapter from several: sum, TIES (arXiv 2306.01708) or DARE (arXiv 2311.03099), with PEFT's functions."""

import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import combinations
from pathlib import Path

import torch
from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge, prune
from torch import Tensor

from gallop_ray.disk.tensors import ADAPTER
from gallop_ray.exports.merge_request import MergeRequest
from gallop_ray.exports.request import Request
from gallop_ray.exports.write import whole_or_nothing
from gallop_ray.sparse.adapter import apply_adapter, load_adapter, save_adapter
from gallop_ray.sparse.mask import contained, positions, union

Delta = Mapping[str, tuple[Tensor, Tensor]]
"""By weight, the sorted flat indices (k,) and the float32 delta (k,)."""


def merge(request: MergeRequest) -> Path:
    """Write the merged adapter, or the merged model; says how much the adapters overlap. Returns the folder.

    Raises ValueError where an adapter is damaged or does not fit the base model.
    """
    deltas = [load_adapter(path)[0] for path in request.adapters]
    for (a, first), (b, second) in combinations(zip(request.adapters, deltas, strict=True), 2):
        print(f"{a} and {b}: {overlap(first, second)}", file=sys.stderr)
    torch.manual_seed(request.seed)
    found = merged_delta(deltas, request.how, request.keep)
    with whole_or_nothing(request.output) as folder:
        path = folder / ADAPTER
        made = {"merged": ", ".join(map(str, request.adapters)), "how": request.how, "keep": str(request.keep)}
        indices, values = ({name: pair[i] for name, pair in found.items()} for i in (0, 1))
        save_adapter(path, indices, values, {**request.metadata, **made, "seed": str(request.seed)})
        if request.like is not None:
            _write_model(request.like, path, folder)
    return request.output


def _write_model(like: Request, adapter: Path, folder: Path) -> None:
    """The base model with the adapter, instead of the adapter; asked as the run `like`."""
    from gallop_ray.exports.asked import write_prompt
    from gallop_ray.training.models import load_model
    from gallop_ray.training.save import save_for_others

    model, _ = load_model(like.model)
    apply_adapter(model, adapter)
    adapter.unlink()
    save_for_others(model, folder)
    write_prompt(like, folder, whole=True)


def merged_delta(deltas: Sequence[Delta], how: str, keep: float) -> dict[str, tuple[Tensor, Tensor]]:
    """The merged delta of every weight that any of them changes.

    `sum`: they add up. `ties`: of each the `keep` share with the largest |delta|; at each entry the mean of those that
    have the sign of their sum. `dare`: each entry stays with probability `keep`, divided by it; then they add up.
    """
    found = {}
    if how == "ties" and keep < 1:
        deltas = [_trimmed(delta, keep) for delta in deltas]
    for name in sorted({name for delta in deltas for name in delta}):
        parts = [delta[name] for delta in deltas if name in delta]
        if how == "dare" and keep < 1:
            parts = [(i, prune(d, keep, "random", rescale=True)) for i, d in parts]
        indices = reduce(union, (i.long() for i, _ in parts))
        stacked = torch.stack([_spread(indices, *part) for part in parts])
        if how == "ties":
            values = disjoint_merge(stacked, calculate_majority_sign_mask(stacked, method="total"))
        else:
            values = stacked.sum(0)
        changed = values != 0  # what was pruned, or cancels out, is the base's
        if bool(changed.any()):
            dtype = parts[0][0].dtype
            found[name] = (indices[changed].to(dtype), values[changed].float())
    return found


def _trimmed(delta: Delta, keep: float) -> Delta:
    """The `keep` share of an adapter's entries with the largest |delta|, whichever weights they are of.

    Not weight by weight: most would go from those with few entries. Of equal ones the first by name and index stay.
    """
    names = sorted(delta)
    sizes = [delta[name][1].numel() for name in names]
    size = torch.cat([delta[name][1].abs() for name in names])
    kept = torch.zeros(size.shape, dtype=torch.bool)
    kept[size.argsort(descending=True, stable=True)[: round(keep * len(size))]] = True
    of_each = zip(names, kept.split(sizes), strict=True)
    return {name: (delta[name][0][its], delta[name][1][its]) for name, its in of_each}


def _spread(within: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    """The delta at the sorted indices `within`, 0 where it has none."""
    spread = torch.zeros(within.shape, dtype=delta.dtype)
    spread[positions(within, indices.long())] = delta
    return spread


def overlap(first: Delta, second: Delta) -> str:
    """In words, how many entries two adapters share, and in how many of those they agree in sign."""
    sizes = [sum(i.numel() for i, _ in delta.values()) for delta in (first, second)]
    shared = agree = 0
    for name in first.keys() & second.keys():
        (i, a), (j, b) = first[name], second[name]
        mine, theirs = a[contained(i.long(), j.long())], b[contained(j.long(), i.long())]
        shared += mine.numel()
        agree += int((mine.sign() == theirs.sign()).sum())
    share = f" ({shared / min(sizes):.1%} of the smaller)" if min(sizes) else ""
    signs = f", {agree / shared:.1%} of them with the same sign" if shared else ""
    return f"{sizes[0]:,} and {sizes[1]:,} entries, {shared:,} in common{share}{signs}"
