"""Two attachments at once: chosen entries of the weights, and a PEFT tuner beside them. RoSA (arXiv 2401.04679)."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gallop_ray.disk.tensors import HYBRID
from gallop_ray.methods.contract import MaskMethod, TunerMethod
from gallop_ray.methods.gradient import Saft
from gallop_ray.methods.peft import PeftAttachment, PeftMethod
from gallop_ray.sparse.budget import entries_to_choose
from gallop_ray.sparse.candidates import Candidate, find_candidates
from gallop_ray.sparse.checked import save_checked
from gallop_ray.sparse.delta import SparseDelta
from gallop_ray.sparse.mask import Mask, even_mask
from gallop_ray.sparse.weights import full_shape, rank
from gallop_ray.spec.mask_methods import SaftSpec
from gallop_ray.spec.method import MethodSpec
from gallop_ray.spec.other_methods import LoraSpec


class HybridAttachment:
    """A tuner around the base model, and a delta on the weights that it wraps; both are trained."""

    def __init__(self, tuner: PeftAttachment, delta: SparseDelta) -> None:
        self.tuner, self.delta = tuner, delta
        self.module: nn.Module = tuner.module

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The delta's vectors, then the tuner's parameters."""
        return [*self.delta.parameters, *self.added]

    @property
    def added(self) -> list[nn.Parameter]:
        """The tuner's parameters."""
        ours = {id(p) for p in self.delta.parameters}
        return [p for p in self.tuner.parameters if id(p) not in ours]

    def write(self) -> None:
        """Bring the weights up to date."""
        self.delta.write()

    def refuse_untrained(self) -> None:
        """As SparseDelta."""
        self.delta.refuse_untrained()

    def finalized(self) -> AbstractContextManager[None]:
        """As SparseDelta: finalize() changes weights by rounding only."""
        return self.delta.finalized()

    def finalize(self) -> None:
        """As SparseDelta; the tuner's trained parameters are the saved ones."""
        self.delta.finalize()

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Both in one file: what each of them would have saved; rank 0 writes."""
        of_tuner = self.tuner.tensors(but=self.delta.parameters)  # collective
        if rank() == 0:
            save_checked(path, {**self.delta.tensors(), **of_tuner}, {"format": HYBRID, **metadata})

    def detach(self) -> None:
        """Restore the base weights, then its own layers."""
        with ExitStack() as both:
            both.callback(self.tuner.detach)
            both.callback(self.delta.detach)  # the last one is called first


class Hybrid(TunerMethod):
    """A mask's entries and a tuner's parameters, trained together by one optimizer.

    The mask is chosen at the base weights, as if it were alone. With `density` both together train that many
    parameters: the mask gets what the tuner leaves.
    """

    def __init__(self, spec: MethodSpec) -> None:
        super().__init__(spec)
        self.mask, self.tuner = self.parts()

    def parts(self) -> tuple[MaskMethod, PeftMethod]:
        """The two methods. Raises ValueError for options that they refuse."""
        from gallop_ray.methods import make_method

        mask, tuner = map(make_method, self.spec.part_specs)
        assert isinstance(mask, MaskMethod)
        assert isinstance(tuner, PeftMethod)
        return mask, tuner

    @property
    def warmup_steps(self) -> int:
        """Steps that the tuner is trained alone before the mask is chosen; 0: it is chosen at the base weights."""
        return 0

    def candidates(self, model: nn.Module) -> list[Candidate]:
        """The weights whose entries compete. Raises ValueError as find_candidates, and for experts."""
        found = find_candidates(model, self.mask.spec.target_modules)
        if experts := [c for c in found if c.expert is not None]:
            raise ValueError(f"a hybrid's mask is of linear layers; {experts[0].place} holds experts, leave it out")
        return found

    def mask_beside(self, model: nn.Module, candidates: Sequence[Candidate], total: int) -> MaskMethod:
        """The mask method with its share of the budget; `total` is N.

        Raises ValueError where the tuner leaves no entry, or as the tuner does.
        """
        density = self.spec.density
        if density is None:
            return self.mask
        attachment = self.tuner.attach(model)
        added = sum(full_shape(p).numel() for p in attachment.parameters)
        attachment.detach()
        both = entries_to_choose(density, candidates, total)
        if added >= both:
            raise ValueError(
                f"density {density} asks for {both:,} parameters, and {self.tuner.spec.type} alone has {added:,}; "
                "raise the density, or make the tuner smaller"
            )
        return type(self.mask)(self.mask.spec.model_copy(update={"density": (both - added) / total}))

    def attach(self, model: nn.Module) -> HybridAttachment:
        """Both with as many entries as the mask would have, but not those: for estimates and to try the tuner."""
        candidates = self.candidates(model)
        total = sum(full_shape(p).numel() for p in model.parameters())
        k = self.mask_beside(model, candidates, total).most_entries(candidates, total)
        return self.attach_both(model, candidates, even_mask(candidates, k, next(model.parameters()).device))

    def attach_both(self, model: nn.Module, candidates: Sequence[Candidate], mask: Mask) -> HybridAttachment:
        """The tuner first, and the mask's layers inside of its own; candidates: of the bare model."""
        tuner = self.tuner.attach(model)
        return HybridAttachment(tuner, SparseDelta(tuner.module, inside(tuner.module, candidates), mask))


class RosaMask(Saft):
    """score = |g|, per matrix: RoSA's mean of squared gradients over one batch has the same order."""


class Rosa(Hybrid):
    """LoRA is trained for some steps; the entries of W with the largest gradients then, beside a new LoRA (RoSA)."""

    def parts(self) -> tuple[MaskMethod, PeftMethod]:
        """LoRA, and the mask of its gradients."""
        from gallop_ray.methods.peft import Lora

        spec = self.spec
        shared: dict[str, Any] = {"target_modules": spec.target_modules}
        lora = LoraSpec(rank=spec.rank, alpha=spec.alpha, **shared)
        return RosaMask(SaftSpec(density=spec.sparse_density, scope="per_matrix", **shared)), Lora(lora)

    @property
    def warmup_steps(self) -> int:
        """From the options."""
        return int(self.spec.warmup_steps)


def inside(module: nn.Module, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates where they are now: inside of a tuner's layer, if there is one around them."""
    around = {id(m.base_layer): m for m in module.modules() if isinstance(getattr(m, "base_layer", None), nn.Module)}
    return [
        replace(c, parent=around[id(c.module)], attribute="base_layer") if id(c.module) in around else c
        for c in candidates
    ]


def tensors_of_parts(saved: Mapping[str, Tensor]) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """From a hybrid's file the delta by weight, and the tuner's tensors."""
    names = [n.removesuffix(".delta") for n in saved if n.endswith(".delta") and f"{n[:-6]}.indices" in saved]
    delta = {name: (saved[f"{name}.indices"], saved[f"{name}.delta"]) for name in names}
    ours = {f"{name}.{kind}" for name in names for kind in ("indices", "delta")}
    return delta, {name: tensor for name, tensor in saved.items() if name not in ours}
