"""`gallop-ray generate`: the trained model's answers, by the prompt of its training, beside the base model's."""

import io
from pathlib import Path

import pytest
import torch

from gallop_ray.cli import main
from gallop_ray.export.generate import asked_of
from gallop_ray.export.merged import merged
from gallop_ray.export.request import Request, checked_run
from gallop_ray.spec.schema import DataSpec, ModelSpec
from gallop_ray.tasks.encode import encode_prompt
from gallop_ray.tasks.examples import free
from gallop_ray.training.models import load_model
from tests.export.trained import Trained

PROMPT = "second 3 7 2 9"


def greedy(model, tokenizer) -> str:
    ids = torch.tensor([encode_prompt(free(PROMPT, "", "x"), tokenizer, DataSpec.model_fields["prompt"].default, 32)])
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("method", ["gallop", "lora", "full"])
def test_it_says_what_transformers_generates(trained: Trained, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained.run(method).path
    assert main(["generate", str(run), "--prompt", PROMPT, "--max-new-tokens", "4"]) == 0
    said = capsys.readouterr().out
    folder, metadata = checked_run(str(run))
    base, tokenizer = load_model(ModelSpec(name=str(trained.base)))
    expected = {"base": greedy(base.eval(), tokenizer)}
    tuned = merged(base, Request(folder, "merged", folder.path, metadata))
    expected["tuned"] = greedy(tuned.eval(), tokenizer)
    assert said == f"prompt: {PROMPT}\ntuned:  {expected['tuned']}\nbase:   {expected['base']}\n\n"


def test_prompts_of_a_file_and_of_standard_input(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(trained.run("gallop").path)
    file = tmp_path / "asked.jsonl"
    file.write_text('{"instruction": "max", "input": "1 2 3 4"}\n\n{"instruction": "min 1 2 3 4"}\n')
    assert asked_of(file) == [("max", "1 2 3 4"), ("min 1 2 3 4", "")]
    assert main(["generate", run, "--file", str(file), "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.count("prompt: ") == 2
    monkeypatch.setattr("sys.stdin", io.StringIO("max 1 2 3 4\n\nmin 1 2 3 4\n"))
    assert main(["generate", run, "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out.count("tuned: ") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "asked.jsonl:1: the file is empty"),
        ("{", ":1: not a JSON object"),
        ('{"input": "x"}', "instruction is missing"),
    ],
)
def test_a_file_without_prompts_is_told(trained: Trained, tmp_path: Path, text: str, said: str, capsys) -> None:
    (tmp_path / "asked.jsonl").write_text(text)
    assert main(["generate", str(trained.run("gallop").path), "--file", str(tmp_path / "asked.jsonl")]) == 2
    assert said in capsys.readouterr().err


def test_a_run_that_is_none_is_told_before_anything_is_loaded(tmp_path: Path, capsys) -> None:
    assert main(["generate", str(tmp_path / "nowhere"), "--prompt", "x"]) == 2
    assert "give a run folder" in capsys.readouterr().err
