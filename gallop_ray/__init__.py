"""Distributed sweeps of sparse fine-tuning of language models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gallop_ray.sparse.adapter import apply_adapter as apply_adapter

__version__ = "0.1.0"
__all__ = ["__version__", "apply_adapter"]


def __getattr__(name: str) -> Any:
    """`apply_adapter` when it is asked for: importing gallop_ray must not import torch."""
    if name == "apply_adapter":
        from gallop_ray.sparse.adapter import apply_adapter

        return apply_adapter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
