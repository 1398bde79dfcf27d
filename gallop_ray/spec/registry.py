"""The registry of methods: the built-in ones, those of installed packages, and `module:Class`.

A method is registered by its options, which name its implementation. Nothing else lists the methods: schema, init,
reference, messages and the contract's tests use this.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from gallop_ray.spec import mask_methods, other_methods  # noqa: F401  (they fill BUILT_IN)
from gallop_ray.spec.method import BUILT_IN, MethodSpec
from gallop_ray.spec.plugins import installed, is_reference, load_installed, load_object
from gallop_ray.spec.problems import did_you_mean, known_keys

GROUP = "gallop_ray.methods"
"""The entry points by which a package offers methods: `name = "module:Class"`."""

STORED = {"unchecked": True, "stored": True}
"""The validation context for a Sweep or a Configuration from records, in processes that do not run methods.

A method that is not built in becomes a StoredMethodSpec, and nothing is imported for it. Fields are not checked against
each other, as with UNCHECKED.
"""


class StoredMethodSpec(MethodSpec):
    """Options of a method from records, whether or not it is installed here."""

    model_config = ConfigDict(extra="allow")


def method_types() -> list[str]:
    """All types with a name: the built-in ones in their order, then those of installed packages."""
    return [*BUILT_IN, *(name for name in sorted(installed(GROUP)) if name not in BUILT_IN)]


def method_spec(kind: str) -> type[MethodSpec]:
    """The options of a method by its type. Raises ValueError for an unknown type, with the known ones."""
    if kind in BUILT_IN:
        return BUILT_IN[kind]
    if is_reference(kind):
        return _of_class(kind, load_object(kind))
    if kind in installed(GROUP):
        return _of_class(kind, load_installed(GROUP, kind))
    known = method_types()
    raise ValueError(f"must be one of {', '.join(map(repr, known))}, or module:Class{did_you_mean(kind, known)}")


def method_specs() -> Iterator[type[MethodSpec]]:
    """The options of all methods with a name, without those of installed packages that fail to load."""
    for kind in method_types():
        try:
            yield method_spec(kind)
        except ValueError:
            continue


@cache
def _of_class(kind: str, method: Any) -> type[MethodSpec]:
    """The options of a method's class, with its type in sweep files."""
    options = getattr(method, "Options", None)
    if not isinstance(method, type) or not isinstance(options, type) or not issubclass(options, MethodSpec):
        raise ValueError(f"{method!r} is no method; derive it from MaskMethod, RefreshedMethod or TunerMethod")
    name = f"{method.__name__}Spec"
    doc = options.__doc__ if "Options" in vars(method) and options.__module__ == method.__module__ else method.__doc__
    make: Any = create_model  # typed for fields that are written down
    made = make(name, __base__=options, __module__=method.__module__, __doc__=doc, type=(Literal[kind], kind))
    made.implementation = method
    spec: type[MethodSpec] = made
    return spec


def _with_class(value: object, info: ValidationInfo) -> object:
    """Options as instances of the class that the type names; instances stay unchanged."""
    if isinstance(value, MethodSpec):
        return value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind is None:
        raise PydanticCustomError("method_without_type", "every method needs a type")
    stored = isinstance(info.context, dict) and info.context.get("stored", False)
    if stored and kind not in BUILT_IN:
        return StoredMethodSpec.model_validate(value)
    try:
        spec = method_spec(str(kind))
    except ValueError as error:
        raise PydanticCustomError("method_unknown", "{reason}", {"reason": str(error)}) from None
    try:
        return spec.model_validate(value, context=info.context)
    except ValidationError as error:
        details = [_detailed(each, spec) for each in error.errors(include_url=False)]
        raise ValidationError.from_exception_data(spec.__name__, details) from None


def _detailed(error: ErrorDetails, spec: type[MethodSpec]) -> InitErrorDetails:
    """The same error, but for an unknown key with the known ones, which a Sweep's own fields do not show."""
    kind: str | PydanticCustomError = error["type"]
    if kind == "extra_forbidden":
        kind = PydanticCustomError("extra_forbidden", "unknown key", {"known": known_keys(error["loc"][:-1], spec)})
    return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=error.get("ctx", {}))


AnyMethodSpec = Annotated[SerializeAsAny[MethodSpec], BeforeValidator(_with_class)]
"""A field for the options of any method."""
