"""What people have, as the documentation of public tools shows it, becomes examples."""

import bz2
import csv
import gzip
import json
import re
from dataclasses import replace

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from gallop_ray.spec.data import DataSpec
from gallop_ray.tasks.examples import Example, Message
from gallop_ray.tasks.formats.wording import Choice, worded
from gallop_ray.tasks.load import load_task
from gallop_ray.tasks.predictions import prompt_text
from tests.tasks.test_boundary import byte_level


def read(path, splits=("test",), **fields):
    """The examples of a source that is measured, those of the last split asked for."""
    data = DataSpec.model_validate(
        {"tasks": {"mine": {"source": str(path), **fields}}, "train": "other", "limits": {"validation": None}}
    )
    return getattr(load_task("mine", data, splits), splits[-1])


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def only(path, row, **fields):
    """The example of a row that stands among its like."""
    lines(path, *([row] * 20))
    return read(path, **fields)[0]


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And twice that?"},
    {"role": "assistant", "content": "8"},
]
TURNS = tuple(Message(each["role"], each["content"]) for each in CHAT)
READ = tuple(replace(each, learnt=each.role != "assistant" or each.content == "8") for each in TURNS)
CHOICES = {"question": "Which is a metal?", "choices": ["ice", "iron", "wood"]}
CLOZE = Example(
    "Question: Which is a metal?\nAnswer:", "", ("ice", "iron", "wood"), ("ice", "iron", "wood"), 1, joint=" "
)

