"""Where prompt and answer meet: their tokens are those of the whole text, as lm-evaluation-harness takes them.

Tokenised apart, `Answer: ` and `yes` are other tokens than a model ever saw: in `Answer: yes` the blank is part of the
word. So blanks at a prompt's end go to the answer, and the answer is what follows the prompt's tokens in the whole.
Line breaks stay with the prompt where they are tokens of their own.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

_BLANKS = " \t"
_STAND_IN = "x"


def meet(
    prompt: str, answers: Sequence[str], tokenizer: Any, special: bool = True
) -> tuple[list[int], list[list[int]]]:
    """The tokens of a prompt, the same for each of these answers, and those of each answer after it.

    special: whether the tokenizer adds its beginning of a text; a chat template has written it already. What it adds
    at the end is left out.
    """
    bare = prompt.rstrip(_BLANKS)
    wholes = [_ids(prompt + answer, tokenizer, special) for answer in answers]
    context = _ids(bare, tokenizer, special)
    cut = min(_cut(context, ids, bare, prompt + answer, tokenizer) for ids, answer in zip(wholes, answers, strict=True))
    cut = min(cut, *(_shared(wholes[0], ids) for ids in wholes))
    return wholes[0][:cut], [ids[cut:] for ids in wholes]


def prompt_alone(prompt: str, tokenizer: Any, special: bool = True) -> list[int]:
    """The tokens of a prompt whose answer is not known: as before an answer that begins with a letter.

    A tokenizer may take several line breaks for one token at the end of a text, and for several before a word.
    """
    bare = prompt.rstrip(_BLANKS)
    if bare and bare[-1].isspace():
        return meet(bare, [_STAND_IN], tokenizer, special)[0]
    return _ids(bare, tokenizer, special)


def _ids(text: str, tokenizer: Any, special: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    end = [tokenizer.eos_token_id]
    return ids[:-1] if special and ids[-1:] == end and tokenizer("")["input_ids"][-1:] == end else ids


def _cut(context: list[int], whole: list[int], bare: str, text: str, tokenizer: Any) -> int:
    """How many tokens of the whole text are the prompt's: those that end in it."""
    if whole[: len(context)] == context:
        return len(context)
    shared = _shared(context, whole)
    if not tokenizer.is_fast:
        return shared
    # The prompt's end is read otherwise when something follows: which tokens still end in it, the characters tell.
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    begun = max(len(whole) - len(spans), 0)  # tokens that the tokenizer has put before the text
    return max(shared, begun + sum(1 for _ in takewhile(lambda span: span[1] <= len(bare), spans)))


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
