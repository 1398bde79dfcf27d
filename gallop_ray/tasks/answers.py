"""Reading an answer from generated text: the first option key, or the last number."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gallop_ray.tasks.examples import Example

SAME_NUMBER = 1e-3
"""Numbers that differ by no more are equal, as in LLM-Adapters (arXiv 2304.01933)."""

# Han, kana, Hangul (whose particles follow a word without a space), Thai, Lao, Tibetan, Burmese, Khmer.
_SCRIPTS = (
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    r"\u1100-\u11ff\uac00-\ud7a3\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_INCOMPLETE = "\ufffd"  # how a character is decoded of which bytes are missing
_LETTERS = re.compile(rf"[^\W{_SCRIPTS}]")  # a letter, digit or underscore of a script with spaces between words

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# A sign stands at the start or after what no number can end with: "10-4" is ten and four. A `$` may follow.
_NUMBER = re.compile(rf"(?:(?<![\w)\].])(?P<sign>[-\u2212]))?\$?(?<!\w)(?<!\d\.)(?P<digits>{_DIGITS})")


def read_answer(text: str, example: Example) -> float | None:
    """What `text` answers: the index of an option, or a number where the example has none; None where it says neither.

    Of several keys the first counts, of several numbers the last.
    """
    return last_number(text) if example.number is not None else parse_answer(text, example.keys)


def is_right(read: float | None, example: Example) -> bool:
    """Whether what was read is the right answer."""
    if read is None or example.number is None:
        return read == example.label
    return abs(read - example.number) <= SAME_NUMBER


def parse_answer(text: str, keys: Sequence[str]) -> int | None:
    """The index of the key that appears first in `text` as a whole word; None where there is none."""
    found = next(keys_in(text, keys), None) if keys else None
    return keys.index(found.key) if found else None


def is_decided(text: str, keys: Sequence[str], stop: Sequence[str] = ()) -> bool:
    """Whether `parse_answer` reads the same from `text` whatever follows it, up to one of the stop texts."""
    text = text.rstrip(_INCOMPLETE)
    found = next(keys_in(text, keys), None) if keys else None
    if found is None or found.end == len(text):  # its word may go on
        return False
    begun = [(key, found.start) for key in keys] + [(each, found.end - 1) for each in stop]
    return not any(each.startswith(text[place:]) for each, last in begun for place in range(last + 1))


class Found(NamedTuple):
    """Where a key stands in a text."""

    key: str
    start: int
    end: int


def keys_in(text: str, keys: Sequence[str]) -> Iterator[Found]:
    """Where the keys stand in `text` as whole words, from left to right; of keys that begin alike the longest.

    Scripts without spaces between words have no whole words: there a key may stand anywhere.
    """
    # Searched for as they are: each example has keys of its own, and a pattern of them takes 20 ms to compile.
    longest_first = sorted(dict.fromkeys(keys), key=len, reverse=True)
    position = 0
    while found := _next(text, longest_first, position):
        yield found
        position = found.end


def _next(text: str, keys: Sequence[str], position: int) -> Found | None:
    every = [each for key in keys if (each := _first(text, key, position))]
    return min(every, key=lambda each: each.start, default=None)  # of those that begin there the first, the longest


def _first(text: str, key: str, position: int) -> Found | None:
    start = text.find(key, position)
    while start >= 0:
        end = start + len(key)
        if _ends_a_word(text[start - 1 : start], key[0]) and _ends_a_word(text[end : end + 1], key[-1]):
            return Found(key, start, end)
        start = text.find(key, start + 1)
    return None


def _ends_a_word(beside: str, edge: str) -> bool:
    """Whether a word may end between a key's edge and the character beside it, which is empty at the text's end."""
    return not beside or _UNSPACED.match(edge) is not None or _LETTERS.match(beside) is None


def last_number(text: str) -> float | None:
    """The last number in `text`: with sign, thousands' commas, decimals or `$`, but not within a word ("answer3")."""
    found = list(_NUMBER.finditer(text))
    return _value(found[-1]) if found else None


def as_number(text: str) -> float | None:
    """The number that `text` is, and nothing else; None where it is none."""
    found = _NUMBER.fullmatch(text.strip().removesuffix("."))
    return _value(found) if found else None


def _value(found: re.Match[str]) -> float:
    value = float(found["digits"].replace(",", ""))
    return -value if found["sign"] else value
