"""Which weights may be trained: those of modules that match the target patterns and that text reaches."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from weakref import WeakKeyDictionary

import torch
from torch import nn

from gallop_ray.compat.torch import parameter_table
from gallop_ray.sparse.layers import is_plain_linear
from gallop_ray.sparse.weights import collective_device, full_shape, sum_over_ranks

# Beside the model, not on it: an attribute would be lost when a run's changes of the model are undone.
_REACHED: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()


def reached(model: nn.Module) -> frozenset[str] | None:
    """The paths of the modules that text reaches; None for a model that has not been traced by `looking`."""
    return _REACHED.get(model)


def note_reached(model: nn.Module, names: Iterable[str]) -> None:
    """Set the paths of the modules that text reaches, where they are known without tracing."""
    _REACHED[model] = frozenset(names)


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Record the modules called while this is open as those that text reaches."""
    called: set[str] = set()
    hooks = [m.register_forward_pre_hook(lambda *_, n=n: called.add(n)) for n, m in model.named_modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    note_reached(model, called)


def refuse_unreached(names: Sequence[str], had: Sequence[bool], where: str) -> None:
    """Raise ValueError on every rank, naming the matrices for which no rank had a gradient. Collective.

    had: for each of `names`, whether this rank had one. where: the phase, for the message.
    """
    counts = sum_over_ranks(torch.tensor([int(one) for one in had], device=collective_device())).tolist()
    without = [name for name, count in zip(names, counts, strict=True) if not count]
    if without:
        shown = ", ".join(without[:5]) + (f" and {len(without) - 5} others" if len(without) > 5 else "")
        raise ValueError(
            f"{where} gave {len(without)} of {len(names)} chosen matrices no gradient: {shown}; the model does not "
            "call these modules, or reads their weights past them; leave them out of target_modules"
        )


@dataclass(frozen=True)
class Candidate:
    """A module whose weight competes for entries, and its place in the model."""

    name: str
    parent: nn.Module
    attribute: str
    module: nn.Module

    @property
    def weight(self) -> nn.Parameter:
        """The parameter whose entries compete; under ZeRO-3 its shard."""
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def shape(self) -> torch.Size:
        """(out_features, in_features) of a linear layer, (vocabulary, hidden) of an embedding, (hidden,) of a norm."""
        return full_shape(self.weight)

    @property
    def numel(self) -> int:
        """The number of entries of the weight."""
        return self.shape.numel()


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, "*." + pattern)


def _inside_blocks(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _refuse_shared(model: nn.Module, name: str, module: nn.Module) -> None:
    owners = [n for n, m in model.named_modules() if getattr(m, "weight", None) is module.weight]
    if len(owners) > 1:
        raise ValueError(f"target module {name} shares its weight with {', '.join(set(owners) - {name})}; leave it out")


def find_candidates(model: nn.Module, target_modules: Sequence[str] | None = None) -> list[Candidate]:
    """The candidates in the model's module order, which fixes the global order of their entries.

    Without patterns: the linear layers of the transformer blocks, except those that compute more than a matrix product
    (routers of some mixtures of experts), which no adapter can replace either. A pattern is the end of a module's path
    (`q_proj`, `mlp.up_proj`) and may contain `*`; it may name embeddings and norms, too. Modules that text does not
    reach are left out, where that is known (see `looking`). Raises ValueError for a pattern that matches nothing, or
    only such modules, and for a weight that two modules share.
    """
    there = {name: module for name, module in model.named_modules() if name and _has_weight(module)}
    called = reached(model)
    modules = {name: module for name, module in there.items() if called is None or name in called}
    if target_modules is None:
        chosen = [n for n, m in modules.items() if is_plain_linear(m) and _inside_blocks(n)]
    else:
        for pattern in target_modules:
            if not any(_matches(name, pattern) for name in modules):
                leaves = sorted({n.rsplit(".", 1)[-1] for n in modules})
                beyond = " that a text reaches" if any(_matches(name, pattern) for name in there) else ""
                raise ValueError(
                    f"target module {pattern!r} matches nothing{beyond}; the model has {', '.join(leaves)}"
                )
        chosen = [name for name in modules if any(_matches(name, pattern) for pattern in target_modules)]
    if not chosen:
        matrices = {n.rsplit(".", 1)[-1] for n, m in modules.items() if _inside_blocks(n) and _weight_of(m).ndim == 2}
        found = f": it has {', '.join(sorted(matrices))}" if matrices else ""
        raise ValueError(f"the model has no linear layers inside its blocks; name them in target_modules{found}")
    for name in chosen:
        _refuse_shared(model, name, modules[name])
    return [Candidate(name, *_place(model, name), modules[name]) for name in chosen]


def _weight_of(module: nn.Module) -> nn.Parameter:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _has_weight(module: nn.Module) -> bool:
    """Whether the module has a trainable weight of its own; quantised weights are integers, which are not."""
    weight = parameter_table(module).get("weight")
    return weight is not None and weight.is_floating_point()


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, attribute = name.rpartition(".")
    return model.get_submodule(parent), attribute
