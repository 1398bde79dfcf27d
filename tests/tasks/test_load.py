import json

import pytest

from gallop_ray.spec.schema import DataSpec
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.load import load_task


def row(number, answer="answer1"):
    return {
        "instruction": f"Which one is {number}?\n\nAnswer1: this Answer2: that\n\nAnswer format: answer1/answer2",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def write(folder, name, rows):
    (folder / name).write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))


def data(root, **options):
    return DataSpec(root=str(root), train="any", **options)


def instructions(examples):
    return {one.instruction for one in examples}


def test_a_row_becomes_an_example_with_every_option_spelled_out(tmp_path):
    write(tmp_path, "quiz.train.jsonl", [row(1, "answer2")])
    write(tmp_path, "quiz.validation.jsonl", [row(2)])
    options = ("the correct answer is answer1", "the correct answer is answer2")
    expected = Example(row(1)["instruction"], "", options, ("answer1", "answer2"), 1)
    assert load_task("quiz", data(tmp_path), ["train"]).train == [expected]


def test_a_row_with_a_number_and_no_options_is_answered_with_the_number(tmp_path):
    sums = {"instruction": "How many tiles?", "input": "", "output": "\nA: 24 * 24 = 576.", "answer": "576.0"}
    write(tmp_path, "sums.train.jsonl", [sums])
    write(tmp_path, "sums.validation.jsonl", [sums | {"answer": "-1,200"}])
    task = load_task("sums", data(tmp_path), ["train", "validation"])
    assert task.train == [Example("How many tiles?", "", ("\nA: 24 * 24 = 576.",), (), 0, 576.0)]
    assert task.validation[0].number == -1200


def test_validation_is_held_out_of_train(tmp_path):
    write(tmp_path, "quiz.train.jsonl", [row(i) for i in range(50)])
    write(tmp_path, "quiz.test.jsonl", [row(i) for i in range(50, 60)])
    task = load_task("quiz", data(tmp_path, validation_share=0.2))
    assert (len(task.train), len(task.validation), len(task.test)) == (40, 10, 10)
    assert instructions(task.train + task.validation) == {row(i)["instruction"] for i in range(50)}
    assert load_task("quiz", data(tmp_path, validation_share=0.2), ["validation"]).validation == task.validation
    other = load_task("quiz", data(tmp_path, validation_share=0.2, split_seed=1))
    assert instructions(other.validation) != instructions(task.validation)


def test_without_train_validation_is_held_out_of_test(tmp_path):
    write(tmp_path, "quiz.test.jsonl", [row(i) for i in range(20)])
    task = load_task("quiz", data(tmp_path), ["validation", "test"])
    assert (len(task.validation), len(task.test)) == (2, 18)
    assert not instructions(task.validation) & instructions(task.test)


def test_a_validation_split_is_used_as_it_is(tmp_path):
    for i, split in enumerate(["train", "validation", "test"]):
        write(tmp_path, f"quiz.{split}.jsonl", [row(i)])
    task = load_task("quiz", data(tmp_path))
    for i, examples in enumerate([task.train, task.validation, task.test]):
        assert instructions(examples) == {row(i)["instruction"]}


def test_limits_take_the_first_of_the_shuffled_examples():
    everything = load_task("range", data("generated", limits={"validation": None}))
    limited = load_task("range", data("generated", limits={"train": 10, "validation": 20, "test": 30}))
    assert limited.train == everything.train[:10]
    assert limited.validation == everything.validation[:20]
    assert limited.test == everything.test[:30]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"quiz.train.jsonl:2: not a JSON object"),
        ({"instruction": "x"}, r"quiz.train.jsonl:2: input, output, answer missing"),
        (row(2) | {"answer": 3}, r"quiz.train.jsonl:2: answer missing or not text"),
        (row(2, "answer7"), r"quiz.train.jsonl:2: answer 'answer7' is not among the options answer1/answer2"),
        (row(2) | {"output": "yes"}, r"quiz.train.jsonl:2: output 'yes' does not contain"),
        (row(2) | {"instruction": "What is it?"}, r"quiz.train.jsonl:2: no answer options; end the instruction"),
        (
            row(2) | {"instruction": "How many?", "answer": "7"},
            r"quiz.train.jsonl:2: this line has a number, the first",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    write(tmp_path, "quiz.train.jsonl", [row(1), line])
    with pytest.raises(ValueError, match=message):
        load_task("quiz", data(tmp_path), ["train"])


def test_unknown_tasks_and_splits_are_named(tmp_path):
    write(tmp_path, "quiz.test.jsonl", [row(i) for i in range(20)])
    with pytest.raises(ValueError, match=r"no task quis in .*there are: quiz. Did you mean quiz\?"):
        load_task("quis", data(tmp_path))
    with pytest.raises(ValueError, match="has no train split, only test"):
        load_task("quiz", data(tmp_path))
    with pytest.raises(ValueError, match=r"no task arc_eazy on the hub.*Did you mean arc_easy\?"):
        load_task("arc_eazy", data("hub"))
    with pytest.raises(ValueError, match="among the generated tasks"):
        load_task("quiz", data("generated"))
    with pytest.raises(ValueError, match="is not a folder"):
        load_task("quiz", data(tmp_path / "nowhere"))


def test_too_few_examples_to_hold_out_is_an_error(tmp_path):
    write(tmp_path, "quiz.train.jsonl", [row(1)])
    with pytest.raises(ValueError, match="too few to hold out"):
        load_task("quiz", data(tmp_path), ["train"])
