"""Chat templates that refuse, that cannot be read, and that write the date."""

from datetime import datetime

import pytest

from gallop_ray.tasks.chat import changes_with_time, chat_text, fix_time
from gallop_ray.training.pocket import pocket_tokenizer

BODY = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
DATED = "Today is {{ strftime_now('%d %b %Y %H:%M:%S') }}. " + BODY


def with_template(text: str):
    tokenizer = pocket_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('A system message is required') }}", "TemplateError: A system message is required"),
        ("{% for m in messages %}{{ m['role'] }", "TemplateSyntaxError: "),
        ("{{ messages[0]['content'] + 1 }}", "TypeError: "),
        ("{{ nothing.there }}", "UndefinedError: 'nothing' is undefined"),
    ],
    ids=["refuses", "syntax", "types", "undefined"],
)
def test_a_template_that_cannot_be_used_is_told_in_its_own_words(template, said):
    with pytest.raises(ValueError, match="the model's chat template cannot be used") as refused:
        chat_text("Who?", with_template(template))
    assert said in str(refused.value)
    assert "write data.prompt as a template of {instruction} and {input}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_template_that_writes_the_time_writes_the_one_that_is_fixed():
    tokenizer = with_template(DATED)
    fix_time(tokenizer, datetime(2026, 1, 2, 3, 4, 5))
    text = chat_text("Who?", tokenizer)
    assert text == "Today is 02 Jan 2026 03:04:05. Who?"
    other = with_template(DATED)
    fix_time(other, datetime(2026, 1, 2, 3, 4, 5))
    assert chat_text("Who?", other) == text, "another slot, later"


def test_only_templates_that_change_with_time_are_said_to():
    assert changes_with_time(with_template(DATED))
    assert not changes_with_time(with_template(BODY))
