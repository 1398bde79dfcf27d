"""`gallop-ray generate`: the trained model's answers, by the prompt of its training, beside the base model's."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gallop_ray.cli import main
from gallop_ray.exports.generate import Speaker, asked_of
from gallop_ray.exports.request import checked_run
from gallop_ray.spec.data import DataSpec, ModelSpec
from gallop_ray.tasks.encode import encode_prompt
from gallop_ray.tasks.examples import free
from gallop_ray.tasks.predictions import prompt_text
from gallop_ray.training.merged import merged
from gallop_ray.training.models import load_model
from tests.exports.trained import METHODS, Trained, save_base, train

PROMPT = "second 3 7 2 9"


def greedy(model, tokenizer, prompt: list[int] | None = None) -> str:
    by_default = DataSpec.model_fields["prompt"].default
    ids = torch.tensor([prompt or encode_prompt(free(PROMPT, "", "x"), tokenizer, by_default, 32)])
    with torch.no_grad():
        found = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("method", ["gallop", "lora", "full"])
def test_it_says_what_transformers_generates(trained: Trained, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained.run(method).path
    assert main(["generate", str(run), "--prompt", PROMPT, "--max-new-tokens", "4"]) == 0
    said = capsys.readouterr().out
    folder, _ = checked_run(str(run))
    base, tokenizer = load_model(ModelSpec(name=str(trained.base)))
    expected = {"base": greedy(base.eval(), tokenizer)}
    tuned = merged(base, [folder.adapter])
    expected["tuned"] = greedy(tuned.eval(), tokenizer)
    shown = {who: text or "(nothing: the model ends at once)" for who, text in expected.items()}
    assert said == f"prompt: {PROMPT}\ntuned:  {shown['tuned']}\nbase:   {shown['base']}\n\n"


def test_a_model_trained_on_conversations_is_asked_by_its_chat_template(
    ranks: Callable, tmp_path: Path, capsys
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    save_base(base)
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }};\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    said = [[{"role": "user", "content": f"echo {i}"}, {"role": "assistant", "content": str(i)}] for i in range(40)]
    file = tmp_path / "talk.jsonl"
    file.write_text("".join(json.dumps({"messages": each}) + "\n" for each in said))
    data = {
        "tasks": {"talk": {"source": str(file), "measure": "exact_match"}},
        "train": "talk",
        "limits": {"validation": 5, "test": 5},
    }
    ranks(1)(train, base, tmp_path / "runs", "float32", {"random": METHODS["random"]}, data)
    run = Trained(base, tmp_path / "runs").run("random").path
    assert main(["generate", str(run), "--prompt", "echo 7", "--max-new-tokens", "4"]) == 0
    model, tokenizer = load_model(ModelSpec(name=str(base)))
    prompt = tokenizer("[user] echo 7;\n[assistant]", add_special_tokens=False)["input_ids"]
    assert f"base:   {greedy(model.eval(), tokenizer, prompt)}\n" in capsys.readouterr().out


def test_prompts_of_a_file_and_of_standard_input(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(trained.run("gallop").path)
    file = tmp_path / "asked.jsonl"
    file.write_text('{"instruction": "max", "input": "1 2 3 4"}\n\n{"instruction": "min 1 2 3 4"}\n')
    assert asked_of(file) == [("max", "1 2 3 4"), ("min 1 2 3 4", "")]
    (tmp_path / "asked.txt").write_bytes(b"\xef\xbb\xbfmax 1 2\r\n\r\nmin 1 2")
    assert asked_of(tmp_path / "asked.txt") == [("max 1 2", ""), ("min 1 2", "")]
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


def test_a_number_of_tokens_that_is_none_is_told(trained: Trained, capsys) -> None:
    assert main(["generate", str(trained.run("gallop").path), "--prompt", "x", "--max-new-tokens", "0"]) == 2
    assert "--max-new-tokens 0 is not allowed" in capsys.readouterr().err


def changed_data(trained: Trained, folder: Path, **data: object) -> str:
    """A copy of the gallop run whose sweep has other data."""
    shutil.copytree(trained.output / "float32", folder)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(spec | {"data": spec["data"] | data}))
    return str(folder / trained.run("gallop").path.relative_to(trained.output / "float32"))


def test_answers_end_as_those_that_were_measured(trained: Trained, tmp_path: Path) -> None:
    run = changed_data(trained, tmp_path / "stop", tasks={"second": {"stop": [" "], "max_new_tokens": 3}})
    settings = Speaker(run)._settings
    assert (settings.stop, settings.max_new_tokens, settings.max_reasoning_tokens) == ((" ",), 3, 3)
    assert Speaker(run, 7)._settings.max_reasoning_tokens == 7


def test_a_model_of_plain_text_is_asked_to_continue(trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "plain.jsonl"
    file.write_text("".join(json.dumps({"text": f"range {i} {i + 1} {i * 3}"}) + "\n" for i in range(60)))
    run = changed_data(trained, tmp_path / "plain", train="plain", tasks={"plain": {"source": str(file)}})
    speaker = Speaker(run)
    assert prompt_text(speaker._asked("range 1 2", ""), speaker._tokenizer, speaker._settings.prompt) == "range 1 2"
    assert main(["export", run, "--to", "delta", "--output", str(tmp_path / "out")]) == 0
    asked = json.loads((tmp_path / "out" / "prompt.json").read_text())
    assert (asked["form"], asked["template"], asked["joint"]) == ("as it is", None, "")
