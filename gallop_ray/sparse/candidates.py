"""Which weights may be trained: those of modules that match the target patterns and that text reaches."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gallop_ray.compat.torch import parameter_table
from gallop_ray.sparse.layers import is_linear_map, is_stored_transposed
from gallop_ray.sparse.weights import collective_device, full_shape, gather, sum_over_ranks
from gallop_ray.spec.method import ALL_LINEAR

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
    """A weight that competes for entries, and its place in the model; in a mixture one per expert.

    Mixtures of experts keep the matrices of all experts in one three-dimensional parameter. Each of them is a
    candidate; `place` is common to them, and is the name in masks and adapters.
    """

    name: str
    """The module's path; for an expert the parameter's path and its number."""
    parent: nn.Module
    attribute: str
    module: nn.Module
    parameter: str = "weight"
    """The parameter's name in its module."""
    expert: int | None = None

    @property
    def weight(self) -> nn.Parameter:
        """The parameter with the entries, for an expert that of all experts; under ZeRO-3 its shard."""
        weight = getattr(self.module, self.parameter)
        assert isinstance(weight, nn.Parameter)
        return weight

    @property
    def shape(self) -> torch.Size:
        """(out_features, in_features) of a linear layer, (vocabulary, hidden) of an embedding, (hidden,) of a norm."""
        whole = full_shape(self.weight)
        return whole if self.expert is None else whole[1:]

    @property
    def has_inputs_last(self) -> bool:
        """Whether its columns are its inputs: not of GPT-2's Conv1D, nor of experts that do not say that they are."""
        if self.expert is None:
            return not is_stored_transposed(self.module)
        return getattr(self.module, "is_transposed", None) is False

    @property
    def numel(self) -> int:
        """The number of entries of the weight."""
        return self.shape.numel()

    @property
    def place(self) -> str:
        """The parameter's name in masks: the module's path, or its own if it is not called `weight`."""
        return self.name if self.expert is None else self.name.rpartition(".")[0]

    @property
    def path(self) -> str:
        """The parameter's path in the model."""
        return f"{self.place}.weight" if self.parameter == "weight" else self.place

    @property
    def offset(self) -> int:
        """The position of its first entry in the flat parameter."""
        return (self.expert or 0) * self.numel

    def of(self, whole: Tensor) -> Tensor:
        """Its part of a tensor with the shape of the complete parameter."""
        return whole if self.expert is None else whole[self.expert]


