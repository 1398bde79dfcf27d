import gzip
import json
import os
import re
from random import Random

import pytest

from gallop_ray.spec.data import DataSpec
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.references import misread


def row(number, answer="answer1"):
    return {
        "instruction": f"Which one is {number}?\n\nAnswer1: this Answer2: that\n\nAnswer format: answer1/answer2",
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def write(folder, name, rows):
    (folder / name).write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows), errors="surrogateescape"
    )


def data(root, **options):
    return DataSpec(root=str(root), train="any", **{"formulation": "label", **options})


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
        ({"instruction": "x"}, r"quiz.train.jsonl:2: output, answer missing or not text; every line needs"),
        ("[1]", r"quiz.train.jsonl:2: not a JSON object; write one"),
        ('{"answer": ' + 5000 * "9" + "}", r"quiz.train.jsonl:2: not a JSON object \(Exceeds"),
        (60_000 * "[" + 60_000 * "]", r"quiz.train.jsonl:2: nested too deeply"),
        ('{"instruction": "caf\udce9"}', r"quiz.train.jsonl:2: not UTF-8 \(byte 0xe9 at 21\)"),
        (row(2) | {"instruction": "\ud83d?"}, r"quiz.train.jsonl:2: instruction has half of a character \(.ud83d,"),
        (row(2) | {"input": "\udc00"}, r"quiz.train.jsonl:2: input has half of a character"),
        (row(2) | {"input": 3}, r"quiz.train.jsonl:2: input missing or not text"),
        (row(2) | {"answer": None}, r"quiz.train.jsonl:2: answer missing or not text"),
        (row(2) | {"answer": 3}, r"quiz.train.jsonl:2: answer '3' is not among the options"),
        (row(2) | {"answer": True}, r"quiz.train.jsonl:2: answer 'true' is not among the options"),
        (
            {"instruction": "28 + 1?", "output": " ", "answer": "29"},
            r"quiz.train.jsonl:2: output is empty; write what the model is to say",
        ),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1: the file is empty"),
        (b"\xef\xbb\xbf\n \n", "1: the file is empty"),
        (json.dumps([row(1)], indent=1).encode(), "1: the file is a JSON array; write one object on each line"),
        (json.dumps(row(1)).encode("utf-16"), "1: the file is not UTF-8 but UTF-16"),
        (json.dumps(row(1)).encode("utf-16-be"), "1: the file is not UTF-8 but UTF-16, or no text"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "1: the file is a pointer to a file in",
        ),
        (gzip.compress(b"{}", mtime=0), "1: the file is compressed with gzip; unpack it"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, message):
    (tmp_path / "quiz.train.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=f"^{tmp_path}/quiz.train.jsonl:{message}"):
        load_task("quiz", data(tmp_path), ["train"])


def test_a_packed_file_is_not_silently_missing(tmp_path):
    (tmp_path / "quiz.train.jsonl.gz").write_bytes(gzip.compress(b"{}", mtime=0))
    with pytest.raises(ValueError, match=r"there are: none. There is quiz.train.jsonl.gz: give it as .*, unpacked"):
        load_task("quiz", data(tmp_path))


def test_lines_are_those_of_the_file_whatever_characters_stand_in_them(tmp_path):
    """U+2028 and its like are not escaped by json.dumps(ensure_ascii=False), and end no line of JSONL."""
    rows = [row(1) | {"input": "a\u2028b\u2029c\x85d\x0ce"}, "", row(2)]
    text = "\r\n".join(one and json.dumps(one, ensure_ascii=False) for one in rows)
    (tmp_path / "quiz.validation.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = load_task("quiz", data(tmp_path), ["validation"]).validation
    assert {one.input: one.place for one in found} == {
        "a\u2028b\u2029c\x85d\x0ce": f"{tmp_path}/quiz.validation.jsonl:1",
        "": f"{tmp_path}/quiz.validation.jsonl:3",
    }


@pytest.mark.parametrize("name", ["v [1]", "a*b", "what?", "a{b,c}", "100% #1", "two::colons"])
def test_a_folder_may_have_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / "v 1").mkdir()
    write(tmp_path / "v 1", "quiz.validation.jsonl", [row(9)])
    write(tmp_path / name, "quiz.validation.jsonl", [row(1)])
    assert instructions(load_task("quiz", data(tmp_path / name), ["validation"]).validation) == {row(1)["instruction"]}


def test_a_file_that_changed_is_read_as_it_is_though_its_time_is_the_old_one(tmp_path):
    path = tmp_path / "quiz.validation.jsonl"
    for count in (5, 3):
        write(tmp_path, path.name, [row(i) for i in range(count)])
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert len(load_task("quiz", data(tmp_path), ["validation"]).validation) == count


@pytest.mark.parametrize(
    ("options", "answer", "read"),
    [
        ("true/false", True, "true"),
        ("True/False", False, "False"),
        ("1/2/3", 2, "2"),
        ("1/2/3", 2.0, "2"),
        ("2.0/3.0", 2.0, "2.0"),
    ],
)
def test_an_answer_that_is_no_text_is_the_option_of_that_name(tmp_path, options, answer, read):
    line = {"instruction": f"Which?\nAnswer format: {options}", "input": None, "output": f"it is {read}"}
    write(tmp_path, "quiz.validation.jsonl", [line | {"answer": answer}])
    (example,) = load_task("quiz", data(tmp_path), ["validation"]).validation
    assert (example.keys[example.label], example.answer, example.input) == (read, f"it is {read}", "")


@pytest.mark.parametrize(("answer", "number"), [(7, 7), (-2.5, -2.5), (1e-5, 1e-5), (1e21, 1e21)])
def test_a_number_need_not_be_text(tmp_path, answer, number):
    write(tmp_path, "sums.validation.jsonl", [{"instruction": "How many?", "output": "x", "answer": answer}])
    assert load_task("sums", data(tmp_path), ["validation"]).validation[0].number == number


@pytest.mark.parametrize("donor", ["train", "test"])
def test_examples_that_repeat_are_held_out_together(tmp_path, donor):
    rows = [row(i % 20) | {"instruction": " " * (i % 3) + row(i % 20)["instruction"]} for i in range(60)]
    write(tmp_path, f"quiz.{donor}.jsonl", [*rows, *(row(0) for _ in range(30))])
    task = load_task("quiz", data(tmp_path, limits={"validation": None}), ["validation", donor])
    rest = getattr(task, donor)
    assert len(task.validation) == 9
    assert len(task.validation) + len(rest) == 90
    assert not {one.question for one in task.validation} & {one.question for one in rest}


def test_the_smallest_group_is_held_out_where_all_are_larger_than_the_share(tmp_path):
    write(tmp_path, "quiz.train.jsonl", [*[row(1)] * 30, *[row(2)] * 10])
    assert len(load_task("quiz", data(tmp_path), ["validation"]).validation) == 10


def test_of_options_that_hold_one_another_only_the_answer_is_exchanged(tmp_path):
    line = {"instruction": "Is it?\nAnswer format: true/not true", "output": "it is not true", "answer": "not true"}
    write(tmp_path, "quiz.validation.jsonl", [line])
    assert load_task("quiz", data(tmp_path), ["validation"]).validation[0].options == ("it is true", "it is not true")
    write(tmp_path, "quiz.validation.jsonl", [line | {"answer": "true"}])
    with pytest.raises(ValueError, match="output 'it is not true' does not contain the answer 'true'"):
        load_task("quiz", data(tmp_path), ["validation"])


def test_options_of_a_script_without_spaces_are_found(tmp_path):
    line = {"instruction": "3 是偶数吗\nAnswer format: 甲/乙", "output": "正确答案是甲", "answer": "甲"}
    write(tmp_path, "quiz.validation.jsonl", [line])
    assert load_task("quiz", data(tmp_path), ["validation"]).validation[0].options == ("正确答案是甲", "正确答案是乙")


def mutated(content, random):
    """The bytes of a file with some of them exchanged, left out, put in, or said again."""
    found = bytearray(content)
    odd = (
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xe2\x80\xa8",
        b"\x00",
        b"\r",
        b"\n",
        b"\\ud800",
        b"NaN",
        b"1e999",
        b"[" * 3000,
        b'"',
        b"{",
        b"}",
    )
    for _ in range(random.choice((1, 1, 3, 10))):
        place, kind = random.randrange(len(found)), random.randrange(4)
        if kind == 0:
            found[place] = random.randrange(256)
        elif kind == 1:
            del found[place : place + random.choice((1, 10, 100))]
        elif kind == 2:
            found[place:place] = random.choice(odd)
        else:
            found[place:place] = found[random.randrange(len(found)) :][: random.randrange(200)]
        found = found or bytearray(b"\n")
    return bytes(found)


def test_a_mutated_file_is_read_or_refused_with_its_line(tmp_path):
    random, path = Random(1), tmp_path / "quiz.validation.jsonl"
    options = [row(i) | {"input": "a\u2028é"} for i in range(4)]
    numbers = [{"instruction": f"{i} + 1?", "output": f"It is {i + 1}", "answer": i + 1} for i in range(4)]
    refused = []
    for turn in range(100):
        rows = (options, numbers)[turn % 2]
        path.write_bytes(mutated("\n".join(json.dumps(one, ensure_ascii=False) for one in rows).encode(), random))
        try:
            examples = load_task("quiz", data(tmp_path), ["validation"]).validation
            misread(examples)
            json.dumps([one.question for one in examples], ensure_ascii=False).encode()
        except ValueError as error:
            refused.append(str(error))
    assert 20 < len(refused) < 100
    for said in refused:
        before, *told = said.split(f"{path}:")
        assert (before, bool(told)) == ("", True), said
        assert all(re.match(r"\d+: ", each) for each in told), said


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
