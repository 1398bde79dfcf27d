"""`gallop-ray doctor`: what is wrong is told with its fix, and what is right passes."""

import http.server
import json
import re
import shutil
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file, save_file

from gallop_ray.cli import main
from gallop_ray.mlflow_mirror.sqlite import make_whole
from gallop_ray.preflight import machine_checks
from gallop_ray.preflight.data_checks import general_text
from gallop_ray.preflight.memory_checks import slots
from gallop_ray.preflight.task_checks import cut_when_generated
from gallop_ray.spec.data import ModelSpec
from gallop_ray.spec.load import load_sweep
from gallop_ray.tasks.examples import free
from gallop_ray.training.models import load_model
from tests.tasks.test_boundary import byte_level
from tests.tasks.test_too_long import sweep as talk
from tests.training.tiny import of_pocket_vocabulary

QUICKSTART = str(Path(__file__).parents[2] / "sweeps/quickstart.yaml")


@pytest.fixture
def doctor(tmp_path, monkeypatch, capsys):
    """`doctor(arguments)`: exit code and lines, in a folder and an environment of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        return main(["doctor", *arguments]), capsys.readouterr().out.splitlines()

    return run


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_this_machine_can_run_the_quickstart(doctor):
    code, lines = doctor(QUICKSTART)
    assert code == 0, lines
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "warning"}
    said = "\n".join(lines)
    for expected in ("Python 3.", "output runs: ", "mlflow.db", "model pocket", "2000 examples of range to train on"):
        assert expected in said


def test_a_cache_that_cannot_be_used_is_named_with_its_fix(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GALLOP_RAY_CACHE", str(tmp_path / "file"))
    (found,) = machine_checks.cache()
    assert found.level == "problem"
    assert found.text == f"GALLOP_RAY_CACHE {tmp_path}/file cannot be used (File exists)"
    assert found.fix.startswith("Set GALLOP_RAY_CACHE to a folder that can be written to")
    with pytest.raises(ValueError, match="file cannot be used"):
        load_model(ModelSpec(name="pocket"))


def test_without_a_sweep_it_says_which_models_fit(doctor):
    code, lines = doctor()
    assert code == 0
    fitting = [line for line in lines if "gallop fits" in line]
    assert fitting
    assert "pocket in" in fitting[0]
    assert any("meta-llama/Meta-Llama-3-8B in" in line for line in lines)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("resources.cpus_per_worker=5000", "a slot needs 5000 CPUs and 0 GPUs, this machine has"),
        ("resources.gpus_per_worker=64", "Lower resources.workers_per_slot, cpus_per_worker or gpus_per_worker"),
        ("training.max_length=60000", "too much. Lower training.micro_batch_size"),
        ("resources.held_gb=99999", ", paused runs 1 x 99999 GB, available"),
        ("data.train=rang", "no task rang among the generated tasks"),
        ("model.name=nobody-there/no-such-model-1a2b3c", "neither in the cache nor on the hub"),
        ("output=file/runs", "output file/runs: "),
    ],
)
def test_a_problem_has_a_fix_and_is_exit_code_1(doctor, tmp_path, override, expected):
    (tmp_path / "file").touch()
    rungs = ("--set", "pruning.type=asha") if "held_gb" in override else ()
    code, lines = doctor(QUICKSTART, "--set", override, *rungs, "--set", "resources.slots=1")
    assert code == 1
    assert [line for line in lines if line.startswith("problem") and expected in line], lines


def test_gpus_that_a_sweep_leaves_idle_are_a_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = next(slots(load_sweep(Path(QUICKSTART))))
    assert found.level == "warning"
    assert found.text == "resources.gpus_per_worker is 0: the sweep runs on the CPU, although this machine has 2 GPUs"


def test_a_mistake_in_the_sweep_file_is_exit_code_2(doctor):
    assert doctor(QUICKSTART, "--set", "seeds=0") == (2, [])


def test_a_model_folder_that_lacks_files_is_refused_before_anything_is_looked_at(doctor, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text('{"model_type": "llama"}')
    assert main(["doctor", QUICKSTART, "--set", "model.name=empty"]) == 2
    assert "it lacks weights (*.safetensors), a tokenizer; save all of it" in capsys.readouterr().err


def test_a_checkpoint_that_lacks_weights_is_a_problem_that_names_them(doctor, tmp_path):
    model, tokenizer = of_pocket_vocabulary()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    code, lines = doctor(QUICKSTART, "--set", "model.name=model")
    assert code == 1
    assert [line for line in lines if line.startswith("problem") and "lacks model.layers.1.mlp.up_proj" in line], lines


def test_traps_of_the_environment(doctor, monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp/" + 60 * "x")
    code, lines = doctor()
    assert code == 1
    assert any(line.startswith("warning") and "unset PYTHONDONTWRITEBYTECODE" in line for line in lines)
    assert any(line.startswith("problem") and "export RAY_TMPDIR=/tmp" in line for line in lines)


def test_mlflow_that_is_away_is_a_warning_and_keeps_its_password(doctor, monkeypatch):
    for uri in (f"http://127.0.0.1:{free_port()}", f"postgresql://me:secret@127.0.0.1:{free_port()}/mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        code, lines = doctor(QUICKSTART)
        (line,) = [line for line in lines if "MLflow at" in line]
        assert code == 0
        assert line.startswith("warning")
        assert "cannot be reached: " in line
        assert "secret" not in line


@contextmanager
def server(status: int, answer: str | dict[str, object]) -> Iterator[str]:
    """What answers every question in the same way; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def experiment(stage: str) -> dict[str, object]:
    return {"experiment": {"experiment_id": "7", "name": "gallop_ray", "lifecycle_stage": stage}}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, experiment("active"), ""),
        (404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such experiment"}, ""),
        (200, experiment("deleted"), "was deleted: restore it (mlflow experiments restore --experiment-id 7)"),
        (401, "You are not authenticated", "log in by MLFLOW_TRACKING_USERNAME"),
        (404, "a page of something else", "there is no MLflow server at this address"),
        (401, {"detail": "Not authenticated"}, "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
        (403, {"message": "Forbidden"}, "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
        (404, {"detail": "Not Found"}, "there is no MLflow server at this address"),
        (503, {"detail": "starting"}, "cannot be reached: "),
        (200, "<html>a page of something else</html>", "there is no MLflow server at this address"),
        (200, {"status": "fine"}, "what answers is no MLflow server"),
    ],
)
def test_what_an_mlflow_server_answers(status, answer, expected):
    with server(status, answer) as uri:
        (found,) = machine_checks.tracking(uri, "gallop_ray")
    assert found.level == ("warning" if expected else "ok"), found
    assert expected in found.text


def test_an_mlflow_store_that_refuses_is_named_with_what_to_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made.db"
    make_whole(made)
    for name, revision in (("old.db", "bda7b8c39065"), ("new.db", "ffffffffffff")):
        shutil.copy(made, tmp_path / name)
        with sqlite3.connect(tmp_path / name) as connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))
        connection.close()
    (tmp_path / "junk.db").write_text("no database at all\n" * 100)
    expected = {
        "sqlite:///made.db": "",
        "sqlite:///absent.db": "",
        "sqlite:///old.db": "run: mlflow db upgrade 'sqlite:///old.db'",
        "sqlite:///new.db": "of a newer MLflow",
        "sqlite:///junk.db": "move the file away",
        "./mlruns": "MLFLOW_ALLOW_FILE_STORE",
        "127.0.0.1:5000": "write http://127.0.0.1:5000",
        "databricks": "databricks auth login",
        "mysql://me:secret@localhost/db": "cannot be reached",
    }
    for uri, words in expected.items():
        (found,) = machine_checks.tracking(uri, "gallop_ray")
        assert found.level == ("warning" if words else "ok"), found
        assert words in found.text
        assert "secret" not in found.text
    assert not (tmp_path / "absent.db").exists(), "a look makes nothing"


