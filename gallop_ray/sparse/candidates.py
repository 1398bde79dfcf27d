"""Which weight matrices may be trained: the linear layers that the target patterns name."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from gallop_ray.sparse.weights import full_shape


@dataclass(frozen=True)
class Candidate:
    """A linear layer whose weight competes for entries, and where it hangs in the model."""

    name: str
    parent: nn.Module
    attribute: str
    linear: nn.Linear

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        out_features, in_features = full_shape(self.linear.weight)
        return out_features, in_features

    @property
    def numel(self) -> int:
        """Entries of the weight matrix."""
        return self.shape[0] * self.shape[1]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, "*." + pattern)


def _inside_blocks(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _refuse_unusable(model: nn.Module, name: str, module: nn.Module) -> None:
    if not isinstance(module, nn.Linear):
        raise ValueError(
            f"target module {name} is a {type(module).__name__}; only torch.nn.Linear can be trained sparsely"
        )
    owners = [n for n, m in model.named_modules() if getattr(m, "weight", None) is module.weight]
    if len(owners) > 1:
        raise ValueError(f"target module {name} shares its weight with {', '.join(set(owners) - {name})}; leave it out")


def find_candidates(model: nn.Module, target_modules: Sequence[str] | None = None) -> list[Candidate]:
    """The candidates in the model's module order, which fixes the global order of their entries.

    Without patterns: the linear layers of the transformer blocks. A pattern is the end of a module's path
    (`q_proj`, `mlp.up_proj`) and may hold `*`. Raises ValueError for a pattern that matches nothing, for a module that
    is no linear layer, and for a weight that two modules share.
    """
    modules = {
        name: module for name, module in model.named_modules() if name and getattr(module, "weight", None) is not None
    }
    if target_modules is None:
        chosen = [n for n, m in modules.items() if isinstance(m, nn.Linear) and _inside_blocks(n)]
    else:
        for pattern in target_modules:
            if not any(_matches(name, pattern) for name in modules):
                leaves = sorted({n.rsplit(".", 1)[-1] for n, m in modules.items() if isinstance(m, nn.Linear)})
                raise ValueError(
                    f"target module {pattern!r} matches nothing; the linear layers are {', '.join(leaves)}"
                )
        chosen = [name for name in modules if any(_matches(name, pattern) for pattern in target_modules)]
    if not chosen:
        raise ValueError("the model has no linear layers inside its blocks; name them in target_modules")
    for name in chosen:
        _refuse_unusable(model, name, modules[name])
    return [Candidate(name, *_place(model, name), modules[name]) for name in chosen]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, attribute = name.rpartition(".")
    return model.get_submodule(parent), attribute
