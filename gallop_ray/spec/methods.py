"""The options of each training method, as a user writes them. What they do lives in gallop_ray.methods."""

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
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


class LoraRank(Frozen):
    """A density given as the number of parameters that LoRA of rank r would train on the same modules."""

    lora_rank: int = Field(ge=1, description="r: r x (in + out) entries of every matrix")


def _density_form(value: object) -> str:
    return "as_lora" if isinstance(value, dict | LoraRank) else "fraction"


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
    entry_ages: ClassVar[bool] = False
    """Whether an entry that is chosen later counts optimizer steps of its own, for Adam's bias correction."""
    decays_to_base: ClassVar[bool] = True
    """Whether weight decay can pull what it trains to the base: as a mask's entries, or as added parameters' zero."""

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

    evidence: ClassVar[Literal["gradients", "squares", "inputs"]] = "gradients"
    """What the mean over examples is of, where the score needs examples: gradients, the squares of each example's
    gradient, or the squares of the layers' inputs summed over tokens."""

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


def _built_in(implementation: str) -> Callable[[_Spec], _Spec]:
    """A method of this package, and where in `gallop_ray.methods` its implementation is."""

    def register(spec: _Spec) -> _Spec:
        spec.implementation = f"gallop_ray.methods.{implementation}"
        options: type[MethodSpec] = spec
        BUILT_IN[options.model_fields["type"].default] = spec
        return spec

    return register


@_built_in("gallop:Gallop")
class GallopSpec(GradientMethodSpec):
    """GaLLoP (arXiv 2510.19778): large mean task gradient over small pre-trained magnitude.

    The exponents balance the two; 1 and 1 are GaLLoP. The defaults of density, selection_ratio and eps are ours.
    """

    type: Literal["gallop"] = "gallop"
    gradient_exponent: float = Field(default=1.0, ge=0, description="a of |g|^a / (|w| + eps)^b")
    magnitude_exponent: float = Field(default=1.0, ge=0, description="b of |g|^a / (|w| + eps)^b")
    eps: float = Field(default=1e-8, gt=0, description="added to |w|, so that nothing is divided by 0")
    zero_guard: Literal["exclude", "none"] = Field(
        default="exclude", description="`exclude`: never train |w| <= eps; `none`: the formula as published"
    )


@_built_in("gallop:Gem")
class GemSpec(GradientMethodSpec):
    """GEM (arXiv 2508.16191): GaLLoP's ratio, with a budget per matrix by norm and entropy of its ratios."""

    type: Literal["gem"] = "gem"
    scope: Literal["entropy"] = Field(default="entropy", description="as in its authors' code")
    variant: Literal["norm_times_entropy", "norm_over_entropy"] = Field(
        default="norm_times_entropy", description="of a matrix's budget; the latter is the code's of April 2025"
    )
    eps: float = Field(default=1e-8, gt=0, description="added to |w|, as in the authors' code")
    zero_guard: Literal["exclude", "none"] = Field(
        default="exclude", description="`exclude`: never train |w| <= eps; `none`: the formula as published"
    )


@_built_in("gradient:Saft")
class SaftSpec(GradientMethodSpec):
    """SAFT (arXiv 2407.03036): large mean task gradient."""

    type: Literal["saft"] = "saft"


@_built_in("gradient:Sift")
class SiftSpec(MaskMethodSpec):
    """SIFT (arXiv 2312.11875): large gradient, int(rate x numel) + 1 entries of each matrix."""

    needs_gradients: ClassVar[bool] = True

    type: Literal["sift"] = "sift"
    selection_ratio: Fraction | None = Field(default=None, description="null: the first batch, as in the paper")
    first: Literal["batch", "micro_batch"] = Field(
        default="batch", description="what of the first batch is scored; the latter is what the authors' code does"
    )
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own, as in the paper")


@_built_in("gradient:Snip")
class SnipSpec(GradientMethodSpec):
    """SNIP's saliency (arXiv 1810.02340): large product of weight and mean gradient."""

    type: Literal["snip"] = "snip"


@_built_in("saliency:Skeleton")
class SkeletonSpec(GradientMethodSpec):
    """Skeletonization (Mozer and Smolensky 1989): entries whose removal would raise the loss, -w g."""

    type: Literal["skeleton"] = "skeleton"


