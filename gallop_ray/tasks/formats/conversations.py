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

_WEIGHTS = ("weight", "train", "training")
"""What public formats call whether a turn of the assistant is learnt: 1 or 0, true or false."""
_ROLES = {
    **{each: each for each in ("system", "developer", "user", "assistant", "tool")},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "bot", "model", "chatgpt", "function_call"), "assistant"),
    **dict.fromkeys(("function", "observation", "function_response"), "tool"),
}


def conversation(turns: Any, row: Row, place: str, asked: int = 0) -> Example:
    """The example of a list of turns, with the system message and the tools of the row's own columns.

    The first `asked` turns are a prompt, of which nothing is learnt.
    """
    items = as_list(turns)
    if items is None:
        raise ValueError(f"{place}: the conversation is {turns!r:.60}, no list of turns with role and content")
    messages = [_message(turn, number, place, number > asked) for number, turn in enumerate(items, 1)]
    system = row.get("system")
    if isinstance(system, str) and system.strip() and not (messages and messages[0].role == "system"):
        check_characters(system, "system", place)
        messages.insert(0, Message("system", system))
    if not messages or messages[-1].role != "assistant":
        had = f"the last turn is of {messages[-1].role}" if messages else "there are no turns"
        raise ValueError(f"{place}: {had}; a conversation ends with what the assistant is to say")
    while messages[-1].role != "assistant" or not messages[-1].learnt:  # nothing that is learnt depends on it
        messages.pop()
        if not messages:
            raise ValueError(f"{place}: no turn of the assistant is to be learnt; give one the weight 1")
    if all(each.role in ("system", "developer", "assistant") for each in messages):
        raise ValueError(f"{place}: no turn of user; a conversation needs what the assistant answers")
    last = messages[-1]
    answer = last.content or last.more
    return Example("", "", (answer,), (), 0, messages=tuple(messages), tools=_tools(row, place), place=place)


def _tools(row: Row, place: str) -> str:
    """JSON of the row's tools, a list of mappings; empty where there are none."""
    value = row.get("tools")
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    tools = as_list(value)
    if tools is None or not all(isinstance(each, Mapping) for each in tools):
        raise ValueError(f"{place}: tools is {value!r:.60}, no list of mappings; write it as JSON, or leave it out")
    return json.dumps(tools, ensure_ascii=False, default=str) if tools else ""


def _message(turn: Any, number: int, place: str, learnt: bool) -> Message:
    turn = parsed(turn)
    if not isinstance(turn, Mapping):
        raise ValueError(f"{place}: turn {number} is {turn!r:.60}, not a mapping with role and content")
    role_key = "role" if "role" in turn else "from"
    content_key = "content" if "content" in turn or "tool_calls" in turn else "value"
    said = turn.get(role_key)
    if not isinstance(said, str) or said not in _ROLES:
        known = ("system", "user", "assistant", "tool")
        raise ValueError(
            f"{place}: turn {number} has the role {said!r}; must be {', '.join(known)}{did_you_mean(str(said), known)}"
        )
    ours = (role_key, content_key, *_WEIGHTS)
    more = {str(key): value for key, value in turn.items() if key not in ours and value is not None}
    if "tool_calls" in more and not more["tool_calls"]:
        del more["tool_calls"]
    content = _content(turn.get(content_key), number, place, bool(more.get("tool_calls")))
    written = json.dumps(more, ensure_ascii=False, default=str) if more else ""
    role, weight = _ROLES[said], _weight(turn, number, place)
    return Message(role, content, written, role != "assistant" or (learnt and weight))


def _weight(turn: Mapping[str, Any], number: int, place: str) -> bool:
    """Whether a turn says of itself that it is learnt; one that says nothing is."""
    for key in _WEIGHTS:
        if (value := turn.get(key)) is not None and not (isinstance(value, int | float) and value in (0, 1)):
            raise ValueError(f"{place}: turn {number} has {key} {value!r}; must be 1, to learn it, or 0")
    return all(turn.get(key) is None or bool(turn[key]) for key in _WEIGHTS)


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
    """The messages of a cell; None for a list of something else, and for a text that may be an answer in JSON."""
    items = as_list(value)
    if not items or not all(isinstance(parsed(each), Mapping) for each in items):
        return None
    return None if isinstance(value, str) and not all("role" in parsed(each) for each in items) else items


def prompt_and_completion(row: Row, prompt: str, completion: str, place: str) -> Example | None:
    """The conversation of a prompt and a completion that are lists of messages, as TRL has them; None for texts."""
    asked, said = _turns(row.get(prompt)), _turns(row.get(completion))
    if asked is None and said is None:
        return None
    if asked is None:
        asked = [{"role": "user", "content": text_of(row, prompt, place)}]
    if said is None:
        said = [{"role": "assistant", "content": text_of(row, completion, place)}]
    return conversation([*asked, *said], row, place, asked=len(asked))
