"""What people bring, each case from outside: the folder as they have it, the command, and what they should be told."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from gallop_ray.cli import main
from gallop_ray.spec.data import ModelSpec
from gallop_ray.training.models import load_model, model_source

SWEEP: dict[str, Any] = {
    "name": "case",
    "output": "runs",
    "model": {"name": "pocket"},
    "data": {"root": "data", "train": "parity", "ood": ["bigger"], "limits": {"validation": 16, "test": 16}},
    "methods": [{"type": "random", "density": 0.02}],
    "training": {"steps": 3, "batch_size": 8, "micro_batch_size": 8, "max_length": 96},
    "evaluation": {"batch_size": 32, "max_new_tokens": 20},
    "resources": {"slots": 1, "cpus_per_worker": 1},
    "seeds": [0],
}


class Case:
    """A folder as a user has it, and the command run in it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.write(SWEEP)
        draw = random.Random(0)
        numbers = [draw.sample(range(100_000), 2) for _ in range(96)]
        parity = [(f"Is {a} even?\nAnswer format: true/false", "true" if a % 2 == 0 else "false") for a, _ in numbers]
        self.data("parity.train", parity[:64])
        self.data("parity.test", parity[64:])
        bigger = [
            (f"Is {a} or {b} bigger?\nAnswer format: left/right", "left" if a > b else "right") for a, b in numbers
        ]
        self.data("bigger.test", bigger[:32])

    def write(self, sweep: dict[str, Any] | str) -> None:
        """The sweep file; a mapping as YAML, a text as it is."""
        text = sweep if isinstance(sweep, str) else yaml.safe_dump(sweep, sort_keys=False)
        (self.folder / "sweep.yaml").write_text(text)

    def data(
        self, name: str, rows: list[tuple[str, str]], says: str = "the answer is {}", folder: str = "data"
    ) -> Path:
        """A task's split: (instruction, answer) a row."""
        lines = [
            json.dumps({"instruction": i, "input": "", "output": says.format(a), "answer": a}, ensure_ascii=False)
            for i, a in rows
        ]
        path = self.folder / folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    def model(self, name: str = "model") -> Path:
        """A copy of the pocket model's folder, to be spoiled."""
        out = self.folder / name
        shutil.copytree(model_source("pocket"), out)
        return out

    def says(self, command: str, *changes: str) -> tuple[int, str]:
        """`gallop-ray COMMAND sweep.yaml --set CHANGE ...`: its exit code and all that it prints."""
        self._capsys.readouterr()
        code = main([command, "sweep.yaml", *(word for change in changes for word in ("--set", change))])
        printed = self._capsys.readouterr()
        return code, printed.out + printed.err

    def runs(self, *changes: str, **env: str) -> tuple[int, str]:
        """`gallop-ray run sweep.yaml --set CHANGE ...` as a process of its own."""
        words = ["run", "sweep.yaml", *(word for change in changes for word in ("--set", change))]
        done = subprocess.run(
            [sys.executable, "-m", "gallop_ray", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    def result(self, key: str = "*", seed: int = 0, name: str = "case") -> dict[str, Any]:
        """The one run's result."""
        (path,) = self.folder.glob(f"runs/{name}/{key}/seed-{seed}/result.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Case:
    """A case in a folder of its own, in an environment without traps."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    load_model(ModelSpec(name="pocket"))  # made where this machine has not made it yet
    return Case(tmp_path, capsys)


def problems(text: str) -> list[str]:
    """doctor's lines about problems."""
    return [line for line in text.splitlines() if line.startswith("problem") and "problems:" not in line]


# Data


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def test_a_byte_order_mark_and_brackets_in_the_path_are_read(case):
    case.data("parity.test", [("Is 2 even?\nAnswer format: true/false", "true")] * 20, folder="v [1]*?")
    for name in ("parity.train", "bigger.test"):
        shutil.copy(case.folder / f"data/{name}.jsonl", case.folder / "v [1]*?")
    rewrite(case.folder / "v [1]*?/parity.train.jsonl", lambda b: b"\xef\xbb\xbf" + b)
    code, text = case.says("doctor", "data.root=v [1]*?")
    assert code == 0, text
    assert "58 examples of parity to train on" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda b: b.replace(b"even", "pär".encode("latin-1"), 1), "UTF-8"),
        (lambda b: b.decode().encode("utf-16"), "UTF-"),
        (lambda b: b"", "empty"),
        (lambda b: b.replace(b"even", rb"\ud83d", 1), "surrogate"),
        (lambda b: b'{"instruction": ' + b"[" * 100_000 + b"\n" + b, "parity.train.jsonl:1"),
        (lambda b: b"[" + b",".join(b.splitlines()) + b"]", "parity.train.jsonl"),
    ],
    ids=["latin-1", "utf-16", "empty", "surrogate", "deep", "array"],
)
def test_a_data_file_that_cannot_be_read_is_named(case, change, expected):
    rewrite(case.folder / "data/parity.train.jsonl", change)
    code, text = case.says("doctor")
    assert code == 1, text
    (line,) = problems(text)
    assert "parity.train.jsonl" in line
    assert expected in line
    assert len(line) < 400
    assert "Traceback" not in text


