"""Conversations: `messages` as OpenAI has them, ShareGPT's `conversations`, prompts and completions of messages."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from gallop_ray.spec.problems import did_you_mean
from gallop_ray.tasks.examples import Example, Message
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, missing, text_of
from gallop_ray.tasks.formats.lists import as_list, parsed
from gallop_ray.tasks.lines import check_characters
from gallop_ray.tasks.sources.table import Row

_ROLES = {
    **{each: each for each in ("system", "developer", "user", "assistant", "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response"), "tool"),
}


def conversation(turns: Any, row: Row, place: str) -> Example:
    """The example of a list of turns, with the system message and the tools of the row's own columns."""
    items = as_list(turns)
    if items is None:
        raise ValueError(f"{place}: the conversation is {turns!r:.60}, no list of turns with role and content")
    messages = [_message(turn, number, place) for number, turn in enumerate(items, 1)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and not (messages and messages[0].role == "system"):
        check_characters(system, "system", place)
        messages.insert(0, Message("system", system))
    if not messages or messages[-1].role != "assistant":
        had = f"the last turn is of {messages[-1].role}" if messages else "there are no turns"
        raise ValueError(f"{place}: {had}; a conversation ends with what the assistant is to say")
    if all(each.role in ("system", "developer", "assistant") for each in messages):
        raise ValueError(f"{place}: no turn of user; a conversation needs what the assistant answers")
    last = messages[-1]
    tools = parsed(row.get("tools"))
    written = json.dumps(tools, ensure_ascii=False, sort_keys=True) if tools and not isinstance(tools, str) else ""
    answer = last.content or last.more
    return Example("", "", (answer,), (), 0, messages=tuple(messages), tools=written, place=place)


def _message(turn: Any, number: int, place: str) -> Message:
    turn = parsed(turn)
    if not isinstance(turn, Mapping):
        raise ValueError(f"{place}: turn {number} is {turn!r:.60}, not a mapping with role and content")
    role_key = "role" if "role" in turn else "from"
    content_key = "content" if "content" in turn or "tool_calls" in turn else "value"
    said = turn.get(role_key)
    if said not in _ROLES:
        known = ("system", "user", "assistant", "tool")
        raise ValueError(
            f"{place}: turn {number} has the role {said!r}; must be {', '.join(known)}{did_you_mean(said, known)}"
        )
    more = {str(key): value for key, value in turn.items() if key not in (role_key, content_key) and value is not None}
    if "tool_calls" in more and not more["tool_calls"]:
        del more["tool_calls"]
    content = _content(turn.get(content_key), number, place, bool(more.get("tool_calls")))
    written = json.dumps(more, ensure_ascii=False, sort_keys=True, default=str) if more else ""
    return Message(_ROLES[said], content, written)


def _content(value: Any, number: int, place: str, calls: bool) -> str:
    """The text of a turn; parts of text are put together."""
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        if other := next((part for part in value if part.get("type", "text") != "text"), None):
            raise ValueError(f"{place}: turn {number} has a part of type {other['type']!r}; only text can be learnt")
        value = "".join(str(part.get("text", "")) for part in value)
    if value is None and calls:
        return ""
    if not isinstance(value, str) or (not value.strip() and not calls):
        raise ValueError(f"{place}: turn {number} has no content; write its text, or take the row out")
    check_characters(value, f"turn {number}", place)
    return value


def _conversation_maker(column: str) -> Any:
    def maker(reading: Reading) -> Maker:
        def make(row: Row, place: str) -> Example:
            if row.get(column) is None:
                raise ValueError(f"{place}: {column} {missing(row, column)}")
            return conversation(row[column], row, place)

        return make

    return maker


def _has(column: str) -> Any:
    def fits(columns: Collection[str], row: Row) -> bool:
        return column in columns and as_list(row[column]) is not None

    return fits


MESSAGES = Format(("messages", "tools", "system"), _has("messages"), _conversation_maker("messages"))
SHAREGPT = Format(("conversations", "tools", "system"), _has("conversations"), _conversation_maker("conversations"))


def _turns(value: Any) -> list[Any] | None:
    """The messages of a cell; None for a text, also for one that is a list of something else."""
    items = as_list(value)
    written = isinstance(value, str)
    return None if written and not all(isinstance(each, Mapping) and "role" in each for each in items or [0]) else items


def prompt_and_completion(row: Row, prompt: str, completion: str, place: str) -> Example | None:
    """The conversation of a prompt and a completion that are lists of messages, as TRL has them; None for texts."""
    asked, said = _turns(row.get(prompt)), _turns(row.get(completion))
    if asked is None and said is None:
        return None
    if asked is None:
        asked = [{"role": "user", "content": text_of(row, prompt, place)}]
    if said is None:
        said = [{"role": "assistant", "content": text_of(row, completion, place)}]
    return conversation([*asked, *said], row, place)
