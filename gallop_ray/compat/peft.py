"""PEFT: its conversion of module names from earlier versions, the modules it refuses by name, AdaLoRA's allocator."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners import tuners_utils
from peft.tuners.adalora.layer import RankAllocator
from peft.tuners.adalora.model import AdaLoraModel
from peft.utils import transformers_weight_conversion as conversion
from torch import nn

from gallop_ray.compat.probe import require

_CONVERT = "convert_peft_config_for_transformers"
_REFUSES = "_check_lora_target_modules_mamba"
_ALLOCATOR = "rankallocator"


def probe() -> None:
    """Raises Incompatible."""
    require(
        "peft",
        {
            f"transformers_weight_conversion.{_CONVERT}": lambda: getattr(conversion, _CONVERT),
            f"tuners_utils.{_REFUSES}": lambda: getattr(tuners_utils, _REFUSES),
            f"AdaLoraModel.{_ALLOCATOR}": lambda: _ALLOCATOR in AdaLoraModel.__init__.__code__.co_names,
            **{f"RankAllocator.{name}": partial(_resets, name) for name in ("ipt", "exp_avg_ipt", "exp_avg_unc")},
            "RankAllocator.update_and_allocate": lambda: RankAllocator.update_and_allocate,
        },
    )


@contextmanager
def names_as_they_are() -> Iterator[None]:
    """Context manager: PEFT adapts exactly the modules and parameters that a configuration names.

    In some mixtures of experts it otherwise takes `up_proj` and the like, of dense blocks and shared experts, for the
    experts' former names: it then adapts the experts twice and the named modules not at all.
    """
    before = getattr(conversion, _CONVERT)
    setattr(conversion, _CONVERT, _nothing)
    try:
        yield
    finally:
        setattr(conversion, _CONVERT, before)


def takes(config: Any, model: nn.Module, module: str) -> bool:
    """Whether a tuner of this configuration may adapt a module: Mamba's kernels read some weights past their layers."""
    try:
        getattr(tuners_utils, _REFUSES)(config, model, module.rpartition(".")[2])
    except ValueError:
        return False
    return True


def allocator_of(module: Any) -> Any:
    """What decides, in a model with an AdaLoRA adapter, which ranks are pruned."""
    return getattr(module.base_model, _ALLOCATOR)


def _resets(name: str) -> bool:
    """Whether the allocator keeps a state of this name."""
    return name in RankAllocator.reset_ipt.__code__.co_names


def _nothing(*_: Any, **__: Any) -> None:
    """Converts nothing."""