def test_a_file_is_read_as_it_is_whatever_its_time(case):
    path = case.folder / "data/parity.train.jsonl"
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert "58 examples of parity to train on" in case.says("doctor")[1]
    rewrite(path, lambda b: b"".join(b.splitlines(keepends=True)[:20]))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert "18 examples of parity to train on" in case.says("doctor")[1]


def test_references_that_are_read_as_another_answer_are_warned_of(case):
    rows = [(f"The word is true. Case {n}.\nAnswer format: true/false", "true") for n in range(60)]
    numbers = [(f"Repeat the number {n % 7}. Case {n}", str(n % 7)) for n in range(60)]
    for split, part in (("train", slice(0, 40)), ("test", slice(40, 60))):
        case.data(f"echo.{split}", rows[part], "it is not false, it is {}")
        case.data(f"numbers.{split}", numbers[part], "The answer is {}, found in 1 step")
    for task in ("echo", "numbers"):
        code, text = case.says("doctor", f"data.train={task}", "data.ood=[]", "objective.metric=val_id_accuracy")
        assert "read as another answer" in text, text
        assert task in text
        assert code == 0, text


def test_repeated_rows_stay_on_one_side_of_the_validation_split(case):
    from gallop_ray.spec.data import DataSpec
    from gallop_ray.tasks.load import load_task

    rows = [(f"Is {n} even?\nAnswer format: true/false", "true" if n % 2 == 0 else "false") for n in range(16)]
    case.data("parity.train", rows * 5)
    task = load_task("parity", DataSpec(root="data", train="parity"))
    trained = {(e.instruction, e.input) for e in task.train}
    assert task.validation
    assert not [e for e in task.validation if (e.instruction, e.input) in trained]


def test_an_answer_longer_than_max_length_is_named_by_its_line(case):
    path = case.folder / "data/parity.train.jsonl"
    row = {
        "instruction": "Why?\nAnswer format: true/false",
        "input": "",
        "output": "so " * 200 + "true",
        "answer": "true",
    }
    rewrite(path, lambda b: b + json.dumps(row).encode() + b"\n")
    code, text = case.says("doctor")
    assert code == 1, text
    assert [line for line in problems(text) if "parity.train.jsonl:65" in line and "max_length" in line], text
    code, text = case.runs()
    assert code == 2, text
    assert "parity.train.jsonl:65" in text
    assert "Traceback" not in text


def test_text_without_spaces_between_words(case):
    rows = [(f"{n} 是偶数吗\nAnswer format: 甲/乙", "甲" if n % 2 == 0 else "乙") for n in range(60)]
    case.data("cjk.train", rows[:40], "正确答案是{}")
    case.data("cjk.test", rows[40:], "正确答案是{}")
    code, text = case.says("doctor", "data.train=cjk", "data.ood=[]", "objective.metric=val_id_accuracy")
    assert code == 0, text
    assert "does not contain" not in text
    assert "read as another answer" not in text


