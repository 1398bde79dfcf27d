"""What labels mean: the same in all rows, never a place among fewer answers, and never a value that is missing."""

import csv
import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from gallop_ray.tasks.load import load_task
from tests.tasks.test_formats import data, lines, only, read

STARS = ("1", "2", "3", "4", "5")


def answers(found):
    """By the number of its row what each example learns."""
    return {int(one.place.replace(", row ", ":").rpartition(":")[2]) - 1: one.answer for one in found}


def classes(path, written, **fields):
    """What the labels of rows, in turn, mean."""
    rows = [{"text": f"text {i}", "label": written[i % len(written)]} for i in range(30)]
    found = answers(read(lines(path / "a.jsonl", *rows), **fields))
    means = {written[i % len(written)]: answer for i, answer in found.items()}
    assert all(means[written[i % len(written)]] == answer for i, answer in found.items())
    return means


@pytest.mark.parametrize("fields", [{}, {"prompt": "{{ text }}", "answer": "{{ label }}"}], ids=["label", "template"])
def test_options_that_are_numbers_are_meant_alike_in_all_rows(tmp_path, fields):
    stars = {"options": list(STARS), **fields}
    assert classes(tmp_path, (0, 1, 2, 3, 4), **stars) == dict(zip(range(5), STARS, strict=True))
    assert classes(tmp_path, (1, 2, 3, 4, 5), **stars) == {int(each): each for each in STARS}
    assert classes(tmp_path, (1, 0), options=["0", "1"], **fields) == {0: "0", 1: "1"}
    with pytest.raises(
        ValueError, match=r"the label '?1'? means '1' .* and '2' .*give the task `labels: text` or `label"
    ):
        classes(tmp_path, (1, 2, 3), **stars)
    assert classes(tmp_path, (1, 2, 3), labels="text", **stars) == {1: "1", 2: "2", 3: "3"}
    assert classes(tmp_path, (1, 2, 3), labels="index", **stars) == {1: "2", 2: "3", 3: "4"}
    assert classes(tmp_path, ("neg", 1), options=["neg", "pos"], **fields) == {"neg": "neg", 1: "pos"}


def test_many_classes_of_numbers_are_their_own_words(tmp_path):
    assert classes(tmp_path, tuple(map(str, range(12)))) == {str(i): str(i) for i in range(12)}
    assert classes(tmp_path, (True, False)) == {True: "True", False: "False"}


@pytest.mark.parametrize(
    ("names", "fields", "expected"),
    [
        (["1", "2", "3"], {}, ["1", "2", "3"]),
        (["-1", "0", "1"], {}, ["-1", "0", "1"]),
        (["neg", "pos", "both"], {"options": ["pos", "neg", "both"]}, ["neg", "pos", "both"]),
        (["0", "1", "2"], {"options": ["low", "mid", "high"]}, ["low", "mid", "high"]),
    ],
)
def test_numbers_of_a_dataset_stand_for_its_own_names(tmp_path, names, fields, expected):
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": [f"text {i}" for i in range(30)], "label": [i % 3 for i in range(30)]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    found = answers(read(tmp_path / "a.parquet", **fields))
    assert {i % 3: answer for i, answer in found.items()} == dict(enumerate(expected))
    assert all(expected[i % 3] == answer for i, answer in found.items())


def test_a_hidden_label_is_refused_and_an_option_of_that_name_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"label is -1: hidden; test on a split .*or give `options` with -1"):
        classes(tmp_path, (-1, 0, 1))
    assert classes(tmp_path, (-1, 0, 1), options=["-1", "0", "1"]) == {-1: "-1", 0: "0", 1: "1"}


def test_what_is_no_list_of_turns_or_no_text_changes_no_question(tmp_path):
    row = {"question": "Why?", "answer": "So."}
    noted = only(tmp_path / "a.jsonl", {**row, "history": "fever"}, format="prompt")
    assert (noted.instruction, noted.messages) == ("Why?", ())
    documents = {**row, "context": {"title": ["A"], "sentences": [["B."]]}}
    assert only(tmp_path / "b.jsonl", documents, format="prompt").input == ""


