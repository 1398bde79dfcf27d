"""The training methods: how trainable parameters are chosen and attached.

`gallop_ray.spec.registry` lists them; each is imported on first use.
"""

from gallop_ray.methods.contract import (
    Attachment,
    MaskMethod,
    MatrixState,
    RefreshedMethod,
    StepwiseAttachment,
    TunerMethod,
)
from gallop_ray.spec.method import GradientMethodSpec, MaskMethodSpec, MethodSpec, RefreshedMethodSpec
from gallop_ray.spec.plugins import load_object

__all__ = [
    "Attachment",
    "GradientMethodSpec",
    "MaskMethod",
    "MaskMethodSpec",
    "MatrixState",
    "MethodSpec",
    "RefreshedMethod",
    "RefreshedMethodSpec",
    "StepwiseAttachment",
    "TunerMethod",
    "make_method",
    "method_class",
]


def method_class(spec: type[MethodSpec]) -> type[MaskMethod | TunerMethod]:
    """The class that implements a method with these options. Raises TypeError where it is not a method."""
    found = load_object(spec.implementation) if isinstance(spec.implementation, str) else spec.implementation
    if not isinstance(found, type) or not issubclass(found, MaskMethod | TunerMethod):
        raise TypeError(f"{found!r} is neither a MaskMethod nor a TunerMethod")
    return found


def make_method(spec: MethodSpec) -> MaskMethod | TunerMethod:
    """A method with its options. Raises ValueError for options that it refuses."""
    return method_class(type(spec))(spec)  # type: ignore[arg-type]