def test_texts_that_are_cut_are_told_with_their_lengths(doctor, tmp_path):
    load_model(ModelSpec(name="pocket"))  # a tokenizer to count with
    row = {"instruction": "Who?\nAnswer format: a/b", "input": 90 * "x", "output": "it is a", "answer": "a"}
    for split in ("train", "validation", "test"):
        (tmp_path / f"who.{split}.jsonl").write_text(f"{json.dumps(row)}\n" * 10)
    own = ("data.root=.", "data.train=who", "data.ood=[]", "objective.metric=val_id_accuracy", "training.max_length=64")
    code, lines = doctor(QUICKSTART, *(argument for each in own for argument in ("--set", each)))
    assert code == 0
    warnings = "\n".join(line for line in lines if line.startswith("warning"))
    assert "training.max_length is 64: 100 % of the prompts lose their beginning" in warnings
    assert "answers have up to 7 tokens, evaluation.max_new_tokens is 4" in warnings
    assert "who has 10 validation and 10 test examples: accuracies move in steps of 10 %" in warnings
    assert "10 of the 10 test examples of who are training examples, too" in warnings


def test_right_answers_are_held_against_what_is_generated_for_their_task():
    tokenizer, text = byte_level(), "one two three " * 20
    examples = [free("q", "", text, "a.jsonl:1")]
    tokens = len(tokenizer(text)["input_ids"])
    for more, said in ((0, []), (-1, [f"talk: answers have up to {tokens} tokens, data.tasks.talk.max_new_tokens"])):
        asked = talk("cut", measure="f1", max_new_tokens=tokens + more)
        found = list(cut_when_generated(asked, "talk", examples, tokenizer))
        assert [each.text.partition(" is ")[0] for each in found] == said
    assert list(cut_when_generated(talk("cut", max_new_tokens=5), "talk", examples, tokenizer)) == []


