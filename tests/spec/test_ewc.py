"""Elastic weight consolidation: what it needs to be given, and the methods that it is not for."""

import pytest

from tests.spec.conftest import Load, Problems

FISHER = "data.fisher={task: max}"
MASKS_ALONE = "methods=[{type: gallop}, {type: lt_sft}, {type: lift}, {type: full}, {type: lines}, {type: vanilla}]"


def test_it_is_for_masks_and_full_fine_tuning(load: Load) -> None:
    sweep = load("", "training.ewc=100", FISHER, MASKS_ALONE)
    assert sweep.data.fisher is not None
    assert (sweep.training.ewc, sweep.data.fisher.examples) == (100, 64)


def test_its_strength_is_searched_for_some_methods(load: Load) -> None:
    sweep = load("", "search.space={gallop.training.ewc: {log: [1, 1000]}}", FISHER)
    assert sweep.training.ewc == 0, "of lora"


@pytest.mark.parametrize(
    "method",
    [
        "{type: lora}",
        "{type: peft, tuner: ia3}",
        "{type: rosa}",
        "{type: hybrid, parts: [{type: gallop}, {type: lora, rank: 2}]}",
    ],
)
def test_parameters_that_the_base_model_does_not_have_are_not_held(problems: Problems, method: str) -> None:
    (line,) = problems("", "training.ewc=100", FISHER, f"methods=[{{type: saft}}, {method}]")
    kind = method.split("type: ")[1].split(",")[0].rstrip("}")
    assert f": {kind} is not allowed with training.ewc, which holds the model's own weights: it trains" in line
    assert line.endswith("such as `saft.training.ewc: {choice: [10, 100]}`")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.ewc=1"], "training.ewc: is not allowed without data.fisher; give the task there"),
        (
            ["search.space={gallop.training.ewc: {choice: [0, 1]}}"],
            "search.space.gallop.training.ewc: is not allowed without data.fisher",
        ),
        ([FISHER], "data.fisher: has no effect with training.ewc 0 for every method; give that, or"),
        (["training.ewc=1", "data.fisher={task: sum}"], 'data.fisher.task: "sum" is not allowed; it is the task trai'),
        (["training.ewc=-1", FISHER], "training.ewc: -1 is not allowed; must be at least 0"),
        (["training.ewc=1", "data.fisher={task: max, examples: 0}"], "data.fisher.examples: 0 is not allowed"),
    ],
)
def test_what_it_lacks_is_said(problems: Problems, overrides: list[str], said: str) -> None:
    lines = problems("", "methods=[{type: gallop}]", *overrides)
    assert any(said in line for line in lines), lines