def test_spellings_of_one_word_are_one_class(tmp_path):
    assert set(classes(tmp_path, ("caf\u00e9", "cafe\u0301", "tea")).values()) == {"caf\u00e9", "tea"}
    choice = {"question": "What?", "choices": ["tea", "caf\u00e9"], "answer": "cafe\u0301"}
    assert only(tmp_path / "b.jsonl", choice).answer == "caf\u00e9"


def test_numbers_as_choices_and_a_number_as_the_answer_are_asked_about(tmp_path):
    row = {"question": "1 + 2?", "choices": [1, 2, 3, 4], "answer": 3}
    with pytest.raises(
        ValueError, match=r"a.jsonl:1: label 3 means '3' as an answer's text and '4' as an index from 0"
    ):
        only(tmp_path / "a.jsonl", row)
    assert only(tmp_path / "a.jsonl", row, labels="text").answer == "3"
    assert only(tmp_path / "a.jsonl", {**row, "choices": [7, 5, 3, 9], "answer": 3}, labels="text").answer == "3"


SEPARATE = {"question": "What?", "option_a": "a", "option_b": "b", "option_c": "c", "option_d": "d", "answer": "C"}


def test_a_blank_choice_before_others_is_refused_and_those_at_the_end_are_none(tmp_path):
    example = only(tmp_path / "a.jsonl", {**SEPARATE, "option_d": float("nan")})
    assert (example.options, example.answer) == (("a", "b", "c"), "c")
    for blank in ("", None, float("nan"), " "):
        with pytest.raises(ValueError, match=r"a.jsonl:1: option_b is blank, and option_d is not; write its text"):
            only(tmp_path / "a.jsonl", {**SEPARATE, "option_b": blank})
    with pytest.raises(ValueError, match=r"a.jsonl:1: option_b is blank, and option_d is not"):
        only(tmp_path / "a.jsonl", {key: value for key, value in SEPARATE.items() if key != "option_b"})
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([SEPARATE, *([{**SEPARATE, "option_b": ""}.values()] * 20)])
    with pytest.raises(ValueError, match=r"a.csv:2: option_b is blank"):
        read(path)
    with pytest.raises(ValueError, match=r"one of the answers \['a', '', 'b'\] is empty"):
        only(tmp_path / "a.jsonl", {"question": "What?", "choices": ["a", None, "b"], "label": 0})
    assert only(tmp_path / "a.jsonl", {"question": "?", "choices": ["a", "b", None], "label": 0}).options == ("a", "b")
    keyed = {"question": "What?", "choices": {"A": "a", "B": "b", "C": None}, "label": "B"}
    assert only(tmp_path / "a.jsonl", keyed).answer == "b"


NAN = float("nan")
GONE = {
    "answer": ({"question": "q", "answer": NAN}, {}, "answer is null"),
    "label": ({"text": "q", "label": NAN}, {}, "label is null"),
    "output": ({"instruction": "q", "output": NAN}, {}, "output is null"),
    "template": ({"a": "q", "b": None}, {"prompt": "{{ a }}: {{ b }}", "answer": "x"}, "a column is null; write"),
    "template's answer": ({"a": "q", "b": NAN}, {"prompt": "{{ a }}", "answer": "{{ b }}"}, "a column is null; write"),
    "several labels": ({"text": "q", "labels": [1]}, {}, "labels is a list; a row has one label"),
    "a mapping": ({"text": "q", "label": {"a": 1}}, {}, "label is a dict; a row has one label"),
}


@pytest.mark.parametrize("name", GONE)
def test_what_is_missing_is_no_word(tmp_path, name):
    row, fields, said = GONE[name]
    with pytest.raises(ValueError, match=rf"a.jsonl:1: .*{said}"):
        only(tmp_path / "a.jsonl", row, **fields)


