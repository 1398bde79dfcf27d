import pytest

from gallop_ray.tasks.answers import as_number, is_right, last_number, parse_answer, read_answer
from gallop_ray.tasks.examples import reasoned


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("the correct answer is answer2", 1),
        ("answer2, not answer1", 1),
        ("answer12", 2),
        ("answer123 answers answer", None),
        ("", None),
    ],
)
def test_the_first_key_as_a_whole_word_is_the_answer(text, index):
    assert parse_answer(text, ("answer1", "answer2", "answer12")) == index


@pytest.mark.parametrize(
    ("text", "keys", "index"),
    [
        ("正确答案是甲", ("甲", "乙"), 0),
        ("答案是不对。", ("对", "不对"), 1),
        ("答えは二です", ("一", "二"), 1),
        ("答えはウソ。", ("ホント", "ウソ"), 1),
        ("คำตอบคือผิด", ("ถูก", "ผิด"), 1),
        ("정답은 참입니다", ("거짓", "참"), 1),
        ("答案是A选项", ("A", "B"), 0),
        ("答案是2。", ("1", "2"), 1),
        ("答案是AB", ("A", "B"), None),
        ("答案是12", ("1", "2"), None),
        ("die Größe", ("Gr", "e"), None),
        ("it is C++, not C#", ("C", "C#", "C++"), 2),
        ("it is .NET", ("NET", ".NET"), 1),
        ("C++11", ("C++", "C"), 1),
    ],
)
def test_words_have_ends_where_the_script_has_spaces(text, keys, index):
    assert parse_answer(text, keys) == index


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He needs 24 * 24 = 576 tiles. The answer is 576.", 576),
        ("The answer is 1,234,567.5.", 1234567.5),
        ("It costs $1,200", 1200),
        ("a loss of -$3.50", -3.5),
        ("x = -7", -7),
        ("x = \u22127", -7),
        ("$-7", -7),
        ("10-4", 4),
        ("(3)-4", 4),
        ("half is .5", 0.5),
        ("it is 0.125 mile.", 0.125),
        ("60kg", 60),
        ("3, 4", 4),
        ("50%", 50),
        ("answer3.5", None),
        ("as answer3 and H2O say", None),
        ("no number", None),
        ("", None),
    ],
)
def test_the_last_number_is_the_answer(text, number):
    assert last_number(text) == number


def test_only_a_number_alone_is_an_answer_field():
    fields = ("576.0", "-1,200", "$5", "5.", "C", "3 apples", "", "1/2")
    assert [as_number(text) for text in fields] == [576, -1200, 5, 5, None, None, None, None]


def test_numbers_are_compared_as_numbers():
    example = reasoned("How many?", "", "60 + 60 = 120. The answer is 120.", 120.0)
    said = ("The answer is 120.", "120.0", "120.0005", "120.01", "12", "", "answer120")
    assert [is_right(read_answer(text, example), example) for text in said] == [True, True, True, *[False] * 4]
