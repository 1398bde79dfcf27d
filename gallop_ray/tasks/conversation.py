"""Conversations as tokens, by the model's chat template: which of them are the assistant's.

Where the template marks them, by `{% generation %}`, it decides. Elsewhere a turn is what the template adds to the
conversation before it, which is checked to be the same tokens alone as in the whole.
"""

import itertools
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from gallop_ray.tasks.boundary import prompt_alone
from gallop_ray.tasks.chat import end_marker, rendered, takes_json, takes_system, template_of
from gallop_ray.tasks.examples import Example, Message
from gallop_ray.tasks.written import refuse_lost

_BLANKS = " \t"
_MARKS = re.compile(r"\{%-?\s*generation\b")
_MARK = "mark the assistant's turns in the template by {% generation %}"

Turn = dict[str, Any]


@dataclass(frozen=True)
class Turns:
    """The tokens of a conversation, which of them the assistant has said, and where its last turn begins."""

    ids: list[int]
    own: list[bool]
    last: int


def turns_of(example: Example, tokenizer: Any) -> list[Turn]:
    """The messages as a chat template is given them; what is said to the system goes where the template takes it.

    Raises ValueError for a system message that no user's turn follows, of a template that takes none.
    """
    _refuse_no_template(tokenizer)
    template = template_of(tokenizer, _tools(example))
    turns = [_with_arguments(_turn(each), tokenizer, template) for each in example.messages]
    if turns[0]["role"] == "developer" and not takes_system(tokenizer, template, "developer"):
        turns[0]["role"] = "system"
    if turns[0]["role"] != "system" or takes_system(tokenizer, template):
        return turns
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None:
        raise ValueError("the chat template takes no system message, and no user's turn follows it; leave it out")
    asked = {**turns[first], "content": f"{turns[0]['content']}\n\n{turns[first]['content']}"}
    return [*turns[1:first], asked, *turns[first + 1 :]]


def asked_text(example: Example, tokenizer: Any) -> str:
    """The conversation up to where the assistant's last turn begins. Raises ValueError for a turn that is lost."""
    turns, tools = turns_of(example, tokenizer)[:-1], _tools(example)
    text = rendered(turns, tokenizer, prompt=True, tools=tools)
    refuse_lost(turns, [False] * len(turns), tools, text)
    return text


def tokens_of(example: Example, tokenizer: Any, last: bool = False) -> Turns:
    """The whole conversation, with all turns of the assistant that are learnt as its own, or only the last.

    Raises ValueError where the template refuses it, does not write all of it, or does not tell these turns apart.
    """
    turns, tools = turns_of(example, tokenizer), _tools(example)
    said = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"]
    own = [place for place, one in zip(said, _said(example), strict=True) if one.learnt]
    found = _Rendered(turns, tools, tokenizer, own[-1:] if last else own)
    marked = bool(_MARKS.search(template_of(tokenizer, tools) or ""))
    return found.marked(said) if marked and tokenizer.is_fast else found.by_difference()


def _said(example: Example) -> list[Message]:
    return [each for each in example.messages if each.role == "assistant"]


def _turn(message: Message) -> Turn:
    return {"role": message.role, "content": message.content, **(json.loads(message.more) if message.more else {})}


def _with_arguments(turn: Turn, tokenizer: Any, template: Any) -> Turn:
    """The turn with the arguments of its tool calls as the template takes them: a mapping, or JSON."""
    calls = turn.get("tool_calls")
    if not isinstance(calls, list) or not all(isinstance(each, dict) for each in calls):
        return turn
    as_json = takes_json(tokenizer, template)
    return {**turn, "tool_calls": [_call(each, as_json) for each in calls]}


def _call(call: dict[str, Any], as_json: bool) -> dict[str, Any]:
    if isinstance(call.get("function"), dict):
        return {**call, "function": _call(call["function"], as_json)}
    arguments = call.get("arguments")
    if as_json and isinstance(arguments, dict):
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if not as_json and isinstance(arguments, str):
        with suppress(ValueError):
            found = json.loads(arguments)
            return {**call, "arguments": found if isinstance(found, dict) else arguments}
    return call


def _tools(example: Example) -> list[Any] | None:
    return json.loads(example.tools) if example.tools else None


