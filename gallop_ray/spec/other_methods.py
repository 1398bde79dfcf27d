"""The options of the methods without a mask, and of those with more than one. Their work is in gallop_ray.methods."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator

from gallop_ray.spec.method import Density, Fraction, MaskMethodSpec, MethodSpec, Modules, built_in

_LORA_ALPHA = 16  # where a sweep gives no scale


@built_in("peft:Lora")
class LoraSpec(MethodSpec):
    """LoRA (arXiv 2106.09685) through PEFT."""

    type: Literal["lora"] = "lora"
    rank: int = Field(default=8, ge=1, description="r, the inner size of the added matrices")
    alpha: int | None = Field(
        default=None, ge=1, description="the added product is scaled by alpha / rank; null: 16, or by alpha_over_rank"
    )
    alpha_over_rank: float | None = Field(
        default=None, gt=0, description="the scale itself, instead of alpha: the same for every rank that is searched"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the inputs of the added matrices")
    target_modules: Modules | None = Field(default=None, description="as for masks, linear layers and experts only")

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if self.alpha is not None and self.alpha_over_rank is not None:
            raise ValueError("alpha and alpha_over_rank exclude each other; leave one of them out")
        return self

    @property
    def chosen_alpha(self) -> Any:
        """PEFT's lora_alpha, however it was given: an int, or from alpha_over_rank a float, which PEFT takes too."""
        return self.alpha or (_LORA_ALPHA if self.alpha_over_rank is None else self.alpha_over_rank * self.rank)


@built_in("peft:Dora")
class DoraSpec(LoraSpec):
    """DoRA (arXiv 2402.09353) through PEFT."""

    type: Literal["dora"] = "dora"  # type: ignore[assignment]


@built_in("peft:Peft")
class PeftSpec(MethodSpec):
    """Any other tuner of PEFT, by the name that PEFT gives it (ia3, vera, oft, ...), with the options of its config."""

    type: Literal["peft"] = "peft"
    tuner: Annotated[str, Field(min_length=1)] = Field(description="PEFT's name of the tuner, in lower case")
    options: dict[str, Any] = Field(default={}, description="fields of the tuner's own configuration class")
    target_modules: Modules | None = Field(default=None, description="as for masks, unless the options name them")


@built_in("hybrid:Hybrid")
class HybridSpec(MethodSpec):
    """A mask and a tuner of PEFT at once, trained together."""

    type: Literal["hybrid"] = "hybrid"
    parts: tuple[dict[str, Any], ...] = Field(
        min_length=2, max_length=2, description="a method with a mask, then lora, dora or peft, each as under `methods`"
    )
    density: Density | None = Field(
        default=None, description="of both together, the mask gets what the tuner leaves; null: as the parts say"
    )

    @property
    def part_specs(self) -> tuple[MethodSpec, MethodSpec]:
        """The options of mask and tuner. Raises ValueError for unknown ones."""
        from gallop_ray.spec.registry import method_spec

        try:
            mask, tuner = (method_spec(str(part.get("type"))).model_validate(part) for part in self.parts)
        except ValidationError as error:
            first = error.errors()[0]
            what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
            raise ValueError(f"parts: {'.'.join(map(str, first['loc']))}: {what}") from None
        return mask, tuner

    @model_validator(mode="after")
    def _a_mask_and_a_tuner(self) -> Self:
        from gallop_ray.spec.peft_tuners import refused_beside

        mask, tuner = self.part_specs
        if not isinstance(mask, MaskMethodSpec) or mask.refreshes:
            raise ValueError(f"parts must begin with a method whose mask stays as it is, which {mask.type} has not")
        if not isinstance(tuner, LoraSpec | PeftSpec):
            raise ValueError(f"parts must end with lora, dora or peft, not {tuner.type}")
        if isinstance(tuner, DoraSpec) and tuner.dropout:  # PEFT then computes part of the output past the entries
            raise ValueError("parts: dora beside a mask has no dropout")
        if isinstance(tuner, PeftSpec) and (reason := refused_beside(tuner.tuner, tuner.options)):
            raise ValueError(f"parts: {tuner.tuner} is not allowed; {reason}")
        return self


@built_in("hybrid:Rosa")
class RosaSpec(MethodSpec):
    """RoSA (arXiv 2401.04679): LoRA and the entries with the largest gradients after a warm-up of LoRA alone."""

    type: Literal["rosa"] = "rosa"
    density: Density | None = Field(
        default=None, description="of both together, the mask gets what LoRA leaves; null: see sparse_density"
    )
    sparse_density: Density = Field(default=0.003, description="of the mask alone, where density is null")
    rank: int = Field(default=16, ge=1, description="r of LoRA")
    alpha: int = Field(default=16, ge=1, description="the added product is scaled by alpha / rank")
    warmup_steps: int = Field(default=64, ge=1, description="steps of LoRA alone, undone before the training begins")
    target_modules: Modules | None = Field(default=None, description="as for masks, linear layers only")


@built_in("full:Full")
class FullSpec(MethodSpec):
    """Full fine-tuning: every parameter of the model."""

    trains_weights: ClassVar[bool] = True

    type: Literal["full"] = "full"


@built_in("full:ChildTuning")
class ChildTuningSpec(MethodSpec):
    """Child-Tuning-F (arXiv 2109.05687): full fine-tuning, each step with a random share of the gradient."""

    trains_weights: ClassVar[bool] = True

    type: Literal["child_tuning"] = "child_tuning"
    share: Fraction = Field(default=0.3, description="of the entries of the gradient that a step keeps; ours")


@built_in("full:WiseFt")
class WiseFtSpec(MethodSpec):
    """WiSE-FT (arXiv 2109.01903): full fine-tuning, then alpha of the way from the base to the tuned weights."""

    trains_weights: ClassVar[bool] = True

    type: Literal["wise_ft"] = "wise_ft"
    alpha: float = Field(default=0.5, ge=0, le=1, description="0: the base weights; 1: the tuned ones")


@built_in("full:Lines")
class LinesSpec(MethodSpec):
    """LiNeS (arXiv 2410.17146): full fine-tuning, then a scale of the change that grows from block to block."""

    trains_weights: ClassVar[bool] = True

    type: Literal["lines"] = "lines"
    first: float = Field(default=0.5, ge=0, le=1, description="scale of the first block and what is before it")
    last: float = Field(default=1.0, ge=0, le=1, description="scale of the last block and what is after it")


@built_in("full:Vanilla")
class VanillaSpec(MethodSpec):
    """The base model as it is, evaluated like the others."""

    trains: ClassVar[bool] = False

    type: Literal["vanilla"] = "vanilla"
