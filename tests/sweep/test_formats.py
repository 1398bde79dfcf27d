"""Every format of data.tasks in one sweep, from the sweep file to the report, with rows given in Python beside it."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from gallop_ray.records.folders import SweepFolder
from tests.sweep import command
from tests.training.tiny import of_pocket_vocabulary

TEMPLATE = "{% for each in messages %}<{{ each.role }}>{{ each.content }}\n{% endfor %}"
TEMPLATE += "{% if add_generation_prompt %}<assistant>{% endif %}"
COUNT = 40
Rows = list[dict[str, Any]]


def turns(i: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"What follows {i}?"}, {"role": "assistant", "content": str(i + 1)}]


def rows(make: Callable[[int], dict[str, Any]]) -> Rows:
    return [make(i) for i in range(COUNT)]


FORMATS: dict[str, Rows] = {
    "messages": rows(lambda i: {"messages": [{"role": "system", "content": "Count."}, *turns(i)]}),
    "sharegpt": rows(
        lambda i: {"conversations": [{"from": "human", "value": f"After {i}?"}, {"from": "gpt", "value": str(i + 1)}]}
    ),
    "alpaca": rows(lambda i: {"instruction": f"Name the number after {i}.", "input": "", "output": str(i + 1)}),
    "prompt": rows(lambda i: {"prompt": f"{i} comes before", "completion": f" {i + 1}"}),
    "choice": rows(
        lambda i: {"question": f"What follows {i}?", "choices": [str(i), str(i + 1), str(i + 2)], "answer": 1}
    ),
    "label": rows(lambda i: {"text": f"the number {i}", "label": ("even", "odd")[i % 2]}),
    "text": rows(lambda i: {"text": f"{i} and {i + 1} are neighbours."}),
    "house": rows(
        lambda i: {
            "instruction": f"Is {i} even?\nAnswer format: true/false",
            "input": "",
            "output": f"it is {str(i % 2 == 0).lower()}",
            "answer": str(i % 2 == 0).lower(),
        }
    ),
    "template": rows(lambda i: {"left": i, "right": i + 1}),
}


def written(folder: Path, name: str) -> str:
    """A file of this format's rows, each of another kind."""
    found, path = FORMATS[name], folder / name
    if name == "label":
        with (path := path.with_suffix(".csv")).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    elif name == "choice":
        Dataset.from_list(found).to_parquet(path := path.with_suffix(".parquet"))
    elif name == "alpaca":
        (path := path.with_suffix(".json")).write_text(json.dumps(found))
    elif name == "prompt":
        Dataset.from_list(found).save_to_disk(path)
    else:
        path = path.with_suffix(".jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return str(path)


START = """
import json, sys, pandas
import gallop_ray
asked, said = ([text.format(i) for i in range(40)] for text in ("Which is {}?", "The {}."))
frame = pandas.DataFrame({"question": asked, "answer": said})
print(gallop_ray.run_sweep(sys.argv[1], data={"frame": frame}))
"""


def save_model(folder: Path) -> None:
    model, tokenizer = of_pocket_vocabulary()
    tokenizer.chat_template = TEMPLATE
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep with a round for each format, run to its end; its file, and what was said."""
    folder = tmp_path_factory.mktemp("formats")
    save_model(folder / "model")
    tasks: dict[str, Any] = {name: {"source": written(folder, name)} for name in FORMATS}
    tasks["template"] |= {"prompt": "{{ left }} then", "answer": "{{ right }}"}
    tasks["choice"] |= {"few_shot": 1}
    data = {
        "tasks": tasks,
        "train": [*FORMATS, "frame"],
        "limits": {"train": 8, "validation": 4, "test": 4},
        "prompt": "chat",
    }
    sweep = command.write_sweep(
        folder,
        model={"name": str(folder / "model")},
        data=data,
        objective={"metric": "val_id_loss"},
        methods=[{"type": "random", "density": 0.1}],
        seeds=1,
        search={},
        budget={"configurations": 1},
        training={"steps": 2, "batch_size": 4, "micro_batch_size": 4, "max_length": 256},
        resources={"workers_per_slot": 1, "cpus_per_worker": 0.5, "slots": 1},
    )
    done = subprocess.run(
        [sys.executable, "-c", START, str(sweep)], cwd=command.ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return sweep, done.stdout + done.stderr


@pytest.mark.long
def test_every_format_is_trained_on_and_measured(finished: tuple[Path, str]) -> None:
    sweep, said = finished
    folder = SweepFolder(sweep.parent / "runs/tiny")
    (run,) = folder.runs()
    result = run.result()
    assert result is not None, said
    rounds = json.loads((run.path / "result.json").read_text())["rounds"]
    assert set(rounds) == {*FORMATS, "frame"}


@pytest.mark.long
def test_the_report_names_the_tasks(finished: tuple[Path, str]) -> None:
    sweep, _ = finished
    done = command.run("report", sweep.parent / "runs/tiny")
    assert done.returncode == 0, done.stdout
    page = (sweep.parent / "runs/tiny/report/report.html").read_text()
    assert all(name in page for name in FORMATS)


@pytest.mark.long
def test_other_rows_under_the_same_name_are_refused(finished: tuple[Path, str]) -> None:
    sweep, _ = finished
    other = START.replace("range(40)", "range(41)")
    done = subprocess.run(
        [sys.executable, "-c", other, str(sweep)], cwd=command.ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode != 0
    assert "holds other rows than were given for task frame" in done.stderr


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "template"])
def test_init_recognises_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys: Any) -> None:
    from gallop_ray.cli import main
    from gallop_ray.spec.load import load_sweep

    monkeypatch.chdir(tmp_path)
    source = written(tmp_path, name)
    save_model(tmp_path / "model")
    assert main(["init", "mine.yaml", "--data", source, "--model", "model", "--gpus", "0"]) == 0
    assert f"format {name}" in capsys.readouterr().out
    sweep = load_sweep("mine.yaml")
    assert (sweep.data.train, sweep.data.tasks[name].source) == (name, source)
    assert yaml.safe_load(Path("mine.yaml").read_text())["data"]["ood"] == []
