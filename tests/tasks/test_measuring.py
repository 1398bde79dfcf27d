"""What is measured of a task, by its kind and by what data.tasks says, on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.accuracy import generated_texts
from gallop_ray.tasks.examples import Example, free, reasoned
from gallop_ray.tasks.losses import example_losses
from gallop_ray.tasks.measured import measured
from gallop_ray.tasks.measuring import measuring, refuse_unmeasured_objective
from gallop_ray.tasks.objective import with_default_objective
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.tasks.unused import refuse_unused_fields
from gallop_ray.tasks.values import numbers
from gallop_ray.testing.model import of_pocket_vocabulary

pytestmark = pytest.mark.slow

SETTINGS = EvaluationSettings("{instruction}\n{input}\n", max_length=64, batch_size=4, max_new_tokens=4)
CHOICE = [Example(f"max 3 {i}?\nAnswer:", "", ("3", "7"), ("3", "7"), i % 2, joint=" ") for i in range(5)]
HOUSE = [replace(one, joint=None) for one in CHOICE]
NUMBER = [reasoned(f"max 3 {i}", "", "it is 3", 3.0) for i in range(5)]
TEXT = [free(f"say {i}", "", "1 2") for i in range(5)]
PLAIN = [free("", "", f"max 3 {i}") for i in range(5)]

ALL_WAYS = ["likelihood", "acc", "acc_norm"]


def sweep(objective: dict[str, Any] | None = None, generate: bool = True, **task: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "tiny",
            "model": {"name": "tiny"},
            "data": {"train": "mine", "tasks": {"mine": {"source": "someone/mine"} | task}},
            "methods": [{"type": "gallop"}],
            "evaluation": {"generate": generate},
            **({"objective": objective} if objective else {}),
        }
    )


@pytest.mark.parametrize(
    ("examples", "task", "validation", "test"),
    [
        (HOUSE, {}, ["likelihood", "loss", "margin"], ["likelihood", "generated"]),
        (CHOICE, {}, [*ALL_WAYS, "loss", "margin"], [*ALL_WAYS, "generated"]),
        (CHOICE, {"measure": "generated"}, ["generated"], ["generated"]),
        (NUMBER, {}, ["generated"], ["generated"]),
        (NUMBER, {"also": ["loss"]}, ["generated"], ["generated", "loss"]),
        (TEXT, {}, ["loss"], ["loss"]),
        (TEXT, {"measure": "f1", "also": ["chrf", "loss"]}, ["f1"], ["f1", "chrf", "loss"]),
        (PLAIN, {}, ["loss"], ["loss"]),
    ],
)
def test_the_ways_of_each_kind(examples: list[Example], task: Any, validation: list[str], test: list[str]) -> None:
    model, tokenizer = of_pocket_vocabulary()
    how = measuring(sweep(**task), "mine", examples)
    how.check(examples)
    for whole, ways in ((False, validation), (True, test)):
        found = measured(model, tokenizer, examples, how, SETTINGS, test=whole)
        assert list(found.ways) == ways
        assert {len(each) for each in found.ways.values()} == {5}
        assert (found.generated is not None) == any(way in ("generated", "f1") for way in ways)


def test_an_objective_of_losses_has_them_measured_everywhere() -> None:
    model, tokenizer = of_pocket_vocabulary()
    how = measuring(sweep({"metric": "val_id_loss"}), "mine", CHOICE)
    assert list(measured(model, tokenizer, CHOICE, how, SETTINGS, test=True).ways)[-1] == "loss"


@pytest.mark.parametrize("examples", [HOUSE, CHOICE], ids=["with an end", "as the harness has it"])
def test_losses_and_margins_of_choices_come_from_the_passes_that_choose(examples: list[Example]) -> None:
    model, tokenizer = of_pocket_vocabulary()
    calls: list[int] = []
    hook = model.register_forward_hook(lambda module, args, output: calls.append(1))
    ways = measured(model, tokenizer, examples, measuring(sweep(), "mine", examples), SETTINGS, test=False).ways
    hook.remove()
    assert len(calls) <= 4, "two batches, and two to see how rows are padded"
    expected = example_losses(model, tokenizer, examples, SETTINGS)
    assert numbers(ways["loss"]) == pytest.approx(expected, abs=1e-5)
    assert [value > 0 for value in numbers(ways["margin"])] == [each == "1" for each in ways["likelihood"]]


def test_a_margin_needs_choices_that_count_by_likelihood() -> None:
    asked = sweep({"metric": "val_margin"})
    refuse_unmeasured_objective(asked, {"mine": measuring(asked, "mine", CHOICE)})
    with pytest.raises(ValueError, match="val_margin cannot be measured: mine does not count by likelihood here"):
        refuse_unmeasured_objective(asked, {"mine": measuring(asked, "mine", NUMBER)})


def test_generation_ends_at_a_stop_text() -> None:
    model, tokenizer = of_pocket_vocabulary()
    settings = replace(SETTINGS, max_reasoning_tokens=12)
    whole = generated_texts(model, tokenizer, TEXT, settings)
    (stop,) = [next(each for each in whole if len(each) > 3)[1:3]]
    calls: list[int] = []
    model.register_forward_hook(lambda module, args, output: calls.append(1))
    found = generated_texts(model, tokenizer, TEXT, replace(settings, stop=(stop,)))
    assert found == [text.partition(stop)[0] for text in whole]
    assert found != whole
    assert len(calls) <= 24


RUSSIAN = [free("q", "", "\u041f\u0440\u0438\u0432\u0435\u0442", "a.jsonl:1")]


@pytest.mark.parametrize("measure", ["bleu", "chrf", "f1", "contains", "exact_match"])
def test_measures_read_other_letters_than_latin_ones(measure: str) -> None:
    how = measuring(sweep(measure=measure), "mine", RUSSIAN)
    how.check(RUSSIAN)


@pytest.mark.parametrize(
    ("examples", "task", "said"),
    [
        (TEXT, {"measure": "likelihood"}, "task mine: measure likelihood is not for free text"),
        (TEXT, {"also": ["generated"]}, "task mine: measure generated is not for free text"),
        (PLAIN, {"measure": "f1"}, "task mine: measure f1 is not for plain text without a prompt"),
        (TEXT, {"measure": "json_equal"}, "the answer '1 x' is no JSON"),
        (RUSSIAN, {"measure": "rougeL"}, "^a.jsonl:1: measure rougeL gives 0 for the right answer .*; .*take chrf"),
        (RUSSIAN, {"also": ["numeric"]}, "^a.jsonl:1: measure numeric gives 0 for the right answer"),
    ],
)
def test_what_cannot_be_measured_is_refused(examples: list[Example], task: Any, said: str) -> None:
    examples = [replace(one, options=("1 x",)) for one in examples] if task.get("measure") == "json_equal" else examples
    with pytest.raises(ValueError, match=said):
        measuring(sweep(**task), "mine", examples).check(examples)


def test_an_objective_of_shares_needs_tasks_that_have_some() -> None:
    asked = sweep()
    tasks = {"mine": measuring(asked, "mine", TEXT)}
    with pytest.raises(ValueError, match="val_id_accuracy cannot be measured: mine counts by loss; write objective"):
        refuse_unmeasured_objective(asked, tasks)
    refuse_unmeasured_objective(sweep({"metric": "val_id_loss"}), tasks)
    named = sweep(measure="f1")
    refuse_unmeasured_objective(named, {"mine": measuring(named, "mine", TEXT)})


def test_the_default_objective_is_the_loss_where_that_is_what_counts() -> None:
    assert sweep().objective.metric == "val_id_accuracy"
    assert sweep(format="messages").objective.metric == "val_id_loss"
    assert sweep(measure="loss").objective.metric == "val_id_loss"
    assert sweep(format="messages", measure="rougeL").objective.metric == "val_id_accuracy"
    assert not sweep(format="messages").objective.maximize


@pytest.mark.parametrize(
    ("row", "metric"),
    [
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}, "val_id_loss"),
        ({"prompt": "hi", "completion": "hello"}, "val_id_loss"),
        ({"question": "hi?", "choices": ["hello", "no"], "label": 0}, "val_id_accuracy"),
    ],
)
def test_the_default_objective_goes_by_the_rows_of_local_files(tmp_path: Path, row: Any, metric: str) -> None:
    source = tmp_path / "mine.jsonl"
    source.write_text(json.dumps(row) + "\n")
    found = with_default_objective(sweep(source=str(source)))
    assert found.objective.metric == metric
    said = sweep({"metric": "val_id_accuracy"}, source=str(source))
    assert with_default_objective(said) == said
    assert with_default_objective(sweep(source=str(source), measure="f1")).objective.metric == "val_id_accuracy"


@pytest.mark.parametrize(
    ("examples", "task", "said"),
    [
        (TEXT, {"learn": "last"}, "learn is for conversations"),
        (CHOICE, {"learn": "last"}, "learn is for conversations"),
        (TEXT, {"normalize": "bytes"}, "normalize is for choices"),
        (NUMBER, {"formulation": "label"}, "formulation is for choices"),
        (TEXT, {"stop": ["\n"]}, "stop is for answers that are generated"),
        (PLAIN, {"max_new_tokens": 4}, "max_new_tokens is for answers that are generated"),
        (CHOICE, {"normalize": "bytes", "formulation": "label", "stop": ["x"]}, None),
        (TEXT, {"measure": "f1", "stop": ["\n"], "max_new_tokens": 4}, None),
    ],
)
def test_fields_that_nothing_would_look_at_are_refused(examples: list[Example], task: Any, said: str | None) -> None:
    asked = sweep(**task)
    how = measuring(asked, "mine", examples)
    if said is None:
        refuse_unused_fields(asked, "mine", examples, how)
        return
    with pytest.raises(ValueError, match=rf"data\.tasks\.mine\.{said}, which mine has none of; leave it out"):
        refuse_unused_fields(asked, "mine", examples, how)
