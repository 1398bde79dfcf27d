"""Reading an answer from generated text: the first option key, or the last number."""

import re
from collections.abc import Sequence

from gallop_ray.tasks.examples import Example

SAME_NUMBER = 1e-3
"""Numbers that differ by no more are equal, as in LLM-Adapters (arXiv 2304.01933)."""

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
    longest_first = sorted(keys, key=len, reverse=True)
    found = re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", text)
    return keys.index(found[0]) if found else None


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