def _refuse_no_template(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        raise ValueError(
            "a conversation needs a chat template, and the model's tokenizer has none; take the model's chat variant, "
            "or put a chat_template.jinja into its folder"
        )


@dataclass(frozen=True)
class _Rendered:
    turns: list[Turn]
    tools: list[Any] | None
    tokenizer: Any
    learnt: list[int]
    """Which of the turns."""

    @property
    def _fix(self) -> str:
        last = self.learnt == [len(self.turns) - 1]
        return _MARK if last else f"{_MARK}, or set the task's `learn` to last"

    def marked(self, said: list[int]) -> Turns:
        """By the template's own marks, of all turns that the assistant has said."""
        self._whole()  # says what the template refuses
        whole = self.tokenizer.apply_chat_template(
            self.turns, tools=self.tools, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, own = list(whole["input_ids"]), [bool(each) for each in whole["assistant_masks"]]
        if not any(own):
            raise ValueError("the chat template marks nothing as the assistant's; correct its {% generation %}")
        ends = len(own) - own[::-1].index(True)
        asked = prompt_alone(self._text(len(self.turns) - 1, prompt=True), self.tokenizer, special=False)
        last = len(asked) if ids[: len(asked)] == asked else _last_run(own)
        if self.learnt == said[-1:]:
            own = [each and place >= last for place, each in enumerate(own)]
        elif self.learnt != said:
            own = self._only_learnt(own, said)
        return Turns(ids[:ends], own[:ends], last)

    def _only_learnt(self, own: list[bool], said: list[int]) -> list[bool]:
        """The marks of the turns that are learnt, where each turn of the assistant has one run of marks."""
        begins = [place for place, each in enumerate(own) if each and not (place and own[place - 1])]
        if len(begins) != len(said):
            raise ValueError(
                f"the chat template marks {len(begins)} turns as the assistant's, and there are {len(said)}, of which "
                "some are not learnt: correct its {% generation %}, or set the task's `learn` to last"
            )
        marked = dict(zip(said, itertools.pairwise([*begins, len(own)]), strict=True))
        kept = {place for turn in self.learnt for place in range(*marked[turn])}
        return [each and place in kept for place, each in enumerate(own)]

    def by_difference(self) -> Turns:
        """By what each turn adds."""
        whole = self._whole()
        ids = self._ids(whole)
        spans = [self._span(i, whole, ids) for i in self.learnt]
        own = [any(begin <= place < end for begin, end in spans) for place in range(spans[-1][1])]
        ids = ids[: len(own)]
        if not self._marker(len(self.turns) - 1, whole) and ids[-1] != self.tokenizer.eos_token_id:
            ids, own = [*ids, self.tokenizer.eos_token_id], [*own, True]
        return Turns(ids, own, spans[-1][0])

    def _span(self, index: int, whole: str, ids: list[int]) -> tuple[int, int]:
        """The tokens of one assistant's turn: behind what it is prompted by, up to its end marker."""
        begun = self._text(index, prompt=True).rstrip(_BLANKS)
        if not whole.startswith(begun):
            raise ValueError(
                f"the chat template begins turn {index + 1}, the assistant's, otherwise than it asks: {self._fix}"
            )
        asked = prompt_alone(begun, self.tokenizer, special=False)
        return self._place(asked, ids), self._place(self._ids(self._until(index, whole, begun)), ids)

    def _until(self, index: int, whole: str, begun: str) -> str:
        """The whole up to the end of a turn."""
        until = self._text(index + 1)
        if whole.startswith(until):
            last = index == len(self.turns) - 1
            return until.rstrip() if last or self._marker(index, until) else until
        # Some templates write the last turn in another way, with thoughts that they leave out of earlier ones.
        content, marker = str(self.turns[index]["content"] or "").strip(), self._end_marker()
        at = whole.find(content + marker, len(begun)) if content and marker else -1
        if at < 0:
            raise ValueError(f"the chat template writes turn {index + 1} otherwise where more follows: {self._fix}")
        return whole[: at + len(content) + len(marker)]

    def _marker(self, index: int, until: str) -> bool:
        """Whether something other than blanks follows a turn's own text."""
        content = str(self.turns[index]["content"] or "").rstrip()
        return not (content and until.rstrip().endswith(content))

    def _end_marker(self) -> str:
        return end_marker(self.tokenizer, template_of(self.tokenizer))

    def _whole(self) -> str:
        text = self._text(len(self.turns))
        refuse_lost(self.turns, [i in self.learnt for i in range(len(self.turns))], self.tools, text)
        return text

    def _text(self, count: int, prompt: bool = False) -> str:
        return rendered(self.turns[:count], self.tokenizer, prompt, self.tools)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _place(self, alone: list[int], ids: list[int]) -> int:
        """How many tokens of the whole are those of its beginning, `alone`."""
        if ids[: len(alone)] != alone:
            raise ValueError(f"the tokens where a turn of the assistant begins or ends cross its border: {self._fix}")
        return len(alone)


def _last_run(own: list[bool]) -> int:
    """Where the last tokens that follow each other begin."""
    end = len(own) - own[::-1].index(True)
    return end - next((i for i, each in enumerate(own[:end][::-1]) if not each), end)
