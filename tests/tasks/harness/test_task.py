"""Tasks of lm-evaluation-harness as tasks of a sweep: their documents, and what the harness says of them."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import LlamaForCausalLM

from gallop_ray.spec.data import DataSpec
from gallop_ray.spec.tasks import TaskSpec
from gallop_ray.tasks.harness.task import HarnessTask
from gallop_ray.training.pocket import pocket_config, pocket_tokenizer

CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in ("acc", "acc_norm")],
}
WORDS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [
        {"name": "whole", "filter": [{"function": "take_first"}]},
        {"name": "digit", "filter": [{"function": "regex", "regex_pattern": r"(\d)"}, {"function": "take_first"}]},
    ],
}
TEXT = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}


def rows(count: int, begin: int = 0) -> list[dict]:
    choices = [["3", "7 or 9"], ["12", "1"], ["2 3 4 5", "2"], ["9", "8", "7 and then 6"]]
    numbers = range(begin, begin + count)
    return [{"question": f"max {i} {i % 7}", "choices": choices[i % 4], "gold": i % 2} for i in numbers]


def write(folder: Path, name: str, kind: dict, **splits: list[dict]) -> Path:
    """A task file beside its data, which it names by relative paths."""
    files = {}
    for split, documents in splits.items():
        files[split] = f"{name}.{split}.jsonl"
        (folder / files[split]).write_text("".join(json.dumps(each) + "\n" for each in documents))
    keys = {"train": "training_split", "validation": "validation_split", "test": "test_split"}
    config = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, **kind}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config | {keys[split]: split for split in splits}))
    return path


def task(path: Path, limits: dict | None = None, **fields) -> HarnessTask:
    data = DataSpec.model_validate({"root": "generated", "train": "range", "limits": limits or {}})
    return HarnessTask("one", TaskSpec.model_validate({"harness": str(path), **fields}), data)


def untrained():
    torch.manual_seed(1)
    config = pocket_config()
    config.initializer_range = 0.2
    return LlamaForCausalLM(config).eval(), pocket_tokenizer()


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def of_the_harness(path: Path, model, tokenizer) -> list[dict]:
    """What the harness itself says of each document."""
    loaded = TaskManager(include_defaults=False).load([str(path)])
    theirs = loaded["tasks"]["one"]
    theirs.set_fewshot_seed(1234)
    found = evaluate(HFLM(model, tokenizer=tokenizer, batch_size=8), loaded, bootstrap_iters=0)
    return found["samples"]["one"]


@pytest.mark.parametrize("shots", [0, 2])
def test_choices_are_right_where_the_harness_says_so(tmp_path, monkeypatch, shots):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "one", CHOICE | {"num_fewshot": shots}, train=rows(9, 100), test=rows(40))
    model, tokenizer = untrained()
    samples = of_the_harness(path, model, tokenizer)
    found = task(path).measure(model, tokenizer, "test", 4)
    assert list(found) == ["acc", "acc_norm"]
    for metric, digits in found.items():
        assert digits == "".join(str(int(each[metric])) for each in samples)
        assert 0 < digits.count("1") < 40
    assert found["acc"] != found["acc_norm"]
    assert list(task(path, metric="acc_norm").measure(model, tokenizer, "test", 4)) == ["acc_norm", "acc"]


def test_generated_answers_are_right_where_the_harness_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "one", WORDS, train=rows(4), test=rows(20, 10))
    model, tokenizer = untrained()
    samples = of_the_harness(path, model, tokenizer)
    found = task(path).measure(model, tokenizer, "test", 8)
    assert list(found) == ["exact_match,whole", "exact_match,digit"]
    for kind in ("whole", "digit"):
        expected = [each["exact_match"] for each in samples if each["filter"] == kind]
        assert found[f"exact_match,{kind}"] == "".join(str(int(each)) for each in expected)


def test_of_whole_texts_the_loss_is_measured(tmp_path):
    path = write(tmp_path, "one", TEXT, test=rows(12))
    model, tokenizer = untrained()
    found = task(path).measure(model, tokenizer, "test", 8)
    assert list(found) == ["loss"]
    assert len(found["loss"]) == 6
    assert all(value > 0 for value in found["loss"])


def questions(found: HarnessTask, split: str) -> set[str]:
    return {one.instruction for one in found.examples(split)}


def test_validation_is_of_the_validation_split_where_the_harness_tests_on_another(tmp_path):
    path = write(tmp_path, "one", CHOICE, validation=rows(30, 15), test=rows(20))
    found = task(path, {"validation": 8})
    assert questions(found, "test") == {f"max {i} {i % 7}\nAnswer:" for i in range(20)}
    assert len(found.examples("validation")) == 8
    assert questions(found, "validation") <= {f"max {i} {i % 7}\nAnswer:" for i in range(20, 45)}, "none that is tested"


def test_validation_is_of_the_training_split_where_the_harness_tests_on_the_validation_split(tmp_path):
    path = write(tmp_path, "one", CHOICE | {"num_fewshot": 2}, train=rows(30, 100), validation=rows(20))
    found = task(path, {"validation": 30}, limit=5)
    assert [one.place for one in found.examples("test")] == [f"{path}:{i}" for i in range(5)], "as with --limit"
    held_out = found.examples("validation")
    assert len(held_out) == 5
    for one in held_out:
        *shown, asked = one.instruction.split("\n\n")
        assert len(shown) == 2
        assert not any(each.startswith(asked) for each in shown), "a document is not its own solved example"


def test_documents_of_one_split_are_dealt_to_validation_and_test(tmp_path):
    path = write(tmp_path, "one", CHOICE, test=rows(20) + rows(20))
    found = task(path)
    assert len(found.examples("validation")) == len(found.examples("test")) == 20
    assert not questions(found, "validation") & questions(found, "test"), "equal ones go to one side"
    model, tokenizer = untrained()
    for split in ("validation", "test"):
        assert len(found.measure(model, tokenizer, split, 8)["acc"]) == 20
    again = task(path)
    assert [again.examples(split) for split in ("validation", "test")] == [
        found.examples(split) for split in ("validation", "test")
    ]
    few = task(path, {"validation": 4})
    assert len(few.examples("validation")) == 4
    assert 32 <= len(few.examples("test")) <= 36, "without those that are validated, wherever else they are"
    assert not questions(few, "validation") & questions(few, "test")


def test_examples_say_what_is_asked_and_which_answer_is_right(tmp_path):
    choice = task(write(tmp_path, "one", CHOICE, train=rows(4), test=rows(4, 10))).examples("test")[1]
    assert (choice.instruction, choice.options, choice.label) == ("max 11 4\nAnswer:", (" 9", " 8", " 7 and then 6"), 1)
    words = task(write(tmp_path, "one", WORDS, train=rows(4), test=rows(4, 10))).examples("test")[1]
    assert (words.kind, words.instruction, words.answer) == ("text", "max 11 4", "8")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"harness": "hellaswak"}, r"lm-evaluation-harness has no task hellaswak .*hellaswag"),
        ({"harness": "ai2_arc"}, "has no task ai2_arc"),
        ({"harness": "mmlu"}, "mmlu is a group of tasks; name one task of it"),
        ({"harness": "nowhere.yaml"}, "there is no file .*nowhere.yaml"),
        ({"metric": "f1"}, "has no f1 among its measures .* it has acc, acc_norm"),
        ({"num_fewshot": 3}, "has num_fewshot: 0 in its file"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, fields, said):
    path = write(tmp_path, "one", CHOICE | {"num_fewshot": 0}, train=rows(4), test=rows(4, 10))
    with pytest.raises(ValueError, match=said) as error:
        task(**{"path": path, **fields} if "harness" not in fields else {"path": fields["harness"]}).measure(
            *untrained(), "test", 4
        )
    assert "\n" not in str(error.value)


def test_data_that_is_not_there_is_refused_in_one_line(tmp_path):
    path = write(tmp_path, "one", CHOICE, test=rows(4))
    (tmp_path / "one.test.jsonl").unlink()
    with pytest.raises(ValueError, match=r"harness task .* cannot be loaded: .*one\.yaml") as error:
        task(path)
    assert "\n" not in str(error.value)
