"""Full fine-tuning, what thins its gradients (Child-Tuning) or edits its weights (WiSE-FT, LiNeS), and no training."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gallop_ray.disk.tensors import FULL
from gallop_ray.methods.contract import TunerMethod
from gallop_ray.sparse.budget import layer
from gallop_ray.sparse.candidates import reached
from gallop_ray.sparse.checked import save_checked
from gallop_ray.sparse.scoring import generator_of
from gallop_ray.sparse.weights import gather, local, rank

Scales = Callable[[nn.Module], Mapping[str, float]]


class FullAttachment:
    """All parameters, and a copy of what this rank stores of them, to restore the base from.

    Where scales are given, each parameter becomes base + scale (trained - base) after training.
    """

    def __init__(self, model: nn.Module, scales: Scales | None = None) -> None:
        self.module = model
        self._base = {name: local(p).clone() for name, p in model.named_parameters()}
        self._scales = scales
        model.requires_grad_(True)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of the model, shared ones once."""
        return list(self.module.parameters())

    def base(self) -> list[Tensor]:
        """What this rank stores of the base values, flat, in the parameters' order; not to be changed."""
        return list(self._base.values())

    def write(self) -> None:
        """The optimizer trains the weights themselves."""

    @contextmanager
    def finalized(self) -> Iterator[None]:
        """With scales, a copy of the trained weights is kept while this is open."""
        trained = [] if self._scales is None else [local(p).clone() for p in self.parameters]
        self.finalize()
        try:
            yield
        finally:
            for parameter, values in zip(self.parameters, trained, strict=False):  # `trained` is empty without scales
                local(parameter).copy_(values)

    @torch.no_grad()
    def finalize(self) -> None:
        """Scale the change, computed in float32; without scales the saved weights are the trained ones."""
        if self._scales is None:
            return
        scales = self._scales(self.module)
        for name, parameter in self.module.named_parameters():
            base, trained = self._base[name].float(), local(parameter)
            trained.copy_(base + scales[name] * (trained.float() - base))

    @torch.no_grad()
    def restore(self) -> None:
        """Give the weights their base values; each rank those that it stores."""
        for name, parameter in self.module.named_parameters():
            local(parameter).copy_(self._base[name])

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """All trained weights in the model's dtype, shared ones once."""
        weights: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            whole = gather(parameter)  # on every rank: gathering is collective, though rank 0 alone writes
            if rank() == 0:
                weights[name] = whole.detach().cpu().contiguous()
        if rank() == 0:
            save_checked(path, weights, {"format": FULL, **metadata})

    @torch.no_grad()
    def detach(self) -> None:
        """Freeze the model and restore its base values."""
        self.module.requires_grad_(False)
        self.restore()


class Full(TunerMethod):
    """Trains everything; the upper end of what a method can learn, and of what it can forget."""

    def attach(self, model: nn.Module) -> FullAttachment:
        """Make every parameter trainable."""
        return FullAttachment(model)


class ChildAttachment(FullAttachment):
    """All parameters, of whose gradients every step keeps a random share, scaled up to the same mean."""

    def __init__(self, model: nn.Module, share: float) -> None:
        super().__init__(model)
        self._share, self._step, self._seed = share, 0, torch.initial_seed()
        self._hooks = [p.register_hook(partial(self._thinned, name)) for name, p in model.named_parameters()]

    def begin_step(self, step: int) -> None:
        """See StepwiseAttachment."""
        self._step = step

    def _thinned(self, name: str, gradient: Tensor) -> Tensor:
        """One micro-batch's gradient; the draw is the same for all of a step's, on every rank and after a resume."""
        generator = generator_of(self._seed, self._step, name)
        kept = torch.rand(gradient.shape, generator=generator) < self._share
        return gradient * kept.to(gradient.device) / self._share

    def detach(self) -> None:
        """As FullAttachment."""
        for hook in self._hooks:
            hook.remove()
        super().detach()


class ChildTuning(TunerMethod):
    """Full fine-tuning; each step the gradient times Bernoulli(p) / p (Child-Tuning-F, arXiv 2109.05687)."""

    def attach(self, model: nn.Module) -> ChildAttachment:
        """Make every parameter trainable."""
        return ChildAttachment(model, self.spec.share)


class WiseFt(TunerMethod):
    """Full fine-tuning, then w = base + alpha (trained - base) (WiSE-FT, arXiv 2109.01903)."""

    def attach(self, model: nn.Module) -> FullAttachment:
        """Make every parameter trainable; alpha scales all changes alike."""
        return FullAttachment(model, lambda m: dict.fromkeys(dict(m.named_parameters()), self.spec.alpha))


class Lines(TunerMethod):
    """Full fine-tuning, then w = base + s_l (trained - base) (LiNeS, arXiv 2410.17146).

    s_l rises linearly from `first` in the first block to `last` in the last one. Parameters before the blocks (in the
    model's order) have the first scale, those after them the last.
    """

    def attach(self, model: nn.Module) -> FullAttachment:
        """Make every parameter trainable; a change is scaled by the depth of its block."""
        return FullAttachment(model, self._scales)

    def _scales(self, model: nn.Module) -> dict[str, float]:
        layers = {name: layer(name) for name, _ in model.named_parameters()}
        blocks = _text_blocks(model, dict.fromkeys(filter(None, layers.values())))
        scales: dict[str, float] = {}
        depth, seen = 0.0, False
        for name, block in layers.items():
            if block in blocks:
                depth, seen = blocks.index(block) / max(1, len(blocks) - 1), True
            elif not block:  # what comes after the blocks counts with the last one, what comes before with the first
                depth = 1.0 if seen else 0.0
            scales[name] = self.spec.first + (self.spec.last - self.spec.first) * depth
        return scales


def _text_blocks(model: nn.Module, blocks: Iterable[str]) -> list[str]:
    """Those of `blocks` that text reaches: the blocks of a vision tower are not the first layers."""
    called = reached(model)
    return list(blocks) if called is None else [b for b in blocks if any(name.startswith(f"{b}.") for name in called)]


class NothingAttached:
    """The base model, untouched."""

    def __init__(self, model: nn.Module) -> None:
        self.module = model
        self.parameters: list[nn.Parameter] = []

    def write(self) -> None:
        """There is nothing to write."""

    def finalized(self) -> AbstractContextManager[None]:
        """There is nothing to finalize."""
        return nullcontext()

    def finalize(self) -> None:
        """There is nothing to finalize."""

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """There is nothing to save."""

    def detach(self) -> None:
        """There is nothing to detach."""


class Vanilla(TunerMethod):
    """No training: what every other method is compared with."""

    def attach(self, model: nn.Module) -> NothingAttached:
        """Attach nothing: the base model is measured as it is."""
        return NothingAttached(model)