def places(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The parameters that contain these candidates, each once: all experts of one parameter are one place."""
    return list({c.place: replace(c, name=c.place, expert=None) for c in candidates}.values())


def by_module(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """The candidates, grouped by module."""
    found: dict[int, list[Candidate]] = {}
    for c in candidates:
        found.setdefault(id(c.module), []).append(c)
    return list(found.values())


def parts(place: Candidate) -> list[Candidate]:
    """The matrices in a parameter: one per expert, or the parameter itself."""
    shape = full_shape(place.weight)
    if not _is_stack(place.module, shape):
        return [place]
    return [replace(place, name=f"{place.name}.{e}", expert=e) for e in range(shape[0])]


def gathered(candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Tensor]]:
    """Each candidate with its complete weight, on every rank; experts' parameters are gathered once. Collective."""
    last: nn.Parameter | None = None
    for c in candidates:
        if c.weight is not last:  # the experts of one parameter follow each other
            last, whole = c.weight, gather(c.weight)
        yield c, c.of(whole)


def find_candidates(model: nn.Module, target_modules: str | Sequence[str] | None = None) -> list[Candidate]:
    """The candidates in the model's module order, which fixes the global order of their entries.

    Without patterns: the linear layers and experts of the transformer blocks, except layers that compute more than a
    matrix product (routers of some mixtures of experts), which no adapter can replace either. `all-linear` is these
    wherever they are, except the output head; any other text is a regular expression for whole paths. A pattern of a
    list is the end of a path (`q_proj`, `mlp.up_proj`, `experts`) and may contain `*`. Expression and pattern may name
    embeddings and norms, too. Modules that text does not reach are left out, where that is known (see `looking`).
    Raises ValueError for a pattern that matches nothing, or only such modules, and for a weight that two modules share.
    """
    there = {place.name: place for place in _all_places(model)}
    called = reached(model)
    known = {name: p for name, p in there.items() if called is None or _module_path(p) in called}
    if target_modules is None:
        chosen = [p for p in known.values() if _is_linear(p) and _inside_blocks(p.name)]
    elif target_modules == ALL_LINEAR:
        head = _output_head(model)
        chosen = [p for p in known.values() if _is_linear(p) and p.module is not head]
    elif isinstance(target_modules, str):
        chosen = _by_expression(target_modules, known, there)
    else:
        chosen = _by_patterns(target_modules, known, there)
    if not chosen:
        matrices = {_leaf(n) for n, p in known.items() if _inside_blocks(n) and len(p.shape) == 2}
        found = f": it has {', '.join(sorted(matrices))}" if matrices else ""
        raise ValueError(f"the model has no linear layers inside its blocks; name them in target_modules{found}")
    _refuse_shared(model, chosen)
    return [part for place in chosen for part in parts(place)]


_Places = Mapping[str, Candidate]


def _by_patterns(patterns: Sequence[str], known: _Places, there: _Places) -> list[Candidate]:
    for pattern in patterns:
        if not any(_matches(place, pattern) for place in known.values()):
            beyond = " that a text reaches" if any(_matches(p, pattern) for p in there.values()) else ""
            raise ValueError(f"target module {pattern!r} matches nothing{beyond}; the model has {_leaves(known)}")
    return [place for place in known.values() if any(_matches(place, pattern) for pattern in patterns)]


def _by_expression(expression: str, known: _Places, there: _Places) -> list[Candidate]:
    whole = re.compile(expression)
    chosen = [place for place in known.values() if any(map(whole.fullmatch, _paths(place)))]
    if not chosen:
        beyond = " that a text reaches" if any(any(map(whole.fullmatch, _paths(p))) for p in there.values()) else ""
        ends = any(_matches(place, expression) for place in known.values())
        fix = f"; for the ends of paths write a list, [{expression}]" if ends else f"; the model has {_leaves(known)}"
        raise ValueError(
            f"target_modules: the regular expression {expression!r} matches no whole path{beyond}, as "
            f"{next(iter(known), 'none')}{fix}"
        )
    return chosen


def _paths(place: Candidate) -> tuple[str, ...]:
    """The paths that a pattern may match: for experts also that of their module."""
    return (place.name,) if place.parameter == "weight" else (place.name, _module_path(place))


def _matches(place: Candidate, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, "*." + pattern) for name in _paths(place))


def _module_path(place: Candidate) -> str:
    return place.name if place.parameter == "weight" else place.name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _leaves(known: _Places) -> str:
    return ", ".join(sorted(set(map(_leaf, known))))


def _inside_blocks(name: str) -> bool:
    return any(part.isdigit() for part in name.split("."))


def _is_linear(place: Candidate) -> bool:
    if len(place.shape) == 3:
        return _is_stack(place.module, place.shape)
    return place.parameter == "weight" and is_linear_map(place.module)


def _is_stack(module: nn.Module, shape: torch.Size) -> bool:
    """Whether a parameter contains several matrices: not a convolution's kernel, and not a single vector or matrix."""
    return len(shape) == 3 and min(shape) > 1 and not isinstance(module, nn.Conv1d | nn.ConvTranspose1d)


def _output_head(model: nn.Module) -> nn.Module | None:
    find = getattr(model, "get_output_embeddings", None)
    head: nn.Module | None = find() if callable(find) else None
    return head


def _refuse_shared(model: nn.Module, chosen: Sequence[Candidate]) -> None:
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name.removesuffix(".weight"))
    for place in chosen:
        # The gradient of a shared weight is the sum over its modules, of which a sparse layer sees its own part only.
        if others := owners[id(place.weight)] - {place.name}:
            raise ValueError(
                f"target module {place.name} shares its weight with {', '.join(sorted(others))}; leave it out"
            )


def _all_places(model: nn.Module) -> Iterator[Candidate]:
    """The trainable weights of all modules; quantised weights are integers, which are not."""
    for path, module in model.named_modules():
        for name, weight in parameter_table(module).items():
            if not path or weight is None or not weight.is_floating_point():
                continue
            if name == "weight" or _is_stack(module, full_shape(weight)):
                parent, _, attribute = path.rpartition(".")
                own = path if name == "weight" else f"{path}.{name}"
                yield Candidate(own, model.get_submodule(parent), attribute, module, name)