@_built_in("saliency:Fisher")
class FisherSpec(GradientMethodSpec):
    """FISH Mask (arXiv 2111.09839): the empirical Fisher information, mean square of each example's gradient."""

    evidence: ClassVar[Literal["gradients", "squares", "inputs"]] = "squares"

    type: Literal["fisher"] = "fisher"


@_built_in("saliency:Taylor")
class TaylorSpec(GradientMethodSpec):
    """First-order Taylor importance (arXiv 1906.10771): mean of each example's (w g)^2."""

    evidence: ClassVar[Literal["gradients", "squares", "inputs"]] = "squares"

    type: Literal["taylor"] = "taylor"


@_built_in("saliency:Wanda")
class WandaSpec(GradientMethodSpec):
    """Wanda's score (arXiv 2306.11695): |w| times the norm of its input."""

    evidence: ClassVar[Literal["gradients", "squares", "inputs"]] = "inputs"

    type: Literal["wanda"] = "wanda"
    scope: Literal["global", "per_layer", "per_matrix", "per_row", "entropy"] = Field(
        default="per_row", description="as for masks; the paper compares the entries of a row"
    )


@_built_in("magnitude:Magnitude")
class MagnitudeSpec(MaskMethodSpec):
    """The largest or the smallest pre-trained weights."""

    type: Literal["magnitude"] = "magnitude"
    choose: Literal["highest", "lowest"] = Field(default="highest", description="which weights to train")


@_built_in("random:Random")
class RandomSpec(MaskMethodSpec):
    """Uniformly random entries: the baseline that every score has to beat."""

    type: Literal["random"] = "random"


@_built_in("gradient:Smt")
class SmtSpec(GradientMethodSpec):
    """SMT (arXiv 2405.15525): square blocks with a large mean gradient."""

    type: Literal["smt"] = "smt"
    block_size: int = Field(default=256, ge=1, description="rows and columns of a block")
    block_score: Literal["mean_of_absolute", "absolute_of_mean"] = Field(
        default="mean_of_absolute", description="of the gradients in a block; the latter is what the authors' code does"
    )


@_built_in("saliency:LtSft")
class LtSftSpec(MaskMethodSpec):
    """LT-SFT (arXiv 2110.07560): the entries that full fine-tuning changes most, trained again from the base."""

    type: Literal["lt_sft"] = "lt_sft"
    warmup_steps: int | None = Field(
        default=None, ge=1, description="steps of full fine-tuning, then undone; null: as many as the training has"
    )


@_built_in("units:S2ft")
class S2ftSpec(MaskMethodSpec):
    """S2FT (arXiv 2412.06289): random channels, whole columns of the matrices that read them."""

    type: Literal["s2ft"] = "s2ft"
    target_modules: Modules | None = Field(
        default=("down_proj",), description="as for masks; by default those of the authors' code"
    )
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="a share of each matrix's channels")


@_built_in("gradient:Gasdu")
class GasduSpec(RefreshedMethodSpec):
    """GASDU: the largest gradients of the present batch, per matrix, reselected as training goes on."""

    needs_gradients: ClassVar[bool] = True
    entry_ages: ClassVar[bool] = True

    type: Literal["gasdu"] = "gasdu"
    selection_ratio: Fraction | None = Field(default=None, description="null: the first batch")
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own")
    refresh_every: int = Field(default=50, ge=1, description="optimizer steps from one choice to the next")


@_built_in("magnitude:Sara")
class SaraSpec(RefreshedMethodSpec):
    """SaRA (arXiv 2409.06633): the smallest weights, reselected once."""

    entry_ages: ClassVar[bool] = True

    type: Literal["sara"] = "sara"
    scope: Literal["global"] = Field(default="global", description="one threshold for all, as in the paper")
    refresh_at: Fraction = Field(default=0.5, description="share of the training after which to reselect")


@_built_in("lift:Lift")
class LiftSpec(RefreshedMethodSpec):
    """LIFT (arXiv 2506.00772): large entries of the weight's low-rank approximation. The interval is ours."""

    type: Literal["lift"] = "lift"
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own, as in the paper")
    rank: int = Field(default=16, ge=1, description="rank of the approximation")
    refresh_every: int = Field(default=200, ge=1, description="optimizer steps from one choice to the next")


