"""PyTorch: the tables of a module, the identity of a storage, and kernels that have no public name."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gallop_ray.compat.probe import require

HOOK_TABLES = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
"""The attributes in which a module keeps its hooks."""
GROUPED_PRODUCTS = (functional.grouped_mm, torch._grouped_mm)
"""The products of experts; the first calls the second, and models call either."""


def probe() -> None:
    """Raises Incompatible."""
    tables = vars(nn.Module())
    require(
        "torch",
        {name: lambda name=name: name in tables for name in ("_parameters", "_buffers", *HOOK_TABLES)}
        | {
            "UntypedStorage._cdata": lambda: torch.empty(1).untyped_storage()._cdata,
            "ops.aten._scaled_dot_product_flash_attention_for_cpu": (
                lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            ),
        },
    )


def parameter_table(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters as stored, not as parametrizations present them."""
    return module._parameters


def has_hooks(parameter: Tensor) -> tuple[bool, bool]:
    """Whether a parameter has hooks on its gradient, and hooks after its accumulation."""
    return bool(parameter._backward_hooks), bool(parameter._post_accumulate_grad_hooks)


def buffer_table(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers."""
    return module._buffers


def storage_key(storage: torch.UntypedStorage) -> int:
    """An id shared by tensors with the same storage, also on the meta device, where all addresses are 0."""
    return int(storage._cdata)


def flash_attention_on_cpu(*args: Any, **kwargs: Any) -> Tensor:
    """The kernel that torch uses for attention on a CPU, which saves no attention weights."""
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*args, **kwargs)[0]
    return attended
