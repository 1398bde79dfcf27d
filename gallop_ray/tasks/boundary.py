"""Where prompt and answer meet: their tokens are those of the whole text, as lm-evaluation-harness takes them.

Tokenised apart, `Answer: ` and `yes` are other tokens than a model ever saw: in `Answer: yes` the blank is part of the
word. So blanks at a prompt's end go to the answer, and the answer is what follows the prompt's tokens in the whole.
Line breaks stay with the prompt where they are tokens of their own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

_BLANKS = " \t"
_STAND_IN = "x"


class _Read(NamedTuple):
    """The tokens of a text, and what a fast tokenizer knows of them besides."""

    ids: list[int]
    encoding: Any

    def ended(self, length: int) -> int:
        """How many tokens end within so many characters; 0 where the tokenizer cannot say."""
        if self.encoding is None:
            return 0
        beyond = (place for place, (_, end) in enumerate(self.encoding.offsets) if end > length)
        return next(beyond, len(self.ids))


def meet(
    prompt: str, answers: Sequence[str], tokenizer: Any, special: bool = True
) -> tuple[list[int], list[list[int]]]:
    """The tokens of a prompt, the same for each of these answers, and those of each answer after it.

    special: whether the tokenizer adds its beginning of a text; a chat template has written it already. What it adds
    at the end is left out.
    """
    bare = prompt.rstrip(_BLANKS)
    context, *wholes = _read([bare, *(prompt + answer for answer in answers)], tokenizer, special)
    cut = min(_cut(context.ids, whole, len(bare)) for whole in wholes)
    first = wholes[0].ids
    cut = min(_shared(first[:cut], whole.ids) for whole in wholes)
    return first[:cut], [whole.ids[cut:] for whole in wholes]


def prompt_alone(prompt: str, tokenizer: Any, special: bool = True) -> list[int]:
    """The tokens of a prompt whose answer is not known: as before an answer that begins with a letter.

    A tokenizer may take several line breaks for one token at the end of a text, and for several before a word.
    """
    bare = prompt.rstrip(_BLANKS)
    if bare and bare[-1].isspace():
        return meet(bare, [_STAND_IN], tokenizer, special)[0]
    return _read([bare], tokenizer, special)[0].ids


def _read(texts: list[str], tokenizer: Any, special: bool) -> list[_Read]:
    """All in one call: a call costs more than a short text."""
    found = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False)
    rows, end = found["input_ids"], [tokenizer.eos_token_id]
    if special and rows[0][-1:] == end and tokenizer("")["input_ids"][-1:] == end:
        rows = [ids[:-1] for ids in rows]
    return [_Read(*each) for each in zip(rows, found.encodings or [None] * len(rows), strict=True)]


def _cut(context: list[int], whole: _Read, length: int) -> int:
    """How many tokens of the whole text are the prompt's, of so many characters: those that end in it."""
    shared = _shared(context, whole.ids)
    # Or its end is read otherwise when something follows: which tokens still end in it, the characters tell.
    return shared if shared == len(context) else max(shared, whole.ended(length))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    if other[: len(one)] == one:
        return len(one)
    apart = (place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(apart, min(len(one), len(other)))
