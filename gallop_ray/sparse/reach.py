"""Which modules of a model a forward pass of text calls: nothing else can be trained on text.

A vision tower is never called, and of a linear layer whose weight another module reads directly (Mamba's dt_proj) the
forward is not, which is where a sparse layer or an adapter would sit.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gallop_ray.sparse.weights import collective_device, sum_over_ranks

_REACHED: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def reached(model: nn.Module) -> frozenset[str] | None:
    """The paths of the modules that text reaches; None for a model on which nobody has looked."""
    return _REACHED.get(model)


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Note the modules that are called while this is open as those that text reaches."""
    called: set[str] = set()
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: called.add(n)) for n, m in model.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    _REACHED[model] = frozenset(called)


def refuse_unreached(names: Sequence[str], had: Sequence[bool], where: str) -> None:
    """Raise ValueError, on every rank alike, naming the matrices of which no rank had a gradient. Collective.

    had: for each of `names`, whether this rank had one. where: in what they had none.
    """
    counts = sum_over_ranks(torch.tensor([int(one) for one in had], device=collective_device())).tolist()
    without = [name for name, count in zip(names, counts, strict=True) if not count]
    if without:
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} others" if len(without) > 5 else "")
        raise ValueError(
            f"{where} gave {len(without)} of {len(names)} chosen matrices no gradient: {shown}; the model does not "
            "call these modules, or reads their weights past them; leave them out of target_modules"
        )
