"""Whether a chat template has written all that a conversation holds: what it leaves out is neither learnt nor asked."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_THOUGHT = "</think>"
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # keys that templates write before the content
_FIX = "take a model whose template does, correct the template, or change the data"


def refuse_lost(
    turns: Sequence[Mapping[str, Any]], learnt: Sequence[bool], tools: Sequence[Any] | None, text: str
) -> None:
    """Raises ValueError for a turn, a tool call or a tool that is not in the text of the conversation.

    The turns stand there in their order, but for those of the system, which may go before others. Blanks do not count,
    and a text may stand as JSON writes it. Of earlier turns that are not learnt thoughts may be left out.
    """
    whole, at = _bare(text), 0
    for index, turn in enumerate(turns):
        found = _end(_forms(turn, learnt[index]), whole, at)
        if found is None and turn["role"] in ("system", "developer"):
            found = at if _end(_forms(turn, True), whole, 0) is not None else None
        if found is None:
            raise ValueError(f"the chat template does not write turn {index + 1} ({turn['role']}); {_FIX}")
        for name in _called(turn):
            called = _end([name], whole, at)
            if called is None:
                raise ValueError(
                    f"the chat template does not write the call of the tool {name!r} in turn {index + 1}; {_FIX}"
                )
            found = max(found, called)
        at = found
    for key in _THOUGHTS:
        thought = turns[-1].get(key) if learnt[-1] else None
        if isinstance(thought, str) and _bare(thought) not in whole:
            raise ValueError(f"the chat template does not write {key} of turn {len(turns)}; {_FIX}")
    for name in _names(tools or ()):
        if _bare(name) not in whole:
            raise ValueError(f"the chat template does not write the tool {name!r} of `tools`; {_FIX}")


def _bare(text: str) -> str:
    return "".join(text.split())


def _end(forms: Sequence[str], whole: str, at: int) -> int | None:
    """Where the first of these forms ends that stands behind a place; None where none does."""
    for form in forms:
        bare = _bare(form)
        if (begin := whole.find(bare, at)) >= 0:
            return begin + len(bare)
    return None


def _forms(turn: Mapping[str, Any], learnt: bool) -> list[str]:
    """The texts as which a turn may stand in a conversation."""
    content = str(turn["content"] or "")
    written = [content, json.dumps(content, ensure_ascii=False)[1:-1], json.dumps(content)[1:-1]]
    kept = content.rpartition(_THOUGHT)[2]
    return written if learnt or turn["role"] != "assistant" else [*written, kept]


def _called(turn: Mapping[str, Any]) -> Iterator[str]:
    """The names of the tools that a turn calls."""
    calls = turn.get("tool_calls")
    yield from _names(calls if isinstance(calls, list) else ())


def _names(tools: Sequence[Any]) -> Iterator[str]:
    for tool in tools:
        inner = tool.get("function") if isinstance(tool, Mapping) else None
        name = (
            inner.get("name") if isinstance(inner, Mapping) else tool.get("name") if isinstance(tool, Mapping) else None
        )
        if isinstance(name, str):
            yield name
