"""An exported folder says by itself how its model is asked, and where its answers end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from gallop_ray.cli import main
from gallop_ray.exports.request import checked_run
from gallop_ray.records.folders import SweepFolder
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.accuracy import generated_texts
from gallop_ray.tasks.encode import encode_prompt
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.settings import EvaluationSettings
from gallop_ray.training.merged import merged
from gallop_ray.training.models import load_model
from tests.exports.trained import Trained


def exported(trained: Trained, method: str, to: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    assert main(["export", str(trained.run(method).path), "--to", to, "--output", str(folder)]) == 0
    return folder, json.loads((folder / "prompt.json").read_text())


@pytest.mark.parametrize(("method", "to"), [("lora", "peft"), ("gallop", "merged")])
def test_the_folder_alone_answers_as_evaluation_has_it(trained: Trained, tmp_path: Path, method: str, to: str) -> None:
    folder, asked = exported(trained, method, to, tmp_path / "out")
    sweep = Sweep.model_validate(SweepFolder(trained.output / "float32").spec())
    example = load_task("second", sweep.data, ("train",)).train[0]
    tokenizer, settings = AutoTokenizer.from_pretrained(folder), GenerationConfig.from_pretrained(folder)
    assert asked["example"]["token_ids"] == encode_prompt(example, tokenizer, sweep.data.prompt, 32)
    assert (asked["form"], asked["template"]) == ("template", sweep.data.prompt)
    assert asked["example"]["prompt"] == sweep.data.prompt.replace("{instruction}", example.instruction).replace(
        "{input}", ""
    )
    ids = torch.tensor([asked["example"]["token_ids"]])
    model: Any = trained.load() if to == "peft" else AutoModelForCausalLM.from_pretrained(folder)
    model = (PeftModel.from_pretrained(model, folder) if to == "peft" else model).eval()
    with torch.no_grad():
        said = tokenizer.decode(model.generate(ids, generation_config=settings)[0, ids.shape[1] :], True)
    run, _ = checked_run(str(trained.run(method).path))
    tuned = merged(load_model(ModelSpec(name=str(trained.base)))[0], [run.adapter])
    measured = EvaluationSettings(sweep.data.prompt, 32, 1)
    assert said == generated_texts(tuned, tokenizer, [example], measured)[0], "as evaluation has it"
    assert (settings.do_sample, settings.max_new_tokens) == (False, asked["max_new_tokens"])


def test_an_example_that_was_dropped_for_its_length_is_not_the_one_that_is_shown(
    trained: Trained, tmp_path: Path
) -> None:
    sweep, file = tmp_path / "sweep", tmp_path / "long.jsonl"
    shutil.copytree(trained.output / "float32", sweep)
    rows = [{"question": f"max {i} " + "1 2 3 " * 99 * (i > 20), "choices": ["max", "min"], "answer": "min"}
            for i in range(99)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = json.loads((sweep / "spec.json").read_text())
    spec["data"] |= {
        "train": "long",
        "tasks": {"long": {"source": str(file), "splits": {"validation": 0.1, "test": 0.1}}},
    }
    spec["training"] |= {"too_long": "drop", "max_length": 64}
    (sweep / "spec.json").write_text(json.dumps(spec))
    run = sweep / trained.run("gallop").path.relative_to(trained.output / "float32")
    assert main(["export", str(run), "--to", "delta", "--output", str(tmp_path / "out")]) == 0
    assert "1 2 3 1" not in json.loads((tmp_path / "out" / "prompt.json").read_text())["example"]["prompt"]


def test_without_the_data_the_template_alone_is_said(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(trained.output / "float32", sweep)
    spec = json.loads((sweep / "spec.json").read_text())
    spec["data"] |= {"root": str(tmp_path / "gone")}
    (sweep / "spec.json").write_text(json.dumps(spec))
    run = sweep / trained.run("gallop").path.relative_to(trained.output / "float32")
    assert main(["export", str(run), "--to", "delta", "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "prompt.json").read_text()) == {"template": spec["data"]["prompt"]}
    assert "prompt.json has no example of a prompt" in caplog.text
