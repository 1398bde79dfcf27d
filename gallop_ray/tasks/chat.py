"""Prompts by a model's own chat template: what it refuses is said in its words, and its date is one for all runs."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

_LOG = logging.getLogger(__name__)
_A_DATE, _ANOTHER = datetime(2001, 2, 3, 4, 5, 6), datetime(2012, 11, 10, 9, 8, 7)


def chat_text(content: str, tokenizer: Any, before: Sequence[tuple[str, str]] = ()) -> str:
    """One user's message, up to where the answer begins; before it, others with their answers.

    Raises ValueError where the template refuses it.
    """
    solved = [(("user", asked), ("assistant", said)) for asked, said in before]
    turns = [*(turn for pair in solved for turn in pair), ("user", content)]
    return rendered([{"role": role, "content": text} for role, text in turns], tokenizer, prompt=True)


def rendered(
    messages: Sequence[Mapping[str, Any]], tokenizer: Any, prompt: bool = False, tools: Sequence[Any] | None = None
) -> str:
    """A conversation as the template writes it; with `prompt` up to where the assistant's answer begins.

    Raises ValueError where the template refuses it.
    """
    if tokenizer.chat_template is None:
        raise ValueError("prompt is `chat`, but the model's tokenizer has no chat template; write a prompt template")
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), tools=tools, tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # the template is a program: it raises what its errors come to
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        fix = "write data.prompt as a template of {instruction} and {input}, or correct it in the tokenizer's folder"
        raise ValueError(f"the model's chat template cannot be used ({reason}); {fix}") from error
    return text


def chat_end(tokenizer: Any) -> list[int]:
    """What the template writes after an assistant's answer, as tokens; where that is nothing, the sequence's end."""
    marker = end_marker(tokenizer, template_of(tokenizer))
    ids: list[int] = tokenizer(marker, add_special_tokens=False)["input_ids"] if marker else []
    return ids or [tokenizer.eos_token_id]


def template_of(tokenizer: Any, tools: Sequence[Any] | None = None) -> str | None:
    """The chat template that a conversation is written by: some tokenizers have another one where there are tools.

    Raises ValueError where there are several, and none is said to be the usual one.
    """
    if tokenizer.chat_template is None:
        return None
    template: str = tokenizer.get_chat_template(tools=tools)
    return template


@lru_cache(maxsize=8)
def end_marker(tokenizer: Any, template: Any) -> str:
    """The text that the tokenizer's template, `template`, writes after an assistant's answer; blanks are none."""
    question, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}
    try:
        begun = rendered([question], tokenizer, prompt=True)
        whole = rendered([question, answer], tokenizer)
    except ValueError:
        return ""
    return whole.removeprefix(begun).partition("y")[2].strip() if whole.startswith(begun) else ""


@lru_cache(maxsize=8)
def takes_system(tokenizer: Any, template: Any, role: str = "system") -> bool:
    """Whether the tokenizer's template, `template`, writes a message of the system, or of another role before a user's.

    Where it does not, that is said once.
    """
    user, text = {"role": "user", "content": "x"}, "a system message"
    try:
        rendered([user], tokenizer, prompt=True)
    except ValueError:
        return True  # it needs more than a user's turn: whoever uses it is told what
    try:
        if text in rendered([{"role": role, "content": text}, user], tokenizer, prompt=True):
            return True
    except ValueError:
        pass
    instead = "it is put before the first user's turn" if role == "system" else "it is given as one of the system"
    _LOG.warning(f"the model's chat template takes no {role} message: {instead}")
    return False


@lru_cache(maxsize=8)
def takes_json(tokenizer: Any, template: Any) -> bool:
    """Whether the template writes the arguments of a tool call as they are given, and so needs them as JSON.

    Most take a mapping, as transformers asks for, and would write a text a second time as JSON.
    """
    for arguments in ({"city": "Rome"}, '{"city": "Rome"}'):
        call = {"id": "123456789", "type": "function", "function": {"name": "x", "arguments": arguments}}
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        try:
            return "'city'" in rendered(turns, tokenizer) or isinstance(arguments, str)
        except ValueError:
            continue
    return False  # whoever uses it is told what it refuses


def fix_time(tokenizer: Any, moment: datetime) -> None:
    """Let the chat template see one moment whenever it is asked, for prompts that hold the day would change daily.

    Raises ValueError for a template with a syntax error.
    """
    from gallop_ray.compat.transformers import template_globals

    several = tokenizer.chat_template
    for template in several.values() if isinstance(several, dict) else (several,):
        try:
            names = template_globals(template)
        except Exception:
            continue  # whoever uses the template is told what is wrong with it
        names["strftime_now"] = moment.strftime


def changes_with_time(tokenizer: Any) -> bool:
    """Whether a prompt by the chat template depends on the day or the hour. The moment is free again afterwards."""
    before = datetime.now()
    found = []
    try:
        for moment in (_A_DATE, _ANOTHER):
            fix_time(tokenizer, moment)
            found.append(chat_text("?", tokenizer))
    finally:
        fix_time(tokenizer, before)
    return found[0] != found[1]
