"""Reading an answer from generated text: the first option key, or the last number."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from gallop_ray.tasks.examples import Example

SAME_NUMBER = 1e-3
"""Numbers that differ by no more are equal, as in LLM-Adapters (arXiv 2304.01933)."""

# Han, kana, Hangul (whose particles follow a word without a space), Thai, Lao, Tibetan, Burmese, Khmer.
_SCRIPTS = (
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
    r"\u1100-\u11ff\uac00-\ud7a3\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
)
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_LETTER = rf"[^\W{_SCRIPTS}]"  # a letter, digit or underscore of a script with spaces between words

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
    return keys.index(found[0]) if found else None


def keys_in(text: str, keys: Sequence[str]) -> Iterator[re.Match[str]]:
    """Where the keys stand in `text` as whole words, from left to right; of keys that begin alike the longest.

    Scripts without spaces between words have no whole words: there a key may stand anywhere.
    """
    return _keys_pattern(tuple(keys)).finditer(text)


@lru_cache(maxsize=1 << 12)
def _keys_pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(_key_pattern, sorted(keys, key=len, reverse=True))))


def _key_pattern(key: str) -> str:
    before = "" if _UNSPACED.match(key[0]) else rf"(?<!{_LETTER})"
    after = "" if _UNSPACED.match(key[-1]) else rf"(?!{_LETTER})"
    return before + re.escape(key) + after


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
