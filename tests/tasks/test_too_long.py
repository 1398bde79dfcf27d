"""Training examples that are longer than max_length: cut, left out or refused, and never without an answer."""

import pytest

from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.examples import Example, Message, TaskData, free, reasoned
from gallop_ray.tasks.lengths import fitted, text_lengths, too_long
from tests.tasks.test_boundary import byte_level
from tests.tasks.test_conversation import CHATML, tokenizer_with

LONG = " ".join(["one two three"] * 20)


def sweep(too_long: str, max_length: int = 24, **task: object) -> Sweep:
    own = {"tasks": {"talk": {"source": "someone/talk", **task}}}
    fields = {"name": "long", "model": {"name": "x"}, "data": {"train": "talk", **own}}
    objective = {"metric": "val_id_accuracy"}
    training = {"too_long": too_long, "max_length": max_length}
    return Sweep.model_validate({**fields, "methods": [{"type": "full"}], "objective": objective, "training": training})


def task(*questions: str, answer: str = "yes") -> TaskData:
    return TaskData("talk", [free(q, "", answer, f"talk.jsonl:{i + 1}") for i, q in enumerate(questions)])


def test_cut_keeps_the_answer_and_counts():
    tokenizer = byte_level()
    found = fitted(sweep("cut"), task("is it so?", LONG), tokenizer)
    assert (len(found.items), found.cut, found.dropped) == (2, 1, 0)
    assert [len(one.input_ids) <= 24 for one in found.items] == [True, True]
    assert all(tokenizer.decode([t for t in one.labels if t >= 0]) == "yes<end>" for one in found.items)
    assert str(found) == "1 of 2 training examples are longer than max_length: 1 are cut"


def test_drop_leaves_out_and_counts_but_not_all():
    tokenizer = byte_level()
    found = fitted(sweep("drop"), task("is it so?", LONG, LONG), tokenizer)
    assert (len(found.items), found.cut, found.dropped) == (1, 0, 2)
    assert fitted(sweep("drop"), task("is it so?", "no?"), tokenizer).dropped == 0
    with pytest.raises(ValueError, match=r"task talk: all 2 training examples are longer than training.max_length 24"):
        fitted(sweep("drop"), task(LONG, LONG), tokenizer)


def test_refuse_names_the_place_and_the_fix():
    said = r"talk\.jsonl:2: the example has \d+ tokens, .*max_length is 24 and .*too_long is refuse; raise max_length"
    with pytest.raises(ValueError, match=said):
        fitted(sweep("refuse"), task("is it so?", LONG), byte_level())
    (line,) = too_long(sweep("refuse"), {"talk": task("is it so?", LONG)}, byte_level())
    assert line.startswith("talk.jsonl:2: the example has ")


@pytest.mark.parametrize("policy", ["cut", "drop", "refuse"])
def test_an_answer_that_fills_max_length_is_never_cut(policy):
    data = {"talk": task("is it so?", "no?", answer=LONG)}
    lines = too_long(sweep(policy), data, byte_level())
    assert len(lines) == (0 if policy == "drop" else 2)
    assert all("leaves no room in 24 tokens" in line for line in lines)
    with pytest.raises(ValueError, match="all 2" if policy == "drop" else "leaves no room in 24 tokens"):
        fitted(sweep(policy), data["talk"], byte_level())


def test_long_conversations_and_texts_are_counted_as_well():
    tokenizer = tokenizer_with(CHATML)
    turns = (Message("user", LONG), Message("assistant", "yes"), Message("user", "12?"), Message("assistant", "no"))
    talk = Example("", "", ("no",), (), 0, messages=turns, place="talk.jsonl:1")
    text = free("", "", LONG, "talk.jsonl:2")
    found = fitted(sweep("cut"), TaskData("talk", [talk, text]), tokenizer)
    assert (found.cut, [len(one.input_ids) for one in found.items]) == (2, [24, 24])
    assert tokenizer.decode(found.items[1].input_ids).startswith("one two three")
    assert text_lengths([text], tokenizer, "{instruction}").texts[0] > 24
    last = fitted(sweep("cut", 200, learn="last"), TaskData("talk", [talk]), tokenizer)
    assert tokenizer.decode([t for t in last.items[0].labels if t >= 0]) == "no<|im_end|>"


def test_numbers_that_are_only_measured_may_have_long_answers():
    measured = TaskData("talk", test=[reasoned("?", "", LONG, 3)], validation=[reasoned("?", "", LONG, 3)])
    assert too_long(sweep("cut"), {"talk": measured}, byte_level()) == []
    assert text_lengths(measured.test, byte_level(), "{instruction}").reasoning > 24


def talk_of(answer: str, place: str) -> Example:
    messages = (Message("user", "q"), Message("assistant", answer))
    return Example("", "", (answer,), (), 0, messages=messages, place=place)


@pytest.mark.parametrize("policy", ["cut", "drop"])
def test_an_answer_whose_loss_is_measured_has_to_fit_in_test_and_validation_too(policy):
    short, long = free("is it so?", "", "yes", "a.jsonl:1"), free("q", "", LONG, "test.jsonl:7")
    of_tests = TaskData("talk", [short], [short], [long])
    (line,) = too_long(sweep(policy), {"talk": of_tests}, byte_level())
    assert line.startswith("test.jsonl:7: the answer 'one two ")
    (line,) = too_long(sweep(policy), {"talk": TaskData("talk", [short], [long], [short])}, byte_level())
    assert "leaves no room in 24 tokens" in line
    # What is generated has any length, and plain text is cut.
    assert too_long(sweep(policy, measure="exact_match"), {"talk": of_tests}, byte_level()) == []
    assert too_long(sweep(policy), {"talk": TaskData("talk", test=[free("", "", LONG)])}, byte_level()) == []


def test_conversations_that_are_measured_are_tried_by_the_chat_template():
    tokenizer, short = tokenizer_with(CHATML), talk_of("yes", "a.jsonl:1")
    tests = TaskData("talk", [short], [short], [talk_of(LONG, "test.jsonl:7")])
    (line,) = too_long(sweep("cut"), {"talk": tests}, tokenizer)
    assert line.startswith("test.jsonl:7: the answer 'one two ")
    tokenizer.chat_template = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    turns = (Message("user", "q"), Message("tool", "12 mm"), Message("assistant", "yes"))
    lost = TaskData("talk", [], [], [Example("", "", ("yes",), (), 0, messages=turns, place="test.jsonl:7")])
    for measure in ("loss", "exact_match"):
        with pytest.raises(ValueError, match=r"^test.jsonl:7: the chat template does not write turn 2 \(tool\)"):
            too_long(sweep("cut", measure=measure), {"talk": lost}, tokenizer)
