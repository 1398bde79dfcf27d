"""A Sweep that breaks a rule of the sweep file does not exist in Python either."""

from typing import Any

import pytest
from pydantic import ValidationError

import gallop_ray
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.spec.schema import UNCHECKED, Sweep

SPACE = {"training.learning_rate": {"log": [1e-4, 1e-2]}}
TWO = ["val_id_accuracy", "val_forget_ratio"]
EXTRA = "deepspeed.extra"
RULES: list[tuple[str, dict[str, Any], str]] = [
    ("deepspeed.offload_parameters", {"deepspeed": {"offload_parameters": True}}, "at stage 3 only"),
    ("deepspeed.offload_optimizer", {"deepspeed": {"zero_stage": 0, "offload_optimizer": True}}, "at stages 1, 2"),
    ("methods.1.name", {"methods": [{"type": "gallop"}, {"type": "gallop"}]}, "is taken"),
    ("methods.0.name", {"methods": [{"type": "gallop", "name": "data"}]}, "the name of a section"),
    ("seeds.1", {"seeds": [0, 0]}, "every seed must differ"),
    ("data.train.1", {"data": {"train": ["sum", "sum"]}}, "every task must differ"),
    ("data.ood.1", {"data": {"train": "sum", "ood": ["max", "max"]}}, "every task must differ"),
    ("data.ood.0", {"data": {"train": "sum", "ood": ["sum"]}}, "it is the task trained on"),
    (
        "objective.metrics.0",
        {"objective": {"metric": "val_ood_accuracy"}, "data": {"train": "sum"}},
        "without data.ood",
    ),
    ("objective.metrics.1", {"objective": {"metrics": [*TWO[:1], *TWO[:1]]}}, "every metric must differ"),
    ("objective.metric", {"objective": {"metrics": TWO, "metric": "val_ood_accuracy"}}, "either metric or metrics"),
    ("objective.standard_errors", {"objective": {"standard_errors": 1}}, "no standard error"),
    ("pruning.type", {"objective": {"metrics": TWO}, "seeds": 3, "pruning": {"type": "race"}}, "several metrics"),
    ("pruning.type", {"pruning": {"type": "race"}}, "one seed"),
    ("pruning.after_seeds", {"seeds": 2, "pruning": {"type": "race", "after_seeds": 2}}, "number of seeds"),
    ("confirmation", {"objective": {"metrics": TWO}, "confirmation": {"seeds": 2}}, "a confirmation needs one"),
    ("confirmation.seeds.0", {"seeds": [1000], "confirmation": {"seeds": 2}}, "seeds of its own"),
    ("data.prompt", {"data": {"train": "sum", "ood": ["max"], "prompt": "{input}"}}, "must contain {instruction}"),
    (f"{EXTRA}.fp16", {"deepspeed": {"extra": {"fp16": {}}}}, "set model.dtype instead"),
    (f"{EXTRA}.zero_optimization", {"deepspeed": {"extra": {"zero_optimization": 1}}}, "must be a section"),
    (f"{EXTRA}.zero_optimization.stage", {"deepspeed": {"extra": {"zero_optimization": {"stage": 2}}}}, "zero_stage"),
    (
        f"{EXTRA}.zero_optimization.zero_quantized_weights",
        {"deepspeed": {"extra": {"zero_optimization": {"zero_quantized_weights": True}}}},
        "keeps copies of the weights",
    ),
    ("resources.gpus_per_worker", {"resources": {"gpus_per_worker": 1.5}}, "a part of one GPU"),
    ("search.space.model.dtype", {"search": {"space": {"model.dtype": {"choice": ["float32"]}}}}, "cannot be searched"),
    ("search.space.training.rate", {"search": {"space": {"training.rate": {"choice": [1]}}}}, "no such field"),
    ("search.space.gallop.rank", {"search": {"space": {"gallop.rank": {"choice": [1]}}}}, "no method has this option"),
    ("search.space.gallop.density.linear.0", {"search": {"space": {"gallop.density": {"linear": [0, 1]}}}}, "greater"),
    ("search.space.training.learning_rate", {"search": {"space": SPACE, "sampler": "grid"}}, "tries every value"),
    (
        "search.first.0.training.learning_rate",
        {"search": {"space": SPACE, "first": [{"training.learning_rate": 1}]}},
        "search.space has",
    ),
    (
        "search.space.lora.alpha",
        {
            "methods": [{"type": "lora", "alpha_over_rank": 2}],
            "search": {"space": {"lora.alpha": {"choice": [8, 16]}}},
        },
        "beside alpha_over_rank",
    ),
    ("training.keep", {"training": {"keep": "best"}}, "without training.validate_steps"),
    ("training.batch_size", {"training": {"batch_size": 30, "micro_batch_size": 8}}, "a multiple of"),
    ("training.batch_size", {"resources": {"workers_per_slot": 3}}, "a multiple of"),
]


def asked(**changes: Any) -> dict[str, Any]:
    smallest = {"name": "small", "model": {"name": "pocket"}, "data": {"train": "sum", "ood": ["max"]}}
    return {**smallest, "methods": [{"type": "gallop"}], **changes}


@pytest.mark.parametrize(("place", "changes", "words"), RULES)
def test_a_broken_rule_raises_and_names_the_field(place: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Sweep.model_validate(asked(**changes))
    found = {".".join(map(str, each["loc"])): each["msg"] for each in caught.value.errors()}
    assert words in found[place]
    assert Sweep.model_validate(asked(**changes), context=UNCHECKED).name == "small", "a record of it is still read"


def test_a_sweep_that_was_changed_is_checked_before_it_runs(tmp_path: Any) -> None:
    sweep = Sweep.model_validate(asked(output=str(tmp_path)))
    uneven = sweep.model_copy(update={"training": sweep.training.model_copy(update={"batch_size": 30})})
    wrong = sweep.model_copy(update={"training": sweep.training.model_copy(update={"learning_rate": -1.0})})
    elsewhere = sweep.model_copy(update={"data": sweep.data.model_copy(update={"root": "no_such_folder"})})
    for each, words in (
        (uneven, "sweep small: training.batch_size: batch_size 30 is not allowed; must be a multiple of"),
        (wrong, "sweep small: training.learning_rate: -1.0 is not allowed; must be greater than 0"),
        (elsewhere, 'sweep small: data.root: "no_such_folder" is not allowed'),
    ):
        with pytest.raises(SweepFileError) as caught:
            gallop_ray.run_sweep(each)
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


def test_without_other_tasks_the_objective_is_the_task_itself() -> None:
    alone = Sweep.model_validate(asked(data={"train": "sum"}, seeds=2, objective={"standard_errors": 1}))
    assert (alone.objective.metric, alone.objective.standard_errors) == ("val_id_accuracy", 1)
    assert Sweep.model_validate(asked()).objective.metric == "val_mean_accuracy"
    assert Sweep.model_validate(asked(data={"train": ["sum", "max"]})).objective.metric == "val_mean_accuracy"
    assert Sweep.model_validate_json(alone.model_dump_json()) == alone


def test_the_scale_of_lora_follows_its_rank() -> None:
    def alpha(**options: Any) -> float:
        method: Any = Sweep.model_validate(asked(methods=[{"type": "lora", **options}])).methods[0]
        return method.chosen_alpha

    assert (alpha(), alpha(alpha=4), alpha(rank=32)) == (16, 4, 16)
    assert [alpha(alpha_over_rank=2, rank=rank) for rank in (4, 8, 64)] == [8, 16, 128]
    with pytest.raises(ValidationError, match="exclude each other"):
        alpha(alpha=16, alpha_over_rank=2)
