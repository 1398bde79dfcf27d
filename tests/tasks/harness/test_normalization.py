"""Which measure counts by default, against what lm-evaluation-harness reports of its own tasks of these names."""

import re
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml

from gallop_ray.spec.measures import _BY_THE_SUM, _FAMILIES_BY_THE_SUM, normalization

FOLDER = Path(lm_eval.__file__).parent / "tasks"
OTHER_NAMES = {"siqa", "social_i_qa", "commonsenseqa"}
BY_CHARACTER = {"arc_easy", "arc_challenge", "piqa", "openbookqa", "hellaswag", "sciq", "swag", "logiqa", "medmcqa"}


class Loader(yaml.CSafeLoader):
    """Reads the harness' task files without running their functions."""


Loader.add_constructor("!function", lambda loader, node: None)


def read(file: Path) -> dict[str, Any]:
    text = yaml.load(file.read_text(encoding="utf-8"), Loader)
    included = [file.parent / each for each in [text.pop("include", [])] if each]
    return {**(read(included[0]) if included else {}), **text}


def metrics(name: re.Pattern[str]) -> dict[str, set[str]]:
    """The metrics of each multiple choice task whose name fits."""
    found = {}
    for file in FOLDER.rglob("*.yaml"):
        told = re.search(r"^task: *[\"']?(\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if told and name.fullmatch(told[1]) and (task := read(file)).get("output_type") == "multiple_choice":
            found[told[1]] = {each["metric"] for each in task["metric_list"]}
    return found


@pytest.mark.slow
def test_choices_are_normalised_as_the_harness_reports_them():
    families = "mmlu_[a-z]+_[a-z]+|blimp_(?!nl)[a-z]+|xcopa_..|xnli_.."
    found = metrics(re.compile("|".join([*_BY_THE_SUM, *BY_CHARACTER, families])))
    assert found.keys() >= (_BY_THE_SUM | BY_CHARACTER) - OTHER_NAMES
    assert all(any(name.startswith(f"{each}_") for name in found) for each in _FAMILIES_BY_THE_SUM)
    wrong = {name: each for name, each in found.items() if ("acc_norm" in each) is (normalization(name) == "sum")}
    assert not wrong