def own_data(folder, task, splits):
    """`<task>.<split>.jsonl` of (instruction, output, answer); the arguments with which the quickstart uses them."""
    for split, rows in splits.items():
        lines = [json.dumps(dict(zip(("instruction", "output", "answer"), one, strict=True))) for one in rows]
        (folder / f"{task}.{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    own = ("data.root=.", f"data.train={task}", "data.ood=[]", "objective.metric=val_id_accuracy")
    return [argument for each in own for argument in ("--set", each)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            ("Is it?\nAnswer format: true/false", "it is not false, it is true", "true"),
            "'it is not false, it is true' is read as false, and answer is true. The first option in an output is",
        ),
        (
            ("Repeat {}", "The answer is 2, found in 1 step", "2"),
            "'The answer is 2, found in 1 step' is read as 1, and answer is 2. The last number in an output",
        ),
        (("Repeat {}", "The answer is two", "2"), "is read as no number, and answer is 2"),
    ],
)
def test_outputs_that_are_read_as_another_answer_are_told_by_split(doctor, tmp_path, row, said):
    right = (row[0], f"The answer is {row[2]}", row[2])
    rows = [[(f"{i} {one[0]}", *one[1:]) for i in range(20)] for one in (right, row)]
    code, lines = doctor(QUICKSTART, *own_data(tmp_path, "echo", {"train": rows[0], "test": rows[1]}))
    assert code == 0, lines
    (line,) = [line for line in lines if "are read as another answer" in line]
    assert line.startswith("warning  echo.test: 20 of 20 outputs are read as another answer, as echo.test.jsonl:")
    assert said in line


def test_examples_of_one_split_in_another_are_told(doctor, tmp_path):
    def row(i: int) -> tuple[str, str, str]:
        return f"Is {i} even?\nAnswer format: true/false", "it is true", "true"

    splits = {"train": range(0, 20), "validation": range(10, 30), "test": range(25, 45)}
    own = own_data(tmp_path, "parity", {split: [row(i) for i in numbers] for split, numbers in splits.items()})
    own_data(tmp_path, "other", {"test": [row(i) for i in (1, 2, 100, 101)], "validation": [row(102)]})
    code, lines = doctor(QUICKSTART, *own, "--set", "data.ood=[other]")
    assert code == 0, lines
    told = "\n".join(lines)
    assert "10 of the 20 validation examples of parity are training examples, too." in told
    assert "5 of the 20 test examples of parity are validation examples, too: the search sees them" in told
    assert "2 of the 4 test examples of other are training examples of parity, too." in told


