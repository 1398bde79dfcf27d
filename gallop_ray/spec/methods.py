"""The options of each training method, as a user writes them. What they do lives in gallop_ray.methods."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)


def leaf_types(annotation: object) -> set[type]:
    """Every plain type inside an annotation, those of literal values too: `{float, LoraRank}` of `float | LoraRank`."""
    inner = get_args(annotation)
    if inner:
        return {leaf for each in inner for leaf in leaf_types(each)}
    return {annotation if isinstance(annotation, type) else type(annotation)}


class Frozen(BaseModel):
    """Base of every part of a sweep: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        types = leaf_types(cls.model_fields[info.field_name].annotation)
        if isinstance(value, bool) and types & {int, float} and bool not in types:
            raise ValueError("must be a number")
        return value


class LoraRank(Frozen):
    """A density given as the number of parameters that LoRA of rank r would train on the same modules."""

    lora_rank: int = Field(ge=1)


def _density_form(value: object) -> str:
    return "as_lora" if isinstance(value, dict | LoraRank) else "fraction"


Fraction = Annotated[float, Field(gt=0, le=1)]
Density = Annotated[
    Annotated[Fraction, Tag("fraction")] | Annotated[LoraRank, Tag("as_lora")], Discriminator(_density_form)
]
Modules = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


def _method_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_\-]+", value):
        raise ValueError("must be of lower-case letters, digits, `_` and `-`")
    return value


class MethodSpec(Frozen):
    """What every method has: a name that the search space, the records and the tables use (default: the type)."""

    type: str
    name: Annotated[str, AfterValidator(_method_name)] = ""

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_type(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name"):
            return {**data, "name": cls.model_fields["type"].default}
        return data


class MaskMethodSpec(MethodSpec):
    """A method that trains a chosen set of entries of the target weight matrices."""

    density: Density = 0.01
    target_modules: Modules | None = None


class GallopSpec(MaskMethodSpec):
    """GaLLoP (arXiv 2510.19778): large mean task gradient over small pre-trained magnitude.

    The defaults of density, selection_ratio and eps are ours.
    """

    type: Literal["gallop"] = "gallop"
    selection_ratio: Fraction = 0.1
    eps: float = Field(default=1e-8, gt=0)
    zero_guard: Literal["exclude", "none"] = "exclude"


class RandomSpec(MaskMethodSpec):
    """Uniformly random entries: the baseline that every score has to beat."""

    type: Literal["random"] = "random"


class LoraSpec(MethodSpec):
    """LoRA through PEFT."""

    type: Literal["lora"] = "lora"
    rank: int = Field(default=8, ge=1)
    alpha: int = Field(default=16, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: Modules | None = None


class FullSpec(MethodSpec):
    """Full fine-tuning: every parameter of the model."""

    type: Literal["full"] = "full"


def _type(value: object) -> object:
    return value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)


# pydantic's own discriminator on a field refuses validators on it, which Frozen has: hence a function.
AnyMethodSpec = Annotated[
    Annotated[GallopSpec, Tag("gallop")]
    | Annotated[RandomSpec, Tag("random")]
    | Annotated[LoraSpec, Tag("lora")]
    | Annotated[FullSpec, Tag("full")],
    Discriminator(_type),
]