# The sweep file


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("seeds=20240101", "seeds"),
        ("seeds=1000000", "seeds"),
        ("seeds=[18446744073709551617]", "seeds"),
        ("seeds=[010]", "seeds"),
        ("training.steps=1:30", "training.steps"),
        ("name=" + 300 * "x", "name"),
        ("output=" + 300 * "x", "output"),
        ("output=~nobody-of-that-name/runs", "output"),
        ("output=gs://bucket/runs", "gs://"),
        ("model.name=gs://bucket/model", "gs://"),
        ("confirmation={best: 0}", "confirmation"),
        ("evaluation.text=" + 300 * "x" + ".jsonl", "evaluation.text"),
        ("search.space={training.batch_size: {integer: [1, 1000000000000]}}", "training.batch_size"),
    ],
    ids=lambda value: value[:40],
)
def test_a_value_that_cannot_be_meant_is_refused(case, change, expected):
    code, text = case.says("validate", change)
    assert code == 2, text
    assert expected in text
    assert "Traceback" not in text


LAUGHS = "".join(f"a{n}: &a{n} [{', '.join(9 * [f'*a{n - 1}' if n else 'lol'])}]\n" for n in range(10))


@pytest.mark.parametrize(
    "more",
    [
        LAUGHS,
        "x: " + 500 * "[" + 500 * "]" + "\n",
        'x: "\\U00110000"\n',
        "x: !!int ''\n",
        "x: !!bool x\n",
        "x: \x07\n",
    ],
    ids=["aliases", "nesting", "character", "integer", "boolean", "control"],
)
def test_yaml_that_no_one_can_read_is_refused_with_its_line(case, more):
    case.write(yaml.safe_dump(SWEEP) + more)
    code, text = case.says("validate")
    assert code == 2, text[:2000]
    assert "sweep.yaml:" in text
    assert len(text) < 5000


def test_a_file_that_is_not_utf8_is_refused_with_its_line(case):
    (case.folder / "sweep.yaml").write_bytes(yaml.safe_dump(SWEEP).encode() + "# né\n".encode("latin-1"))
    code, text = case.says("validate")
    assert code == 2, text
    assert "sweep.yaml:" in text


def test_a_grid_is_as_large_as_it_is_unless_a_budget_cuts_it_aloud(case):
    rates, decays = [1e-5, 2e-5, 3e-5, 4e-5], [0, 0.1, 0.2]
    space = {"training.learning_rate": {"choice": rates}, "training.weight_decay": {"choice": decays}}
    case.write({**SWEEP, "search": {"sampler": "grid", "space": space}})
    code, text = case.says("plan")
    assert code == 0, text
    assert "12" in text
    code, text = case.says("plan", "budget={configurations: 8}")
    assert "4e-05" in text or "4e-5" in text, text
    assert "12" in text


# Models


def test_weights_that_are_missing_are_named(case):
    path = case.model() / "model.safetensors"
    weights = load_file(path)
    weights.pop("model.layers.1.mlp.down_proj.weight")
    save_file(weights, path, metadata={"format": "pt"})
    code, text = case.says("doctor", "model.name=model")
    assert code == 1, text
    assert any("model.layers.1.mlp.down_proj.weight" in line for line in problems(text)), text


@pytest.mark.faults
def test_weights_that_are_missing_are_named_by_run(case):
    path = case.model() / "model.safetensors"
    weights = load_file(path)
    weights.pop("model.layers.1.mlp.down_proj.weight")
    save_file(weights, path, metadata={"format": "pt"})
    code, text = case.runs("model.name=model")
    assert code == 2, text
    assert "model.layers.1.mlp.down_proj.weight" in text
    assert "Traceback" not in text


