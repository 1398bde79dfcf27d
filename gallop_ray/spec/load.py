"""Reads a sweep file, or reports everything that is wrong with it, each mistake with its line; and writes one."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from gallop_ray.spec.checks import check, is_begun
from gallop_ray.spec.document import read_document
from gallop_ray.spec.draft import make_draft
from gallop_ray.spec.overrides import apply_overrides, source, without_effect
from gallop_ray.spec.plain_yaml import Dumper
from gallop_ray.spec.plugins import look_in
from gallop_ray.spec.problems import Path as FieldPath
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.schema import Sweep
from gallop_ray.spec.secrets import without_secrets

Further = Callable[[Sweep], Iterable[tuple[FieldPath, str]]]


def load_sweep(path: str | Path, overrides: Sequence[str] = (), further: Further | None = None) -> Sweep:
    """The sweep of a YAML file, with each override (`data.root=generated`, `gallop.density=0.02`) applied.

    further: problems, by path, of a sweep that is otherwise valid, for checks that need other packages.
    Raises SweepFileError, a ValueError, with every problem, in the order of the lines and then of the overrides.
    """
    document = read_document(path)
    look_in(Path(path).parent)
    apply_overrides(document, overrides)
    draft, wrong_fields = make_draft(document)
    problems = [*document.problems, *wrong_fields, *check(document, draft)]
    if not problems and not is_begun(draft.sweep):
        problems = list(without_effect(document, draft.sweep))
    if not problems and further is not None:
        problems = [document.problem(field, message) for field, message in further(draft.sweep)]
    if problems:
        sources = [document.file, *map(source, overrides)]
        by_line = sorted(problems, key=lambda problem: (sources.index(problem.file), problem.line or 0))
        raise SweepFileError(list(dict.fromkeys(by_line)))
    return draft.sweep


def resolved_yaml(sweep: Sweep) -> str:
    """A sweep file with every default written out and no password; loading it gives an otherwise equal sweep."""
    return yaml.dump(without_secrets(sweep).model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)


def spec_json(sweep: Sweep) -> str:
    """The same as JSON, for records."""
    return json.dumps(without_secrets(sweep).model_dump(mode="json"), indent=2, ensure_ascii=False)