def test_a_file_of_ones_own_is_shown_as_the_model_sees_it(doctor, tmp_path):
    def told(i: int, end: str = "") -> str:
        more = "and nobody in the house knows whom to ask about it, for the company that sold it is closed all summer"
        return (
            f"Ticket {i}: the printer in room {i % 7} of house {i % 5} prints only blank pages since monday {more}{end}"
        )

    rows = [{"text": told(i), "label": ("sales", "support")[i % 2]} for i in range(40)]
    tested = [{"text": told(i, ", again") if i < 9 else f"unlike {i}", "label": "sales"} for i in range(10)]
    for name, found in (("train", rows), ("test", tested)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    task = "{source: train.jsonl, splits: {test: test.jsonl, validation: 0.25}}"
    own = ("data.root=hub", f"data.tasks={{tickets: {task}}}", "data.train=tickets", "data.ood=[]")
    own = (*own, "objective.metric=val_id_accuracy", "training.max_length=256")
    code, lines = doctor(QUICKSTART, *(argument for each in own for argument in ("--set", each)))
    assert code == 0, lines
    said = "\n".join(lines)
    assert "tickets: format label of train.jsonl, 25 % held out for validation" in said
    (shown,) = [line for line in lines if "first example" in line]
    assert "it is closed all summer\\nLabel:\u27e6 s" in shown
    assert shown.endswith("\u27e7")
    near = r"[3-9] of 10 test examples of tickets nearly are training examples \(of 30 looked at\), such as test.jsonl:"
    assert re.search(near + r"\d and train.jsonl:\d", said)


def test_an_answer_that_does_not_fit_is_found_wherever_it_is_and_run_refuses_it_at_once(doctor, tmp_path, capsys):
    model, tokenizer = of_pocket_vocabulary()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [(f"Which of {i}?\nAnswer format: a/b", "it is a", "a") for i in range(400)]
    rows[350] = (rows[350][0], "it is " + 90 * "very " + "a", "a")
    own = [*own_data(tmp_path, "who", {"train": rows, "test": rows[:60]}), "--set", "model.name=model"]
    code, lines = doctor(QUICKSTART, *own)
    assert code == 1
    (line,) = [line for line in lines if "who.train.jsonl:351: the answer 'it is very very" in line]
    assert line.startswith("problem")
    assert "leaves no room in 32 tokens; raise max_length to " in line
    assert main(["run", QUICKSTART, *own]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/who.train.jsonl:351: the answer 'it is" in said
    assert "Traceback" not in said


def test_general_text_is_read_by_doctor_and_before_a_run_starts(tmp_path, capsys):
    path = tmp_path / "text.jsonl"
    sweep = load_sweep(QUICKSTART, [f"output={tmp_path}/runs"])
    assert list(general_text(sweep)) == [], "the quickstart's is generated"
    path.write_text('{"text": "a b"}\n' * 70 + "{\n")
    sweep = load_sweep(QUICKSTART, [f"output={tmp_path}/runs", f"evaluation.text={path}"])
    (finding,) = general_text(sweep)
    assert finding.level == "problem"
    assert finding.text.startswith(f"evaluation.text: {path}:71: not a JSON object")
    assert main(["run", QUICKSTART, "--set", f"output={tmp_path}/runs", "--set", f"evaluation.text={path}"]) == 2
    assert f"gallop-ray: evaluation.text: {path}:71: not a JSON object" in capsys.readouterr().err
    path.write_text('{"text": "a b"}\n' * 70)
    (finding,) = general_text(sweep)
    assert finding.text == f"general text: 70 texts in {path}, of which 64 are used"


def test_a_cluster_that_does_not_answer(doctor, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    code, lines = doctor(QUICKSTART)
    assert code == 1
    assert any("no Ray cluster at 127.0.0.1" in line and "unset RAY_ADDRESS" in line for line in lines)


@pytest.mark.faults  # starts a cluster, which takes a while
def test_a_cluster_is_asked_for_its_slots(doctor, monkeypatch):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        code, lines = doctor(QUICKSTART)
        assert code == 0, lines
        assert any("nodes 1, CPUs 3, GPUs 0" in line for line in lines)
        assert any("slots (1 x 1 CPUs, 0 GPUs) that fit: 3 now" in line for line in lines)
        code, lines = doctor(QUICKSTART, "--set", "resources.cpus_per_worker=4")
        assert code == 1
        assert any(line.startswith("problem") and "no slot (1 x 4 CPUs, 0 GPUs) fits" in line for line in lines)
    finally:
        cluster.shutdown()
