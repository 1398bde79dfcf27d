"""What is wrong with a sweep file: one line per mistake, all of them at once."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Path = tuple[str | int, ...]

_LONGEST = 160  # characters of a field that are shown, and of a word to which another may be close


@dataclass(frozen=True)
class Problem:
    """One mistake: where it stands, in which field, and what to write instead.

    `line` counts from 1; it is None where there is no line, as for a file that is missing or a `--set`, whose own text
    is then `file`. `field` is a dotted path, empty where the mistake is no field's.
    """

    file: str
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return one_line(": ".join(part for part in (place, _cut(self.field), self.message) if part))


class SweepFileError(ValueError):
    """A sweep file that cannot be run. Its text has one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def one_line(text: str) -> str:
    """The text with line breaks and control characters written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cut(field: str) -> str:
    return field if len(field) <= _LONGEST else f"{field[:_LONGEST]}..."


def dotted(path: Path) -> str:
    """A path as users write it: `methods.0.density`."""
    return ".".join(map(str, path))


def did_you_mean(word: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint to append to a message, or nothing where no known word has a similarity (0 to 1) of `cutoff`."""
    text = str(word)
    close = difflib.get_close_matches(text, list(known), n=1, cutoff=cutoff) if len(text) <= _LONGEST else []
    return f"; did you mean `{close[0]}`?" if close else ""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
