"""What every training method's options have in common, and the table of those of this package."""

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from gallop_ray.spec.frozen import Frozen


class LoraRank(Frozen):
    """A density given as the number of parameters that LoRA of rank r would train on the same modules."""

    lora_rank: int = Field(ge=1, description="r: r x (in + out) entries of every matrix")


def _density_form(value: object) -> str:
    return "as_lora" if isinstance(value, dict | LoraRank) else "fraction"


Evidence = Literal["gradients", "squares", "inputs", "flow", "products"]
Fraction = Annotated[float, Field(gt=0, le=1)]
Density = Annotated[
    Annotated[Fraction, Tag("fraction")] | Annotated[LoraRank, Tag("as_lora")], Discriminator(_density_form)
]
ALL_LINEAR = "all-linear"
"""What target_modules calls every linear layer but the output head; PEFT's word."""


def _modules(value: object) -> object:
    if isinstance(value, str) and value != ALL_LINEAR:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(
                f"must be a list, {ALL_LINEAR} or a regular expression, which this is not: {error}"
            ) from error
    if isinstance(value, tuple) and ALL_LINEAR in value:
        raise ValueError(f"must be {ALL_LINEAR} alone, without a list, or a list without it")
    return value


_NonEmpty = Annotated[str, Field(min_length=1)]
_List = Annotated[tuple[_NonEmpty, ...], Field(min_length=1)]
Modules = Annotated[
    Annotated[
        Annotated[_NonEmpty, Tag("text")] | Annotated[_List, Tag("list")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
    ],
    AfterValidator(_modules),
]
_METHOD_NAME = r"[a-z0-9_\-]+"


def _method_name(value: str) -> str:
    if not re.fullmatch(_METHOD_NAME, value):
        raise ValueError("must be of lower-case letters, digits, `_` and `-`")
    return value


def default_name(kind: str) -> str:
    """What a method is called unless it is given a name: its type, of `module:HalfSeen` half_seen."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.rpartition(":")[2]).lower()


class MethodSpec(Frozen):
    """What every method has: a name that the search space, the records and the tables use (default: the type)."""

    implementation: ClassVar[str | type] = ""
    """The class that does what these options ask for, or `module:Class` of it, so that options need no torch."""
    needs_gradients: ClassVar[bool] = False
    """Whether it scores the mean gradient of examples."""
    trains: ClassVar[bool] = True
    """Whether it has optimizer steps, and so anything to search."""
    refreshes: ClassVar[bool] = False
    """Whether its mask changes while it trains."""
    trains_weights: ClassVar[bool] = False
    """Whether all that it trains are entries of the base model's own weights."""
    entry_ages: ClassVar[bool] = False
    """Whether an entry that is chosen later counts optimizer steps of its own, for Adam's bias correction."""

    type: str
    name: Annotated[str, AfterValidator(_method_name)] = Field(
        default="",
        max_length=100,
        description="by which tables and search.space call it; by default its type",
        json_schema_extra={"pattern": f"^{_METHOD_NAME}$"},
    )

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            kind = cls.model_fields["type"].default or data.get("type")
            return {**data, "name": default_name(str(kind))}
        return data


class MaskMethodSpec(MethodSpec):
    """A method that trains a chosen set of entries of the target weight matrices."""

    trains_weights: ClassVar[bool] = True

    evidence: ClassVar[Evidence] = "gradients"
    """What the mean over examples is of, where the score needs examples: gradients, the squares of each example's
    gradient, or the squares of the layers' inputs summed over tokens; `flow`: of no examples, SynFlow's pass;
    `products`: of the Hessian with the mean gradient."""

    density: Density = Field(
        default=0.01, description="entries to train / all parameters of the base model, or `{lora_rank: r}`"
    )
    target_modules: Modules | None = Field(
        default=None,
        description="a list of ends of module paths, `*` allowed; `all-linear`; any other text: a regular expression "
        "for whole paths; null: the linear layers and experts of all blocks",
    )
    scope: Literal["global", "per_layer", "per_matrix", "per_row", "entropy"] = Field(
        default="global",
        description="which entries compete with each other; `entropy`: as many of a matrix as the norm times the "
        "entropy of its scores says",
    )


class GradientMethodSpec(MaskMethodSpec):
    """A method that scores the mean gradient over a share of the training set. The default share is ours."""

    needs_gradients: ClassVar[bool] = True

    selection_ratio: Fraction = Field(default=0.1, description="share of the examples whose mean gradient is scored")


class RefreshedMethodSpec(MaskMethodSpec):
    """A method that chooses its mask again while it trains."""

    refreshes: ClassVar[bool] = True

    scope: Literal["global", "per_layer", "per_matrix"] = Field(
        default="global", description="which entries compete with each other"
    )


BUILT_IN: dict[str, type[MethodSpec]] = {}
"""The options of the methods of this package, by type, in the order of the reference."""
_Spec = TypeVar("_Spec", bound=type[MethodSpec])


def built_in(implementation: str) -> Callable[[_Spec], _Spec]:
    """A method of this package, and where in `gallop_ray.methods` its implementation is."""

    def register(spec: _Spec) -> _Spec:
        spec.implementation = f"gallop_ray.methods.{implementation}"
        options: type[MethodSpec] = spec
        BUILT_IN[options.model_fields["type"].default] = spec
        return spec

    return register