def truncated(model: Path) -> None:
    rewrite(model / "model.safetensors", lambda b: b[: len(b) // 2])


def pointer(model: Path) -> None:
    (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3700000\n")


def configured(**values: Any) -> Callable[[Path], None]:
    return lambda model: rewrite(model / "config.json", lambda b: json.dumps(json.loads(b) | values).encode())


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (truncated, "model.safetensors"),
        (pointer, "git lfs pull"),
        (configured(vocab_size=341), "embed_tokens"),
        (configured(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), "quantis|quantiz"),
        (configured(quantization_config={"quant_method": "gptq", "bits": 4}), "quantis|quantiz"),
        (lambda model: (model / "config.json").write_text("{"), "config.json"),
    ],
    ids=["truncated", "git-lfs", "other-sizes", "bitsandbytes", "gptq", "broken-config"],
)
def test_a_model_folder_that_cannot_be_loaded_is_said_in_a_line(case, spoil, expected):
    spoil(case.model())
    code, text = case.says("doctor", "model.name=model")
    assert code in (1, 2), text
    assert any(word in text for word in expected.split("|")), text
    assert "Traceback" not in text
    assert max(map(len, text.splitlines())) < 600


@pytest.mark.faults
def test_a_padding_token_beyond_the_embeddings(case):
    model = case.model()
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(model)
    code, text = case.says("doctor", "model.name=model")
    if code == 0:  # padded with another token: then it runs
        code, text = case.runs("model.name=model")
        assert code == 0, text
    else:
        assert "[PAD]" in text


def tiny(case: Case, cls: Any, config: Any) -> None:
    """A random model of this class with the pocket model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(model_source("pocket"))
    torch.manual_seed(0)
    cls(config(len(tokenizer))).save_pretrained(case.folder / "model")
    tokenizer.save_pretrained(case.folder / "model")


def gpt2(vocabulary: int) -> GPT2Config:
    ids = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    return GPT2Config(n_positions=64, n_embd=64, n_layer=2, n_head=2, **ids)


def opt(vocabulary: int) -> OPTConfig:
    ids = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    sizes = {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTConfig(word_embed_proj_dim=64, max_position_embeddings=256, **sizes, **ids)


def mixtral(vocabulary: int) -> MixtralConfig:
    ids = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return MixtralConfig(num_key_value_heads=2, num_local_experts=4, **sizes, **ids)


def test_longer_than_the_position_table(case):
    tiny(case, GPT2LMHeadModel, gpt2)
    code, text = case.says("doctor", "model.name=model", "methods=[{type: full}]")
    assert code == 2, text  # the model's folder alone tells
    assert "training.max_length" in text
    assert "64 positions" in text


@pytest.mark.parametrize(
    ("cls", "config"), [(OPTForCausalLM, opt), (MixtralForCausalLM, mixtral)], ids=["opt", "mixtral"]
)
def test_plan_and_doctor_never_end_at_an_estimate(case, cls, config):
    tiny(case, cls, config)
    for command in ("plan", "doctor"):
        code, text = case.says(command, "model.name=model")
        assert code == 0, text
        assert "Traceback" not in text
    if cls is MixtralForCausalLM:
        assert "experts" in text


BODY = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "code", "expected"),
    [
        ("{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system message is required') }}{% endif %}", 1,
         "A system message is required"),
        ("{% for m in messages %}{{ m['role'] }", 1, "chat template"),
        ("Today is {{ strftime_now('%d %b %Y') }}.\n", 0, "date"),
    ],
    ids=["refuses", "syntax", "date"],
)  # fmt: skip
def test_chat_templates_that_refuse_or_change(case, template, code, expected):
    (case.model() / "chat_template.jinja").write_text(template + BODY if "for" not in template else template)
    found, text = case.says("doctor", "model.name=model", "data.prompt=chat")
    assert found == code, text
    assert expected in text
    assert "Traceback" not in text


# MLflow and Ray, as they are found


def database(name: str) -> Any:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{name}.db")
    return client, client.create_experiment("gallop_ray")


def deleted_experiment() -> str:
    client, experiment = database("deleted")
    client.delete_experiment(experiment)
    return "sqlite:///deleted.db"


def older_schema() -> str:
    database("made")
    shutil.copy("made.db", "old.db")  # MLflow looks at a database once in a process
    with sqlite3.connect("old.db") as base:
        base.execute("update alembic_version set version_num = '2b4d017a5e9b'")
    return "sqlite:///old.db"


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        (deleted_experiment, "deleted"),
        (older_schema, "mlflow db upgrade"),
        (lambda: "./mlruns", "mlruns"),
        (lambda: "127.0.0.1:5000", "http://127.0.0.1:5000"),
        (lambda: "databricks", "databricks"),
    ],
    ids=["deleted", "older", "files", "no-scheme", "databricks"],
)
def test_mlflow_stores_that_take_nothing_are_not_ok(case, store, expected):
    code, text = case.says("doctor", f"tracking.uri={store()}")
    lines = [line for line in text.splitlines() if "MLflow" in line] or text.splitlines()
    assert code != 0 or not any(line.startswith("ok") for line in lines), text
    assert expected in text
    assert "Traceback" not in text


def test_a_dead_ray_address_is_refused_at_once(case):
    code, text = case.runs(RAY_ADDRESS="127.0.0.1:6399")
    assert code == 2, text
    assert "127.0.0.1:6399" in text
    assert "Traceback" not in text


# Whole runs


@pytest.mark.faults  # several whole runs
def test_a_begun_sweep_refuses_other_weights_and_other_data(case):
    """One sweep, five commands: an empty RAY_ADDRESS, a terminal without UTF-8, then what must not go unnoticed."""
    path = case.model() / "model.safetensors"
    code, text = case.runs("model.name=model", RAY_ADDRESS="", PYTHONIOENCODING="ascii")
    assert code == 0, text
    assert "can't encode" not in text
    weights = load_file(path)
    save_file({k: v / 2 if "proj" in k else v for k, v in weights.items()}, path, metadata={"format": "pt"})
    code, text = case.runs("model.name=model", "seeds=[0, 1]")
    assert code == 2, text
    assert "model" in text
    assert not list(case.folder.glob("runs/case/*/seed-1/result.json"))
    save_file(weights, path, metadata={"format": "pt"})
    rewrite(case.folder / "data/parity.train.jsonl", lambda b: b.replace(b"even", b"odd"))
    code, text = case.runs("model.name=model", "seeds=[0, 1]")
    assert code == 2, text
    assert "parity" in text
    assert not list(case.folder.glob("runs/case/*/seed-1/result.json"))


@pytest.mark.faults  # several whole runs
def test_generation_obeys_us_and_task_names_reach_mlflow(case):
    """The model's own generation_config may not change a figure, nor a task's name lose a run in MLflow."""
    import mlflow

    generation = case.model() / "generation_config.json"
    rewrite(generation, lambda b: json.dumps(json.loads(b) | {"min_new_tokens": 4, "stop_strings": ["1"]}).encode())
    for old, new in (("parity.train", "q&a (v2).train"), ("parity.test", "q&a (v2).test"), ("bigger.test", "c++.test")):
        (case.folder / f"data/{old}.jsonl").rename(case.folder / f"data/{new}.jsonl")
    sweep = {**SWEEP, "data": {**SWEEP["data"], "train": "q&a (v2)", "ood": ["c++"]}}
    for name in ("model", "pocket"):
        case.write({**sweep, "name": name, "model": {"name": name}})
        code, text = case.runs()
        assert code == 0, text
    ours, plain = case.result(name="model"), case.result(name="pocket")
    ours_said, plain_said = (next(case.folder.glob(f"runs/{n}/*/seed-0/outputs.json")) for n in ("model", "pocket"))
    assert json.loads(ours_said.read_text()) == json.loads(plain_said.read_text())
    assert ours["tasks"] == plain["tasks"]
    runs = mlflow.MlflowClient(f"sqlite:///{case.folder}/runs/mlflow.db").search_runs(["1"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    seeds = [run for run in runs if "id_accuracy" in run.data.metrics and "seed" in run.data.params]
    assert len(seeds) == 2