KNOWN = {
    "messages": ({"messages": CHAT}, Example("", "", ("8",), (), 0, messages=TURNS)),
    "sharegpt": (
        {
            "system": "Be brief.",
            "conversations": [
                {"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]}
                for each in CHAT[1:]
            ],
        },
        Example("", "", ("8",), (), 0, messages=TURNS),
    ),
    "alpaca": ({"instruction": "Add.", "input": "1 2", "output": "3"}, Example("Add.", "1 2", ("3",), (), 0)),
    "alpaca without input": ({"instruction": "Add 1 2.", "output": "3"}, Example("Add 1 2.", "", ("3",), (), 0)),
    "prompt and completion": (
        {"prompt": "The sky is", "completion": " blue."},
        Example("The sky is", "", (" blue.",), (), 0, joint=""),
    ),
    "of messages": ({"prompt": CHAT[:-1], "completion": CHAT[-1:]}, Example("", "", ("8",), (), 0, messages=READ)),
    "question and answer": ({"question": "Why?", "answer": "So."}, Example("Why?", "", ("So.",), (), 0)),
    "an answer that is JSON": (
        {"question": "Split.", "answer": '["a", 1]'},
        Example("Split.", "", ('["a", 1]',), (), 0),
    ),
    "one of several right answers": (
        {"question": "Who?", "answers": ["Ada", "A. Lovelace"], "answer": "Ada"},
        Example("Who?", "", ("Ada",), (), 0, references=("A. Lovelace",)),
    ),
    "several right answers": (
        {"question": "Why?", "answer": ["So.", "Because."], "references": ["Thus."]},
        Example("Why?", "", ("So.",), (), 0, references=("Because.", "Thus.")),
    ),
    "index": ({**CHOICES, "answer": 1}, CLOZE),
    "letter": ({**CHOICES, "answer": "B"}, CLOZE),
    "answer's text": ({**CHOICES, "label": "iron"}, CLOZE),
    "ARC": (
        {
            "id": "x",
            "question": CHOICES["question"],
            "choices": {"text": CHOICES["choices"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        CLOZE,
    ),
    "separate columns": ({"question": CHOICES["question"], "A": "ice", "B": "iron", "C": "wood", "answer": "B"}, CLOZE),
    "plain text": ({"text": "Once upon a time."}, Example("", "", ("Once upon a time.",), (), 0)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_row_of_a_known_format_is_recognised_by_its_columns(tmp_path, name):
    row, expected = KNOWN[name]
    example = only(tmp_path / "rows.jsonl", row)
    assert example == expected
    assert json.loads(example.row) == row
    assert example.place.startswith(f"{tmp_path}/rows.jsonl:")


def test_labels_list_the_answers_and_ask_for_a_letter(tmp_path):
    example = only(tmp_path / "rows.jsonl", {**CHOICES, "answer": 1, "context": "Metals shine."}, formulation="label")
    assert example.instruction == "Metals shine.\nWhich is a metal?\nA. ice\nB. iron\nC. wood\nAnswer:"
    assert (example.options, example.answer, example.joint) == (("A", "B", "C"), "B", " ")


def test_a_wrong_answer_that_is_there_twice_is_one_by_its_text_and_two_letters():
    choice = Choice("Question: x\nAnswer:", ("a", "b", "a", "c"), 3)
    by_text, by_letter = worded(choice, "cloze"), worded(choice, "label")
    assert (by_text.options, by_text.answer) == (("a", "b", "c"), "c")
    assert (by_letter.options, by_letter.answer) == (("A", "B", "C", "D"), "D")
    assert worded(replace(choice, label=2), "cloze").answer == "a"
    with pytest.raises(ValueError, match="the right answer 'a' is there twice"):
        worded(replace(choice, label=2), "label")


def test_labels_that_count_from_one_are_seen_in_all_rows(tmp_path):
    rows = [{**CHOICES, "question": f"{i}?", "label": i % 3 + 1} for i in range(30)]
    found = read(lines(tmp_path / "rows.jsonl", *rows))
    assert all(one.label == int(one.instruction.split()[1].rstrip("?")) % 3 for one in found)
    assert {one.label for one in found} == {0, 1, 2}


def test_numbers_among_the_answers_are_meant_as_answers_where_all_labels_are_among_them(tmp_path):
    rows = [{"question": f"{i} + {i}?", "options": ["8", "3", str(2 * i)], "answer": str(2 * i)} for i in range(10, 30)]
    assert {one.label for one in read(lines(tmp_path / "rows.jsonl", *rows))} == {2}


AMBIGUOUS = {
    "text or letter": (["b", "a", "c"], "a", {"text": "a", "letter": "b"}),
    "text or index": (["3", "2", "1", "0"], "1", {"text": "1", "index": "2", "number": "3"}),
    "text or number": (["4", "3", "2", "1"], "4", {"text": "4", "number": "1"}),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_labels_that_could_be_meant_in_two_ways_are_refused_until_the_task_says_which(tmp_path, name):
    choices, label, meant = AMBIGUOUS[name]
    clear = [{"question": "x", "choices": choices, "label": choices[0]}] if name == "text or letter" else []
    path = tmp_path / "rows.csv"
    rows = [*clear, *[{"question": f"{i}?", "choices": choices, "label": label} for i in range(20)]]
    table = [["question", "choices", "label"], *([r["question"], json.dumps(r["choices"]), r["label"]] for r in rows)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(table)
    first, other = list(meant)[:2]
    with pytest.raises(ValueError, match=rf"rows.csv:2: label .* means .*labels: ({first}|{other})`") as error:
        read(path)
    assert f"`labels: {first}`" in str(error.value)
    assert f"`labels: {other}`" in str(error.value)
    for way, answer in meant.items():
        assert read(path, labels=way)[-1].answer == answer


def test_labels_that_mean_the_same_in_two_ways_are_read(tmp_path):
    rows = [{"question": f"{i}?", "choices": ["a", "b", "c"], "label": "abc"[i % 3]} for i in range(20)]
    assert all(one.answer == json.loads(one.row)["label"] for one in read(lines(tmp_path / "rows.jsonl", *rows)))
    with pytest.raises(ValueError, match="labels is not for the format prompt, only for choice"):
        read(lines(tmp_path / "p.jsonl", *ROWS), labels="text")


def test_classes_are_all_that_there_are(tmp_path):
    rows = [{"text": f"text {i}", "label": ("spam", "ham")[i % 2]} for i in range(20)]
    example = read(lines(tmp_path / "rows.jsonl", *rows))[0]
    assert example.options == ("ham", "spam")
    assert (example.instruction, example.joint) == (f"{json.loads(example.row)['text']}\nLabel:", " ")
    assert example.answer == json.loads(example.row)["label"]
    named = [{"text": f"text {i}", "label": i % 2} for i in range(20)]
    assert read(lines(tmp_path / "rows.jsonl", *named), options=["neg", "pos"])[0].options == ("neg", "pos")


def test_tools_and_their_calls_stay_what_they_are(tmp_path):
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    turns = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]
    example = only(tmp_path / "rows.jsonl", {"messages": turns, "tools": [{"name": "add"}]})
    assert json.loads(example.tools) == [{"name": "add"}]
    assert json.loads(example.messages[1].more) == {"tool_calls": call}
    assert (example.messages[1].content, json.loads(example.messages[2].more)) == ("", {"name": "add"})


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def test_what_a_row_says_is_not_learnt_is_only_read(tmp_path):
    turns = [said("user", "a"), said("assistant", "b", weight=0), said("user", "c", weight=1), said("assistant", "d")]
    example = only(tmp_path / "a.jsonl", {"messages": turns})
    assert [each.learnt for each in example.messages] == [True, False, True, True]
    assert {each.more for each in example.messages} == {""}
    ended = only(tmp_path / "b.jsonl", {"messages": [*turns, said("user", "e"), said("assistant", "f", train=False)]})
    assert (ended.messages, ended.answer) == (example.messages, "d")
    asked = only(
        tmp_path / "c.jsonl", {"prompt": [said("user", "a"), said("assistant", "b"), turns[2]], "completion": "d"}
    )
    assert [each.learnt for each in asked.messages if each.role == "assistant"] == [False, True]
    for wrong, message in (
        ({"messages": [turns[0], said("assistant", "b", weight=0.5)]}, r"a.jsonl:1: turn 2 has weight 0.5; must be 1"),
        ({"messages": turns[:2]}, r"a.jsonl:1: no turn of the assistant is to be learnt"),
        ({"messages": turns, "tools": "[{'name': get}]"}, r"a.jsonl:1: tools is .* no list of mappings"),
        ({"messages": turns, "tools": "weather"}, r"a.jsonl:1: tools is 'weather', no list of mappings"),
        ({"messages": [said(["user"], "x")]}, r"a.jsonl:1: turn 1 has the role \['user'\]; must be"),
    ):
        with pytest.raises(ValueError, match=message):
            only(tmp_path / "a.jsonl", wrong)


def test_columns_are_mapped_and_templates_filled(tmp_path):
    row = {"frage": "Welches Metall?", "antworten": ["Eis", "Eisen"], "richtig": 1, "note": "x"}
    mapped = {"question": "frage", "choices": "antworten", "label": "richtig"}
    example = only(tmp_path / "rows.jsonl", row, columns=mapped)
    assert (example.instruction, example.answer) == ("Question: Welches Metall?\nAnswer:", "Eisen")
    own = only(tmp_path / "rows.jsonl", row, columns=mapped, prompt="{{ question }} ->")
    assert (own.instruction, own.options) == ("Welches Metall? ->", ("Eis", "Eisen"))
    free = only(tmp_path / "rows.jsonl", row, prompt="{{ frage|upper }}", answer="{{ antworten[richtig] }}.")
    assert free == Example("WELCHES METALL?", "", ("Eisen.",), (), 0)
    chosen = only(
        tmp_path / "rows.jsonl", row, prompt="{{ frage }}", answer="{{ antworten[richtig] }}", options=["Eis", "Eisen"]
    )
    assert (chosen.kind, chosen.label) == ("choice", 1)


def test_a_template_words_the_question_of_a_pair(tmp_path):
    own = only(
        tmp_path / "a.jsonl", {"instruction": "Add.", "input": "1", "output": "2"}, prompt="{{ input }}: {{ output }}?"
    )
    assert (own.instruction, own.input, own.answer) == ("1: 2?", "", "2")
    pair = only(tmp_path / "a.jsonl", {"question": "x", "answer": "y"}, prompt="Q {{ question }}")
    assert (pair.instruction, pair.answer) == ("Q x", "y")


def test_an_example_has_its_row_as_it_was_read(tmp_path):
    row = {"frage": "Warum?", "antwort": "Darum.", "n": 1}
    assert json.loads(only(tmp_path / "a.jsonl", row, columns={"question": "frage", "answer": "antwort"}).row) == row


def in_csv(path, separator=","):
    rows = [f'"Who, {i}?"{separator}"says ""hi""\nand goes"{separator}{"AB"[i % 2]}' for i in range(20)]
    path.write_text("\ufefftext" + separator + "more" + separator + "label\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("excel.csv", ";")])
def test_tables_of_text_know_their_lines(tmp_path, name, separator):
    found = {one.place: one for one in read(in_csv(tmp_path / name, separator))}
    second = f"{tmp_path}/{name}:4"
    assert second in found or len(found) == 18
    assert all(json.loads(one.row)["more"] == 'says "hi"\nand goes' for one in found.values())
    assert {one.options for one in found.values()} == {("A", "B")}
    assert {int(place.rpartition(":")[2]) % 2 for place in found} == {0}


ROWS = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(20)]


TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FILES = {
    "rows.json": b"\xef\xbb\xbf" + json.dumps(ROWS, indent=1).encode(),
    "object.json": json.dumps({"version": "1", "data": ROWS}, indent=1).encode(),
    "lines.json": TEXT,
    "array.jsonl": json.dumps(ROWS).encode(),
    "rows.jsonl.gz": gzip.compress(TEXT),
    "rows.ndjson.bz2": bz2.compress(TEXT),
}


@pytest.mark.parametrize("name", FILES)
def test_rows_are_read_from_files_of_json(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    check_rows(tmp_path / name)


def check_rows(path):
    found = read(path, ("validation", "test"))
    assert len(found) == 18
    assert {(one.instruction, one.answer) for one in found} < {(row["question"], row["answer"]) for row in ROWS}
    assert all(one.place.startswith(str(path.parent)) for one in found)


def zst(path):
    import pyarrow as pa

    with pa.output_stream(str(path / "rows.jsonl.zst"), compression="zstd") as stream:
        stream.write(TEXT)
    return path / "rows.jsonl.zst"


def parquet(path):
    Dataset.from_list(ROWS).to_parquet(path / "rows.parquet")
    return path / "rows.parquet"


def arrow(path):
    Dataset.from_list(ROWS).save_to_disk(path / "saved")
    return next((path / "saved").glob("*.arrow"))


def saved(path):
    Dataset.from_list(ROWS).save_to_disk(path / "saved")
    return path / "saved"


def saved_splits(path):
    dataset = Dataset.from_list(ROWS)
    DatasetDict({"train": dataset.select(range(5)), "validation": dataset, "test": dataset}).save_to_disk(path / "d")
    return path / "d"


def parts(path):
    for part in range(4):
        lines(path / f"part-{part}.jsonl", *ROWS[5 * part : 5 * part + 5])
    return path / "part-*.jsonl"


def files_of_splits(path):
    (path / "d").mkdir()
    lines(path / "d/train.jsonl", *ROWS)
    lines(path / "d/my_test.jsonl", *ROWS[:18])
    return path / "d"


@pytest.mark.parametrize("make", [zst, parquet, arrow, saved, parts, files_of_splits])
def test_rows_are_read_from_whatever_holds_them(tmp_path, make):
    check_rows(make(tmp_path))


def test_a_file_of_text_has_a_text_a_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(f"line {i}\u2028more" for i in range(20)).encode())
    found = read(tmp_path / "a.txt")
    assert {one.kind for one in found} == {"plain"}
    assert {one.answer for one in found} < {f"line {i}\u2028more" for i in range(20)}


def test_a_saved_dataset_has_the_splits_that_it_names(tmp_path):
    assert [len(read(saved_splits(tmp_path), (split,))) for split in ("train", "validation", "test")] == [5, 20, 20]


def test_names_of_classes_come_from_the_dataset(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos", "unclear"])})
    rows = {"text": [f"text {i}" for i in range(20)], "label": [i % 2 for i in range(20)]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    example = read(tmp_path / "a.parquet")[0]
    assert example.options == ("neg", "pos", "unclear")
    assert example.label == json.loads(example.row)["label"]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([{"a": 1}], {}, r"rows.jsonl:1: the columns a are of no known format"),
        ([{"messages": [{"role": "usr", "content": "x"}]}], {}, r":1: turn 1 has the role 'usr'; must be .*`user`"),
        ([{"messages": CHAT[:-1]}], {}, r":1: the last turn is of user; a conversation ends with"),
        ([{"messages": [{"role": "user"}]}], {}, r":1: turn 1 has no content"),
        ([{**CHOICES, "answer": "iorn"}], {}, r":1: label 'iorn' is none of the answers \['ice', 'iron', 'wood'\]"),
        ([{**CHOICES, "choices": ["a", "a"], "answer": 0}], {}, r":1: the answers \['a', 'a'\] are not different"),
        ([{"text": "x", "label": "c"}], {"options": ["a", "b"]}, r":1: label 'c' is not among the options a, b"),
        (ROWS[:1], {"columns": {"question": "frage"}}, r":1: no column 'frage'; there are question, answer"),
        (ROWS[:1], {"options": ["a", "b"]}, r"options is not for the format prompt, only for template, label"),
        (ROWS[:1], {"answer": "{{ answer }}"}, r"answer is not for the format prompt, only for template"),
        ([KNOWN["messages"][0]], {"prompt": "x"}, r"prompt is not for the format messages"),
        (ROWS[:1], {"format": "alpaca"}, r":1: instruction is missing; there are question, answer"),
        (ROWS[:1], {"prompt": "{{ q }}", "answer": "{{ answer }}"}, r":1: prompt '{{ q }}': 'q' is undefined; there"),
        ([ROWS[0], {"question": "x"}], {}, r":2: answer is missing; there are question"),
        ([ROWS[0], {"question": "x", "answer": None}], {}, r":2: answer is null"),
        ([ROWS[0], *[{"question": "", "answer": "x"}] * 8], {}, r"(?s):2: question is empty.*:6: .*and 3 lines more"),
        ([{**CHOICES, "choices": ["a\ud83d", "b"], "label": 0}], {}, r":1: the answer has half of a character"),
        ([{"a": "\ud83d"}], {"prompt": "{{ a }}", "answer": "x"}, r":1: the question has half of a character"),
        (
            [{"text": "x", "label": "\ud83d"}, {"text": "x", "label": "y"}],
            {},
            r":1: the answer has half of a character",
        ),
        ([{"messages": CHAT, "tools": [{"name": "\ud83d"}]}], {}, r":1: the conversation has half of a character"),
        (
            [{"question": "x", "answer": [72]}],
            {},
            r":1: answer is list, not text; write it as text, or give prompt and",
        ),
        ([{"text": "x", "Label": "y"}], {}, r":1: the column 'Label' is not read.*columns: {label: Label}"),
        ([{"text": "\ud83d"}], {}, r":1: text has half of a character"),
        ([KNOWN["alpaca"][0], {**KNOWN["alpaca"][0], "system": "x", "output": 3.5}, {"a": 1}], {}, r":3: instruction"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path, rows, fields, message):
    with pytest.raises(ValueError, match=message):
        read(lines(tmp_path / "rows.jsonl", *rows), **fields)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b'q,a\n"x,1\n', r"a.csv:\d: not CSV"),
        ("a.csv", b"question,answer\nx,1\nx,1,2\n", "a.csv:3: 3 values for 2 columns; put quotes"),
        ("a.csv", b"q,q\n1,2\n", "a.csv:1: the column 'q' is there twice"),
        ("a.csv", b"question,answer\ncaf\xe9,1\n", "a.csv:2: not UTF-8 .byte 0xe9"),
        ("a.csv", b"question,answer\n", "a.csv: the file has no rows"),
        ("a.txt", b"\n\n", "a.txt:1: the file is empty; write a text on each line"),
        ("a.tsv", b'text\tlabel\n"x\ty\tz\n', "a.tsv:2: not CSV"),
        ("a.csv", b"PK\x03\x04zip", "a.csv:1: the file is a zip archive or a spreadsheet"),
        ("a.json", b'[\n{"question": 1},\n{"question" 2}]', "a.json:3: not JSON"),
        ("a.json", b'[{"question": "x", "answer": "y"}, 5]', "a.json, row 2: not an object"),
        ("a.parquet", b"PAR1 and no more", "a.parquet cannot be read as Parquet"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz cannot be read"),
        ("a.jsonl", b'{"question": "x", "answer": "y"}\n{', "a.jsonl:2: not a JSON object"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name)


def test_blanks_behind_separators_are_no_part_of_names_and_cells(tmp_path):
    (tmp_path / "a.csv").write_text("text, label\n" + "".join(f'a{i}, "{"xy"[i % 2]}"\n' for i in range(20)))
    assert {one.options for one in read(tmp_path / "a.csv")} == {("x", "y")}
    (tmp_path / "b.csv").write_text("text,label \n" + "".join(f"a{i}, {'xy'[i % 2]}\n" for i in range(20)))
    assert {one.options for one in read(tmp_path / "b.csv", options=[" x", " y"])} == {(" x", " y")}


def test_quotes_in_a_tsv_file_that_has_none_around_cells_are_text(tmp_path):
    rows = ['"Great" movie\tpos', '"Great movie\tpos', 'bad one"\tneg', "fine\tpos"] * 5
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    found = {(one.instruction, one.answer) for one in read(tmp_path / "a.tsv")}
    assert found <= {(f"{text}\nLabel:", label) for text, label in (row.split("\t") for row in rows)}
    assert len(found) > 2


def test_a_text_may_begin_with_a_bracket(tmp_path):
    (tmp_path / "a.txt").write_text("[MUSIC] la la\n" * 20)
    assert {one.answer for one in read(tmp_path / "a.txt")} == {"[MUSIC] la la"}


def test_a_file_that_is_not_there_is_no_hub_id(tmp_path):
    lines(tmp_path / "tickets.jsonl", *ROWS)
    with pytest.raises(ValueError, match=r"there is no file .*ticket.jsonl; did you mean `tickets.jsonl`"):
        read(tmp_path / "ticket.jsonl")
    with pytest.raises(ValueError, match="no file matches"):
        read(tmp_path / "none-*.csv")


def data(train="mine", **fields):
    return DataSpec.model_validate({"tasks": {"mine": fields}, "train": train, "limits": {"validation": None}})


def test_a_file_alone_is_split_by_question(tmp_path):
    rows = [{"question": f"What is {i % 50}?", "answer": f"It is {i}."} for i in range(100)]
    found = load_task("mine", data(source=str(lines(tmp_path / "a.jsonl", *rows))))
    parts = [found.train, found.validation, found.test]
    assert sum(map(len, parts)) == 100
    assert [len(part) for part in parts] == [82, 8, 10]
    asked = [{one.question for one in part} for part in parts]
    assert not asked[0] & (asked[1] | asked[2])
    assert not asked[1] & asked[2]
    assert load_task("mine", data(source=f"{tmp_path}/a.jsonl"), ("test",)).test == found.test


def test_splits_are_named_shares_or_files(tmp_path):
    first, second = lines(tmp_path / "a.jsonl", *ROWS), lines(tmp_path / "b.jsonl", *ROWS[:4])
    found = load_task(
        "mine", data(source=str(first), splits={"train": str(first), "validation": 0.25, "test": str(second)})
    )
    assert [len(part) for part in (found.train, found.validation, found.test)] == [15, 5, 4]
    tested = load_task("mine", data(source=str(first), splits={"test": str(second)}))
    assert [len(part) for part in (tested.train, tested.validation, tested.test)] == [18, 2, 4]
    with pytest.raises(ValueError, match=r"there is no file .*c.jsonl"):
        load_task("mine", data(source=str(first), splits={"test": f"{tmp_path}/c.jsonl"}))


def test_names_of_splits_are_those_of_the_source(tmp_path):
    dataset = Dataset.from_list(ROWS)
    DatasetDict({"train": dataset, "dev": dataset.select(range(6))}).save_to_disk(tmp_path / "d")
    found = load_task("mine", data(source=f"{tmp_path}/d"))
    assert [len(part) for part in (found.train, found.validation, found.test)] == [18, 2, 6]
    with pytest.raises(ValueError, match=r"no split 'final' in .*; it has train, dev"):
        load_task("mine", data(source=f"{tmp_path}/d", splits={"train": "train", "test": "final"}))


def test_solved_examples_stand_before_each_question(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({**CHOICES, "question": f"{i}?", "answer": 1} for i in range(40)))
    found = load_task("mine", data(source=str(path), few_shot=2))
    shots = {one.instruction.rpartition("\n\n")[0] for one in found.test}
    assert len(shots) == 1
    (shown,) = shots
    first, second = shown.split("\n\n")
    assert first != second
    assert all(each.endswith("?\nAnswer: iron") for each in (first, second))
    for one in found.train:
        *before, asked = one.instruction.split("\n\n")
        assert [each.startswith(asked) for each in before] == [False, False]
    chats = lines(
        tmp_path / "b.jsonl", *({"messages": [CHAT[0], {**CHAT[1], "content": f"{i}?"}, CHAT[2]]} for i in range(40))
    )
    example = load_task("mine", data(source=str(chats), few_shot=1)).test[0]
    assert [each.role for each in example.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [each.learnt for each in example.messages if each.role == "assistant"] == [False, True]


def test_shots_are_worded_as_the_question_is(tmp_path):
    path = lines(tmp_path / "a.jsonl", *({"question": f"q{i}", "answer": f"a{i}"} for i in range(40)))
    one = load_task("mine", data(source=str(path), few_shot=2)).test[0]
    asked = re.compile(r"### q\d+\n: a\d+\n\n### q\d+\n: a\d+\n\n### q\d+\n:")
    assert asked.fullmatch(prompt_text(one, byte_level(), "### {instruction}\n{input}: ").rstrip())
    assert one.instruction == json.loads(one.row)["question"]
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert re.fullmatch(r"(<user>q\d+<assistant>a\d+){2}<user>q\d+", prompt_text(one, tokenizer, "chat"))


def test_one_blank_stands_between_a_prompt_of_ones_own_and_an_option(tmp_path):
    row = {"a": "Is it?", "b": "no"}
    for ends, joint in (("", " "), (" ", ""), ("\n", "")):
        template = {"prompt": f"{{{{ a }}}} Answer:{ends}", "answer": "{{ b }}"}
        assert only(tmp_path / "a.jsonl", row, options=["no", "yes"], **template).joint == joint


HOUSE = {
    "instruction": "Please choose the correct answer to the question: Which is it: a or b?\n\n"
    "Answer1: red one. Answer2: blue: dark\n\nAnswer format: answer1/answer2",
    "input": "",
    "output": "the correct answer is answer2",
    "answer": "answer2",
}


def house(tmp_path, *rows, **fields):
    lines(tmp_path / "quiz.test.jsonl", *rows)
    settings = DataSpec.model_validate(
        {"root": str(tmp_path), "train": "quiz", "limits": {"validation": None}, **fields}
    )
    found = load_task("quiz", settings, ("validation", "test"))
    return [*found.validation, *found.test]


def test_the_texts_of_answers_are_found_in_the_instruction(tmp_path):
    rows = [{**HOUSE, "instruction": HOUSE["instruction"].replace("Which", f"{i} which")} for i in range(20)]
    example = house(tmp_path, *rows)[0]
    assert re.fullmatch(r"Question: \d+ which is it: a or b\?\nAnswer:", example.instruction)
    assert example.options == ("red one.", "blue: dark")
    assert (example.answer, example.joint) == ("blue: dark", " ")
    by_label = house(tmp_path, *rows, formulation="label")[0]
    assert by_label.options == ("the correct answer is answer1", "the correct answer is answer2")
    alone = house(tmp_path, *rows, tasks={"quiz": {"formulation": "label"}})[0]
    assert alone == by_label


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "Is it?\nAnswer format: answer1/answer2"},
        {"output": "It is blue, as one can see, so the correct answer is answer2"},
        {"instruction": "Please fill in the blank: a _ b\n\nAnswer1: x Answer2: y\n\nAnswer format: answer1/answer2"},
    ],
)
def test_labels_stay_where_one_row_has_no_texts_or_says_more(tmp_path, change):
    rows = [{**HOUSE, "instruction": HOUSE["instruction"].replace("Which", f"{i} which")} for i in range(20)]
    found = house(tmp_path, *rows, {**HOUSE, **change})
    assert {one.keys for one in found} == {("answer1", "answer2")}
    with pytest.raises(ValueError, match=r"quiz.test.jsonl:21: the answers' texts are not in the instruction"):
        house(tmp_path, *rows, {**HOUSE, **change}, formulation="cloze")