@_built_in("spiel:Spiel")
class SpielSpec(RefreshedMethodSpec):
    """SpIEL-AG (arXiv 2401.16405): drop what changed least, grow where the gradient is large."""

    entry_ages: ClassVar[bool] = True

    type: Literal["spiel"] = "spiel"
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own, as in the paper")
    refresh_every: int = Field(default=20, ge=1, description="optimizer steps from one choice to the next")
    accumulate: int = Field(default=5, ge=1, description="optimizer steps whose gradients decide what grows")
    initial_rate: Fraction = Field(
        default=0.2, description="share that is replaced, falling to 0; the first choice replaces all"
    )
    delta_decay: float = Field(
        default=0.0, ge=0, description="weight decay of the delta, decoupled from the gradient: pulls to the base"
    )

    @model_validator(mode="after")
    def _accumulate_within_interval(self) -> Self:
        if self.accumulate > self.refresh_every:
            raise ValueError(f"accumulate must not exceed refresh_every, which is {self.refresh_every}")
        return self


_LORA_ALPHA = 16  # where a sweep gives no scale


@_built_in("peft:Lora")
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


@_built_in("peft:Dora")
class DoraSpec(LoraSpec):
    """DoRA (arXiv 2402.09353) through PEFT."""

    type: Literal["dora"] = "dora"  # type: ignore[assignment]


@_built_in("peft:Peft")
class PeftSpec(MethodSpec):
    """Any other tuner of PEFT, by the name that PEFT gives it (ia3, vera, oft, ...), with the options of its config."""

    type: Literal["peft"] = "peft"
    tuner: Annotated[str, Field(min_length=1)] = Field(description="PEFT's name of the tuner, in lower case")
    options: dict[str, Any] = Field(default={}, description="fields of the tuner's own configuration class")
    target_modules: Modules | None = Field(default=None, description="as for masks, unless the options name them")


@_built_in("hybrid:Hybrid")
class HybridSpec(MethodSpec):
    """A mask and a tuner of PEFT at once, trained together."""

    decays_to_base: ClassVar[bool] = False

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


@_built_in("hybrid:Rosa")
class RosaSpec(MethodSpec):
    """RoSA (arXiv 2401.04679): LoRA and the entries with the largest gradients after a warm-up of LoRA alone."""

    decays_to_base: ClassVar[bool] = False

    type: Literal["rosa"] = "rosa"
    density: Density | None = Field(
        default=None, description="of both together, the mask gets what LoRA leaves; null: see sparse_density"
    )
    sparse_density: Density = Field(default=0.003, description="of the mask alone, where density is null")
    rank: int = Field(default=16, ge=1, description="r of LoRA")
    alpha: int = Field(default=16, ge=1, description="the added product is scaled by alpha / rank")
    warmup_steps: int = Field(default=64, ge=1, description="steps of LoRA alone, undone before the training begins")
    target_modules: Modules | None = Field(default=None, description="as for masks, linear layers only")


@_built_in("full:Full")
class FullSpec(MethodSpec):
    """Full fine-tuning: every parameter of the model."""

    decays_to_base: ClassVar[bool] = False

    type: Literal["full"] = "full"


@_built_in("full:ChildTuning")
class ChildTuningSpec(MethodSpec):
    """Child-Tuning-F (arXiv 2109.05687): full fine-tuning, each step with a random share of the gradient."""

    decays_to_base: ClassVar[bool] = False

    type: Literal["child_tuning"] = "child_tuning"
    share: Fraction = Field(default=0.3, description="of the entries of the gradient that a step keeps; ours")


@_built_in("full:WiseFt")
class WiseFtSpec(MethodSpec):
    """WiSE-FT (arXiv 2109.01903): full fine-tuning, then alpha of the way from the base to the tuned weights."""

    decays_to_base: ClassVar[bool] = False

    type: Literal["wise_ft"] = "wise_ft"
    alpha: float = Field(default=0.5, ge=0, le=1, description="0: the base weights; 1: the tuned ones")


@_built_in("full:Lines")
class LinesSpec(MethodSpec):
    """LiNeS (arXiv 2410.17146): full fine-tuning, then a scale of the change that grows from block to block."""

    decays_to_base: ClassVar[bool] = False

    type: Literal["lines"] = "lines"
    first: float = Field(default=0.5, ge=0, le=1, description="scale of the first block and what is before it")
    last: float = Field(default=1.0, ge=0, le=1, description="scale of the last block and what is after it")


@_built_in("full:Vanilla")
class VanillaSpec(MethodSpec):
    """The base model as it is, evaluated like the others."""

    trains: ClassVar[bool] = False

    type: Literal["vanilla"] = "vanilla"
