"""`gallop-ray init`: from flags and from questions to a sweep file that loads."""

import json
import os
import pty
import subprocess
import sys
import tempfile

import pytest

from gallop_ray.cli import main
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.starter import starter_methods
from tests.training.tiny import of_pocket_vocabulary


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with data of two tasks, of which one can be trained on."""
    monkeypatch.chdir(tmp_path)
    for split in ("colours.train", "colours.test", "animals.test"):
        write(tmp_path / f"data/{split}.jsonl", "red")
    return tmp_path


def write(path, answer):
    path.parent.mkdir(exist_ok=True)
    row = {"instruction": "Which?\nAnswer format: red/blue", "input": "", "output": f"it is {answer}", "answer": "red"}
    path.write_text(f"{json.dumps(row)}\n" * 20)


def save_model(path, chat_template=None):
    """A model folder that can be loaded."""
    model, tokenizer = of_pocket_vocabulary()
    tokenizer.chat_template = chat_template
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def test_without_answers_it_is_a_sweep_that_runs_everywhere(folder, capsys):
    assert main(["init"]) == 0
    sweep = load_sweep("my_sweep.yaml")
    assert (sweep.name, sweep.model.name, sweep.data.root, len(sweep.seeds)) == ("my_sweep", "pocket", "generated", 3)
    out = capsys.readouterr().out
    assert "wrote my_sweep.yaml: 4 methods, 24 configurations x 3 seeds = 72 runs" in out
    assert "gallop-ray run my_sweep.yaml" in out


def test_a_folder_is_looked_at_and_its_tasks_are_named(folder, capsys):
    save_model(folder / "model", chat_template="x")
    arguments = ["sub/a b.yaml", "--data", "data", "--model", "model", "--methods", "saft,dora", "full", "--seeds", "3"]
    assert main(["init", *arguments, "--gpus", "3"]) == 0
    assert "data: colours: 20 train, 20 test\ndata: animals: 20 test\n" in capsys.readouterr().out
    sweep = load_sweep("sub/a b.yaml")
    assert (sweep.name, sweep.data.train, sweep.data.ood, sweep.data.prompt) == ("a_b", "colours", ("animals",), "chat")
    assert sweep.training.epochs == 160, "20 examples make 100 steps of 32"
    assert [method.type for method in sweep.methods] == ["saft", "dora", "full"]
    assert set(sweep.search.space) == {f"{name}.training.learning_rate" for name in ("saft", "dora", "full")}
    assert (sweep.resources.workers_per_slot, sweep.resources.gpus_per_worker, sweep.model.dtype) == (3, 1, "bfloat16")


@pytest.mark.parametrize("gpus", ["0", "1", "7", "64"])
def test_all_methods_on_any_number_of_gpus_load(folder, gpus):
    assert main(["init", "--methods", *starter_methods(), "--gpus", gpus, "--ood"]) == 0
    assert load_sweep("my_sweep.yaml").objective.metric == "val_id_accuracy"


def test_a_file_is_overwritten_only_when_asked(folder, capsys):
    (folder / "my_sweep.yaml").write_text("mine")
    assert main(["init"]) == 2
    assert "my_sweep.yaml is there already" in capsys.readouterr().err
    assert (folder / "my_sweep.yaml").read_text() == "mine"
    assert main(["init", "--force"]) == 0
    assert load_sweep("my_sweep.yaml").name == "my_sweep"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "dat"], "there is no file or folder dat"),
        (["--data", "."], ". holds neither a dataset of save_to_disk nor a file that ends in"),
        (
            ["--data", "data", "--train", "colors"],
            "no task colors; there are colours, animals; did you mean `col",
        ),
        (["--data", "data", "--train", "animals"], "animals has no training examples; there are colours"),
        (["--train", "range", "--ood", "max", "range"], "range is the task to train on"),
        (["--methods", "galop"], "did you mean `gallop`?"),
        (["--model", "data"], "data has no config.json"),
        (["--model", "./model"], "model folder ./model does not exist"),
        (
            ["--model", "poket"],
            "unknown model poket: neither a preset (pocket, smollm2-135m) nor a folder; did you mean `pocket`?",
        ),
        (["--force", "data"], "data cannot be written (Is a directory); give another path"),
        (["data/colours.train.jsonl/x.yaml"], "x.yaml cannot be written ("),
        (["--seeds", "0"], "0 is not allowed; must be a whole number, at least 1"),
        (["--name", "a/b", "x.yaml"], "name: "),
    ],
)
def test_answers_that_cannot_be_are_refused_and_nothing_is_written(folder, capsys, arguments, message):
    assert main(["init", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(folder.rglob("*.yaml")) == []


def test_what_nobody_expected_is_one_line_and_keeps_its_trace(folder, capsys, monkeypatch):
    def text(*_: object) -> str:
        raise ZeroDivisionError("of nothing")

    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("gallop_ray.cli.init.starter_text", text)
    assert main(["init", "a.yaml"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("gallop-ray: unexpected ZeroDivisionError: of nothing")
    assert "in init" in (folder / said.partition("(trace in ")[2].rstrip(")")).read_text()


def test_outputs_that_are_read_as_another_answer_are_told(folder, capsys):
    row = {"instruction": "Which?\nAnswer format: red/blue", "output": "not blue but red", "answer": "red"}
    (folder / "data/animals.test.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    assert main(["init", "--data", "data"]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert said.startswith("warning: animals.test: 20 of 20 outputs are read as another answer, as data/animals.test.")
    assert "'not blue but red' is read as blue, and answer is red. The first option in an output is its answer" in said


def test_broken_lines_are_told_with_their_places(folder, capsys):
    write(folder / "data/colours.test.jsonl", "green")
    assert main(["init", "--data", "data"]) == 2
    error = capsys.readouterr().err
    for line in (1, 5):
        assert f"data/colours.test.jsonl:{line}: output 'it is green' does not contain the answer" in error
    assert "and 15 lines more" in error
    assert "colours.test.jsonl:6" not in error


def test_lengths_are_those_of_the_data_in_the_models_tokens(folder):
    save_model(folder / "model")
    example = {"instruction": "1 " * 99, "input": "", "output": "2 " * 300, "answer": "2"}
    for split in ("train", "test"):
        (folder / f"data/sums.{split}.jsonl").write_text(f"{json.dumps(example)}\n" * 20)
    assert main(["init", "--data", "data", "--model", "model", "--train", "sums"]) == 0
    sweep = load_sweep("my_sweep.yaml")
    assert 400 < sweep.training.max_length <= 416
    assert sweep.evaluation.max_new_tokens is not None
    assert 300 <= sweep.evaluation.max_new_tokens < sweep.training.max_length - 99
    assert main(["init", "--data", "data", "--model", "model", "--train", "colours", "--ood", "--force"]) == 0
    assert load_sweep("my_sweep.yaml").evaluation.max_new_tokens is None, "short answers need no more than is usual"


def chats(path):
    """A file of rows that no other task comes with."""
    row = {"messages": [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "3"}]}
    path.write_text("".join(f"{json.dumps({**row, 'id': i})}\n" for i in range(40)))


def test_own_data_without_other_tasks_is_given_some_to_forget(folder, capsys):
    chats(folder / "talk.jsonl")
    assert main(["init", "--data", "talk.jsonl", "--model", "someone/model"]) == 0
    said, sweep = capsys.readouterr().out, load_sweep("my_sweep.yaml")
    assert sweep.data.ood == ("capitals", "opposites", "kinds", "counting", "sums")
    assert sweep.data.tasks["kinds"].source == "basics:kinds"
    assert sweep.evaluation.text == "basics"
    assert "capitals: taken untried\n" in said
    assert "someone/model is not on this machine yet: whether it can do these tasks" in said


def test_tasks_that_the_base_model_cannot_do_are_left_out_and_the_file_says_so(folder, capsys):
    chats(folder / "talk.jsonl")
    save_model(folder / "model", chat_template="{% for m in messages %}{{ m.content }} {% endfor %}")
    capsys.readouterr()
    assert main(["init", "--data", "talk.jsonl", "--model", "model"]) == 0
    said, progress = capsys.readouterr()
    assert said.count(": left out, ") == 5
    assert progress == ""
    assert "\n\n\n" not in (folder / "my_sweep.yaml").read_text()
    assert (load_sweep("my_sweep.yaml").data.ood, load_sweep("my_sweep.yaml").evaluation.text) == ((), "auto")
    assert (
        "ood: []                     # forgetting is not measured: name other tasks"
        in (folder / "my_sweep.yaml").read_text()
    )


def test_tasks_to_forget_are_named_by_word_and_path(folder, capsys):
    chats(folder / "talk.jsonl")
    (folder / "quiz.csv").write_text("question,choices,label\n" + "who?,\"['a', 'b']\",0\n" * 3)
    (folder / "judge.yaml").write_text("task: judge\n")
    arguments = ["--data", "talk.jsonl", "--model", "a/b", "--ood", "piqa", "sums", "quiz.csv", "judge.yaml"]
    assert main(["init", *arguments]) == 0
    data = load_sweep("my_sweep.yaml").data
    assert data.ood == ("piqa", "sums", "quiz", "judge")
    assert (data.tasks["quiz"].source, data.tasks["judge"].harness) == ("quiz.csv", "judge.yaml")
    assert main(["init", *arguments[:4], "--force", "--ood", "capitalz"]) == 2
    assert "no task capitalz; there are " in capsys.readouterr().err


def test_at_a_terminal_it_asks_and_asks_again(folder):
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-m", "gallop_ray", "init", "asked.yaml", "--methods", "lora", "--gpus", "0"]
    with subprocess.Popen(command, stdin=other_end, stdout=subprocess.PIPE, text=True) as process:
        os.write(terminal, b"nowhere\ndata\n\n\npocket\n3\n")
        assert process.stdout is not None
        said = process.stdout.read()
        assert process.wait(60) == 0
    assert "there is no file or folder nowhere" in said
    assert "Task to train on [colours]:" in said
    sweep = load_sweep("asked.yaml")
    assert (sweep.data.root, sweep.data.ood, sweep.model.name, len(sweep.seeds)) == ("data", ("animals",), "pocket", 3)