def test_an_input_that_is_missing_is_none(tmp_path):
    assert only(tmp_path / "a.jsonl", {"instruction": "Say hi", "input": NAN, "output": "hi"}).input == ""
    numbers = Dataset.from_dict({"instruction": ["Say hi"] * 20, "input": [NAN] * 20, "output": ["hi"] * 20})
    numbers.to_parquet(tmp_path / "a.parquet")
    assert {one.input for one in read(tmp_path / "a.parquet")} == {""}
    filled = only(tmp_path / "a.jsonl", {"a": "q", "b": None}, prompt="{{ a }}{{ b or '' }}", answer="x")
    assert filled.instruction == "q"


def test_a_question_is_asked_with_what_it_is_about(tmp_path):
    about = only(tmp_path / "a.jsonl", {"context": "Paris is big.", "question": "What is big?", "answer": "Paris"})
    assert (about.instruction, about.input) == ("What is big?", "Paris is big.")
    told = {"system_prompt": "Be a pirate.", "question": "Who?", "response": "Ahoy"}
    assert [each.content for each in only(tmp_path / "a.jsonl", told).messages] == ["Be a pirate.", "Who?", "Ahoy"]
    before = {"instruction": "And then?", "input": "", "output": "x", "history": [["q1", "a1"]]}
    turns = only(tmp_path / "a.jsonl", before).messages
    assert [each.content for each in turns] == ["q1", "a1", "And then?", "x"]


def test_rows_with_and_without_a_system_message_are_conversations_alike(tmp_path):
    for asked, said in (("instruction", "output"), ("prompt", "completion")):
        rows = [{asked: f"{i}?", said: "x", "system": "Be kind." if i % 2 else ""} for i in range(30)]
        found = load_task("mine", data(source=str(lines(tmp_path / "a.jsonl", *rows))))
        roles = {tuple(each.role for each in one.messages) for one in found.train}
        assert roles == {("user", "assistant"), ("system", "user", "assistant")}


def test_completions_that_are_judged_are_not_all_learnt(tmp_path):
    row = {"prompt": "q", "completion": "a", "label": False}
    with pytest.raises(ValueError, match=r"a.jsonl:1: label is false, and every completion would be learnt; keep"):
        only(tmp_path / "a.jsonl", row)
    assert only(tmp_path / "a.jsonl", row, format="prompt").answer == "a"


UNUSED = {
    "premise": {"premise": "It rained.", "choice1": "wet", "choice2": "dry", "question": "effect", "label": 0},
    "question": {"question": "Who?", "sentence": "Ann did.", "label": "x"},
    "choices": {"question": "Capital?", "choices": "Paris|Rome", "answer": "Paris"},
}


@pytest.mark.parametrize("column", UNUSED)
def test_a_column_that_belongs_to_the_question_is_not_left_out_without_a_word(tmp_path, column):
    with pytest.raises(
        ValueError, match=rf"a.jsonl:1: {column} would not be used beside .*; give prompt: .*or `format`"
    ):
        only(tmp_path / "a.jsonl", UNUSED[column])
    rows = [{**UNUSED[column], **({"label": i % 2} if column != "choices" else {})} for i in range(20)]
    known = {"premise": "choice", "question": "label", "choices": "prompt"}[column]
    assert len(read(lines(tmp_path / "a.jsonl", *rows), format=known)) == 18


def test_a_column_of_no_format_is_refused_unless_a_template_names_it(tmp_path):
    row = {"question": "x", "passage2": "y", "answer": "z"}
    with pytest.raises(ValueError, match="columns names 'contxt', which the format prompt does not look for; did you"):
        only(tmp_path / "a.jsonl", row, columns={"contxt": "passage2"})
    assert only(tmp_path / "a.jsonl", row, columns={"context": "passage2"}).input == "y"
    own = only(tmp_path / "a.jsonl", row, columns={"about": "passage2"}, prompt="{{ about }} {{ question }}")
    assert json.loads(own.row)["passage2"] == "y"
    assert own.instruction == "y x"
