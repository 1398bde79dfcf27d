"""The training methods: how trainable parameters are chosen and attached."""

from collections.abc import Callable
from typing import Any

from gallop_ray.methods.contract import Attachment, MaskMethod, MatrixState, RefreshedMethod, TunerMethod
from gallop_ray.methods.full import Full, Lines, Vanilla, WiseFt
from gallop_ray.methods.gallop import Gallop
from gallop_ray.methods.gradient import Saft, Sift, Smt, Snip
from gallop_ray.methods.lift import Lift
from gallop_ray.methods.magnitude import Magnitude, Sara
from gallop_ray.methods.peft import Dora, Lora, Peft
from gallop_ray.methods.random import Random
from gallop_ray.methods.spiel import Spiel

METHODS: dict[str, Callable[[Any], MaskMethod | TunerMethod]] = {
    "gallop": Gallop,
    "saft": Saft,
    "sift": Sift,
    "snip": Snip,
    "magnitude": Magnitude,
    "random": Random,
    "smt": Smt,
    "sara": Sara,
    "lift": Lift,
    "spiel": Spiel,
    "lora": Lora,
    "dora": Dora,
    "peft": Peft,
    "full": Full,
    "wise_ft": WiseFt,
    "lines": Lines,
    "vanilla": Vanilla,
}
"""Every method by the `type` that a sweep file gives it; called with the method's options."""

__all__ = ["METHODS", "Attachment", "MaskMethod", "MatrixState", "RefreshedMethod", "TunerMethod"]
