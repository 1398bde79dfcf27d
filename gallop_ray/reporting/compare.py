"""The output of `gallop-ray compare`."""

from collections.abc import Iterator
from pathlib import Path

from gallop_ray.analysis.two_runs import TwoRuns, compare
from gallop_ray.records.files import Record
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.spec.measures import label_of
from gallop_ray.spec.metrics import display_name, shown_value, unit_of


def print_comparison(first: RunFolder, second: RunFolder, shown: int) -> None:
    """Print how two finished runs differ, with up to `shown` answers that do. Raises ValueError as `compare`."""
    found = compare(first, second)
    print("\n".join([f"first:  {_named(first.path)}", f"second: {_named(second.path)}", *_lines(found)]))
    for one in found.answers[:shown]:
        print("\n" + "\n".join(_answer(one)))
    if len(found.answers) > shown:
        print(f"\n{len(found.answers) - shown} more answers differ; --examples {len(found.answers)} shows all")


def _named(path: Path) -> str:
    return "/".join(path.parts[-3:])


def _lines(found: TwoRuns) -> Iterator[str]:
    yield ""
    for name, values in found.metrics.items():
        one, other = ("not measured" if value is None else shown_value(name, value) for value in values)
        yield f"{display_name(name)}, {unit_of(name)}: {one}, {other}{_difference(name, *values)}"
    for task in found.left_out:
        yield f"{task}: left out, the two have not been measured on the same test examples"
    yield from found.unlike
    yield ""
    for each in found.flips:
        yield (
            f"{each.task}, {label_of(each.way)}, {each.examples} examples: both right {each.both:g}, first alone "
            f"{each.lost:g}, second alone {each.gained:g}, neither {each.neither:g}; McNemar p = {each.p:.3g}"
        )


def _difference(name: str, one: float | None, other: float | None) -> str:
    if one is None or other is None:
        return ""
    return f" ({shown_value(name, other - one, sign='+')} {unit_of(name, difference=True)})"


def _answer(one: Record) -> Iterator[str]:
    yield f"{one['task']}, example {one['example']}"
    yield _quoted("prompt:", one["prompt"])
    yield _quoted("reference:", one["reference"])
    yield f"{_quoted('first:', one['output'])}{_judged(one.get('right'))}"
    yield f"{_quoted('second:', one['other'])}{_judged(one.get('other_right'))}"


def _quoted(who: str, text: str) -> str:
    """Without the blank lines around it, with which answers often begin; further lines stand below the first."""
    indent = " " * (len("reference:") + 1)
    return f"{who:<{len(indent)}}" + f"\n{indent}".join(text.strip().splitlines() or ["(nothing)"])


def _judged(right: object) -> str:
    return {True: "  (right)", False: "  (wrong)"}[right] if isinstance(right, bool) else ""
