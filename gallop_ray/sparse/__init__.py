"""Sparse fine-tuning of any PyTorch model: masks, and adapters that train them. docs/howto/library.md shows how.

    adapter = attach(model, GallopSpec(density=0.01), batches)   # choose a mask; its entries are now what trains
    Trainer(model, arguments, train_dataset=data).train()        # or any other loop
    adapter.save("adapter.safetensors")

Only torch is needed, plus transformers where Trainer is used. The modules in this package are the core that sweeps
train with: candidates, gradient sums, exact global masks, delta layers. Public names are imported on first use, because
they live above the methods, which are built on that core.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gallop_ray.spec import mask_methods  # noqa: F401  (it fills BUILT_IN)
from gallop_ray.spec.method import BUILT_IN, MaskMethodSpec

if TYPE_CHECKING:
    from gallop_ray.library.adapter import SparseAdapter as SparseAdapter
    from gallop_ray.library.adapter import attach as attach
    from gallop_ray.library.selection import select_mask as select_mask
    from gallop_ray.library.trainer import RefreshCallback as RefreshCallback
    from gallop_ray.sparse.adapter import apply_adapter as apply_adapter
    from gallop_ray.sparse.candidates import find_candidates as find_candidates
    from gallop_ray.sparse.mask import Mask as Mask
    from gallop_ray.sparse.optimizers import EntryAdamW as EntryAdamW
    from gallop_ray.spec.mask_methods import FisherSpec as FisherSpec
    from gallop_ray.spec.mask_methods import GallopSpec as GallopSpec
    from gallop_ray.spec.mask_methods import GasduSpec as GasduSpec
    from gallop_ray.spec.mask_methods import GemSpec as GemSpec
    from gallop_ray.spec.mask_methods import LiftSpec as LiftSpec
    from gallop_ray.spec.mask_methods import LtSftSpec as LtSftSpec
    from gallop_ray.spec.mask_methods import MagnitudeSpec as MagnitudeSpec
    from gallop_ray.spec.mask_methods import RandomSpec as RandomSpec
    from gallop_ray.spec.mask_methods import S2ftSpec as S2ftSpec
    from gallop_ray.spec.mask_methods import SaftSpec as SaftSpec
    from gallop_ray.spec.mask_methods import SaraSpec as SaraSpec
    from gallop_ray.spec.mask_methods import SiftSpec as SiftSpec
    from gallop_ray.spec.mask_methods import SkeletonSpec as SkeletonSpec
    from gallop_ray.spec.mask_methods import SmtSpec as SmtSpec
    from gallop_ray.spec.mask_methods import SnipSpec as SnipSpec
    from gallop_ray.spec.mask_methods import SpielSpec as SpielSpec
    from gallop_ray.spec.mask_methods import TaylorSpec as TaylorSpec
    from gallop_ray.spec.mask_methods import WandaSpec as WandaSpec
    from gallop_ray.spec.method import LoraRank as LoraRank

_HOMES = {
    "attach": "gallop_ray.library.adapter",
    "SparseAdapter": "gallop_ray.library.adapter",
    "select_mask": "gallop_ray.library.selection",
    "RefreshCallback": "gallop_ray.library.trainer",
    "apply_adapter": "gallop_ray.sparse.adapter",
    "find_candidates": "gallop_ray.sparse.candidates",
    "Mask": "gallop_ray.sparse.mask",
    "EntryAdamW": "gallop_ray.sparse.optimizers",
    "LoraRank": "gallop_ray.spec.method",
    **{each.__name__: each.__module__ for each in BUILT_IN.values() if issubclass(each, MaskMethodSpec)},
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
