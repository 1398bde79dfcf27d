"""The options of each method with a mask, as a user writes them. What they do lives in gallop_ray.methods."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from gallop_ray.spec.method import (
    Evidence,
    Fraction,
    GradientMethodSpec,
    MaskMethodSpec,
    Modules,
    RefreshedMethodSpec,
    built_in,
)


@built_in("gallop:Gallop")
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


@built_in("gallop:Gem")
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


@built_in("gradient:Saft")
class SaftSpec(GradientMethodSpec):
    """SAFT (arXiv 2407.03036): large mean task gradient."""

    type: Literal["saft"] = "saft"


@built_in("gradient:Sift")
class SiftSpec(MaskMethodSpec):
    """SIFT (arXiv 2312.11875): large gradient, int(rate x numel) + 1 entries of each matrix."""

    needs_gradients: ClassVar[bool] = True

    type: Literal["sift"] = "sift"
    selection_ratio: Fraction | None = Field(default=None, description="null: the first batch, as in the paper")
    first: Literal["batch", "micro_batch"] = Field(
        default="batch",
        description="what of the first batch is scored; the latter, of so many examples as the sweep's own "
        "training.micro_batch_size, is what the authors' code does",
    )
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own, as in the paper")


@built_in("gradient:Snip")
class SnipSpec(GradientMethodSpec):
    """SNIP's saliency (arXiv 1810.02340): large product of weight and mean gradient."""

    type: Literal["snip"] = "snip"


@built_in("saliency:Skeleton")
class SkeletonSpec(GradientMethodSpec):
    """Skeletonization (Mozer and Smolensky 1989): entries whose removal would raise the loss, -w g."""

    type: Literal["skeleton"] = "skeleton"


@built_in("saliency:Fisher")
class FisherSpec(GradientMethodSpec):
    """FISH Mask (arXiv 2111.09839): the empirical Fisher information, mean square of each example's gradient."""

    evidence: ClassVar[Evidence] = "squares"

    type: Literal["fisher"] = "fisher"


@built_in("saliency:Taylor")
class TaylorSpec(GradientMethodSpec):
    """First-order Taylor importance (arXiv 1906.10771): mean of each example's (w g)^2."""

    evidence: ClassVar[Evidence] = "squares"

    type: Literal["taylor"] = "taylor"


@built_in("saliency:Wanda")
class WandaSpec(GradientMethodSpec):
    """Wanda's score (arXiv 2306.11695): |w| times the norm of its input."""

    evidence: ClassVar[Evidence] = "inputs"

    type: Literal["wanda"] = "wanda"
    scope: Literal["global", "per_layer", "per_matrix", "per_row", "entropy"] = Field(
        default="per_row", description="as for masks; the paper compares the entries of a row"
    )


@built_in("saliency:Grasp")
class GraspSpec(GradientMethodSpec):
    """GraSP (arXiv 2002.07376): entries that the gradient's norm hangs on, w times the Hessian's product with it."""

    evidence: ClassVar[Evidence] = "products"

    type: Literal["grasp"] = "grasp"
    temperature: float = Field(default=200.0, gt=0, description="what logits are divided by while scoring")


@built_in("saliency:Synflow")
class SynflowSpec(MaskMethodSpec):
    """SynFlow's score (arXiv 2006.05467): what a weight carries of the outputs of a network of |w|; no data."""

    needs_gradients: ClassVar[bool] = True
    evidence: ClassVar[Evidence] = "flow"

    type: Literal["synflow"] = "synflow"


@built_in("magnitude:Magnitude")
class MagnitudeSpec(MaskMethodSpec):
    """The largest or the smallest pre-trained weights."""

    type: Literal["magnitude"] = "magnitude"
    choose: Literal["highest", "lowest"] = Field(default="highest", description="which weights to train")


@built_in("random:Random")
class RandomSpec(MaskMethodSpec):
    """Uniformly random entries: the baseline that every score has to beat."""

    type: Literal["random"] = "random"


@built_in("gradient:Smt")
class SmtSpec(GradientMethodSpec):
    """SMT (arXiv 2405.15525): square blocks with a large mean gradient."""

    type: Literal["smt"] = "smt"
    block_size: int = Field(default=256, ge=1, description="rows and columns of a block")
    block_score: Literal["mean_of_absolute", "absolute_of_mean"] = Field(
        default="mean_of_absolute", description="of the gradients in a block; the latter is what the authors' code does"
    )


@built_in("saliency:LtSft")
class LtSftSpec(MaskMethodSpec):
    """LT-SFT (arXiv 2110.07560): the entries that full fine-tuning changes most, trained again from the base."""

    type: Literal["lt_sft"] = "lt_sft"
    warmup_steps: int | None = Field(
        default=None, ge=1, description="steps of full fine-tuning, then undone; null: as many as the training has"
    )


@built_in("units:S2ft")
class S2ftSpec(MaskMethodSpec):
    """S2FT (arXiv 2412.06289): random channels, whole columns of the matrices that read them."""

    type: Literal["s2ft"] = "s2ft"
    target_modules: Modules | None = Field(
        default=("down_proj",), description="as for masks; by default those of the authors' code"
    )
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="a share of each matrix's channels")


@built_in("gradient:Gasdu")
class GasduSpec(RefreshedMethodSpec):
    """GASDU: the largest gradients of the present batch, per matrix, reselected as training goes on."""

    needs_gradients: ClassVar[bool] = True
    entry_ages: ClassVar[bool] = True

    type: Literal["gasdu"] = "gasdu"
    selection_ratio: Fraction | None = Field(default=None, description="null: the first batch")
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own")
    refresh_every: int = Field(default=50, ge=1, description="optimizer steps from one choice to the next")


@built_in("magnitude:Sara")
class SaraSpec(RefreshedMethodSpec):
    """SaRA (arXiv 2409.06633): the smallest weights, reselected once."""

    entry_ages: ClassVar[bool] = True

    type: Literal["sara"] = "sara"
    scope: Literal["global"] = Field(default="global", description="one threshold for all, as in the paper")
    refresh_at: Fraction = Field(default=0.5, description="share of the training after which to reselect")


@built_in("lift:Lift")
class LiftSpec(RefreshedMethodSpec):
    """LIFT (arXiv 2506.00772): large entries of the weight's low-rank approximation. The interval is ours."""

    type: Literal["lift"] = "lift"
    scope: Literal["per_matrix"] = Field(default="per_matrix", description="each matrix on its own, as in the paper")
    rank: int = Field(default=16, ge=1, description="rank of the approximation")
    refresh_every: int = Field(default=200, ge=1, description="optimizer steps from one choice to the next")


@built_in("spiel:Spiel")
class SpielSpec(RefreshedMethodSpec):
    """SpIEL (arXiv 2401.16405): drop what changed least, grow where the gradient is large, or probably is."""

    entry_ages: ClassVar[bool] = True

    type: Literal["spiel"] = "spiel"
    variant: Literal["ag", "ma"] = Field(
        default="ag",
        description="what grows: `ag`, by sums of all entries' gradients; `ma`, by SM3's accumulators of rows and "
        "columns, for which the gradients of the trained entries are enough",
    )
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
