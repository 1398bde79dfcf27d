"""The base of every part of a sweep: immutable, and strict about what it takes."""

from typing import Annotated, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


def leaf_types(annotation: object) -> set[type]:
    """Every plain type inside an annotation, those of literal values too: `{float, LoraRank}` of `float | LoraRank`."""
    inner = get_args(annotation)
    if inner:
        return {leaf for each in inner for leaf in leaf_types(each)}
    return {annotation if isinstance(annotation, type) else type(annotation)}


def _is_single(annotation: object) -> bool:
    """Whether a field takes one value and never a list or a section."""
    return get_origin(annotation) not in (tuple, dict) and all(map(_is_single, get_args(annotation)))


class Frozen(BaseModel):
    """Base of every part of a sweep: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        types = leaf_types(annotation)
        if isinstance(value, bool) and types & {int, float} and bool not in types:
            raise ValueError("must be a number")
        # pydantic would take "010" for ten, which is 8 to some and text to YAML.
        if isinstance(value, str) and types & {int, float} and str not in types and _is_single(annotation):
            raise ValueError("must be a number" if float in types else "must be a whole number")
        return value


Text = Annotated[str, Field(min_length=1)]
