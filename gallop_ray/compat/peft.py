"""PEFT: names that it converts, modules that it refuses, weights that LoRA's inits change, AdaLoRA's allocator."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.tuners import tuners_utils
from peft.tuners.adalora.layer import RankAllocator
from peft.tuners.adalora.model import AdaLoraModel
from peft.tuners.lora import LoraLayer
from peft.utils import transformers_weight_conversion as conversion
from torch import nn

from gallop_ray.compat.probe import require

_CONVERT = "convert_peft_config_for_transformers"
_REFUSES = "_check_lora_target_modules_mamba"
_ALLOCATOR = "rankallocator"
_INITS = ("pissa_init", "olora_init")


def probe() -> None:
    """Raises Incompatible."""
    require(
        "peft",
        {
            f"transformers_weight_conversion.{_CONVERT}": lambda: getattr(conversion, _CONVERT),
            f"tuners_utils.{_REFUSES}": lambda: getattr(tuners_utils, _REFUSES),
            **{f"LoraLayer.{name}": partial(getattr, LoraLayer, name) for name in _INITS},
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


@contextmanager
def weights_as_they_are() -> Iterator[None]:
    """Context manager: where LoRA begins with a part of a weight, PEFT does not subtract that from the weight."""
    before = {name: getattr(LoraLayer, name) for name in _INITS}
    for name, init in before.items():
        setattr(LoraLayer, name, _then_put_back(init))
    try:
        yield
    finally:
        for name, init in before.items():
            setattr(LoraLayer, name, init)


def _then_put_back(init: Callable[..., None]) -> Callable[..., None]:
    def initialize(layer: Any, *args: Any, **options: Any) -> None:
        weight = layer.get_base_layer().weight
        if weight.is_meta:  # an estimate, which needs shapes alone
            return
        place, values = weight.data, weight.data.clone()
        init(layer, *args, **options)
        place.copy_(values)  # olora has written into it
        weight.data = place

    return initialize


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
