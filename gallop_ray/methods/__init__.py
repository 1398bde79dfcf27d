"""The training methods: how trainable parameters are chosen and attached."""

from collections.abc import Callable
from typing import Any

from gallop_ray.methods.contract import Attachment, MaskMethod, TunerMethod
from gallop_ray.methods.full import Full
from gallop_ray.methods.gallop import Gallop
from gallop_ray.methods.lora import Lora
from gallop_ray.methods.random import Random

METHODS: dict[str, Callable[[Any], MaskMethod | TunerMethod]] = {
    "gallop": Gallop,
    "random": Random,
    "lora": Lora,
    "full": Full,
}
"""Every method by the `type` that a sweep file gives it; called with the method's options."""

__all__ = ["METHODS", "Attachment", "MaskMethod", "TunerMethod"]
