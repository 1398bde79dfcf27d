"""What the models say: right answers gained and lost, and samples of answers beside the base model's."""

from gallop_ray.analysis.flips import Flips, flips_from_base
from gallop_ray.analysis.samples import Sample, samples
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.reporting.report.sheet import MISSING, Cell, Column, ReportTable, probability_cell, text_cell
from gallop_ray.spec.measures import label_of

_SHOWN = 400
"""Characters of a text. Of a prompt the end is shown, where the question stands."""
_FLIPS = (
    Column("Method", "method", numeric=False),
    Column("Task", "task", numeric=False),
    Column("Measured", "way", numeric=False),
    Column("Examples", "examples"),
    Column("Right in both", "both"),
    Column("Gained", "gained", note="the base model is wrong, the tuned one right"),
    Column("Lost", "lost", note="the base model is right, the tuned one wrong"),
    Column("Wrong in both", "neither"),
    Column("p", "p", note="McNemar's exact test; of several seeds the largest"),
)
_SAMPLES = (
    Column("Method", "method", numeric=False),
    Column("Task", "task", numeric=False),
    Column("Beside the base", "kind", numeric=False),
    Column("Prompt", "prompt", numeric=False),
    Column("Reference", "reference", numeric=False),
    Column("Output", "output", numeric=False),
    Column("Base model's output", "base_output", numeric=False),
)


def flips_sheet(material: ReportData) -> ReportTable | None:
    """Answers gained and lost; None where nothing was measured example by example."""
    found = flips_from_base(material.folder, material.sweep, material.best)
    if not found:
        return None
    caption = (
        "Test examples that each method's best configuration answers right and the base model does not (gained), and "
        "the reverse (lost), means over seeds. p is of McNemar's exact test that gains and losses are equally likely; "
        "of several seeds the largest is given. It is not corrected for the number of rows."
    )
    return ReportTable("flips", "Answers gained and lost", caption, _FLIPS, [_flipped(*each) for each in found])


def _flipped(method: str, one: Flips) -> list[Cell]:
    counts = (one.both, one.gained, one.lost, one.neither)
    return [
        text_cell(method),
        text_cell(one.task),
        text_cell(label_of(one.way)),
        Cell(str(one.examples), one.examples),
        *(Cell(f"{count:.1f}".removesuffix(".0"), count) for count in counts),
        probability_cell(one.p),
    ]


def samples_sheet(material: ReportData) -> ReportTable | None:
    """A few answers; None where nothing was generated."""
    found = samples(material.folder, material.best)
    if not found:
        return None
    caption = (
        "Answers of the first seed of each method's best configuration, up to two of each kind per task, long texts "
        "cut. All that were kept are in predictions.jsonl in the run's folder."
    )
    return ReportTable("samples", "Samples of answers", caption, _SAMPLES, list(map(_sample, found)), folded=True)


def _sample(one: Sample) -> list[Cell]:
    texts = [one.prompt[-_SHOWN:], *(text[:_SHOWN] for text in (one.reference, one.output, one.base_output))]
    return [*map(text_cell, (one.method, one.task, one.kind)), *(_quoted(text) for text in texts)]


def _quoted(text: str) -> Cell:
    """A text; blank lines around it, with which answers often begin, are in the CSV alone."""
    return Cell(text.strip(), text) if text.strip() else Cell(MISSING, text)
