"""Multiple choice as the hub has it: a question, its choices and which is right."""

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gallop_ray.spec.tasks import Labels
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, missing, refuse_unused, text_of
from gallop_ray.tasks.formats.lists import as_list, parsed
from gallop_ray.tasks.formats.templates import rendered
from gallop_ray.tasks.formats.wording import LETTERS, Choice, joint_of, question_prompt, worded
from gallop_ray.tasks.sources.table import Row

_QUESTIONS = ("question", "question_stem", "query", "stem", "goal", "ctx", "prompt", "sentence")
_CHOICES = ("choices", "options", "endings", "candidates", "answers")
_SEPARATE = (
    ("A", "B", "C", "D", "E"),
    ("a", "b", "c", "d", "e"),
    ("answerA", "answerB", "answerC", "answerD"),
    ("option1", "option2", "option3", "option4", "option5"),
    ("option_a", "option_b", "option_c", "option_d"),
    ("choice1", "choice2", "choice3", "choice4"),
    ("sol1", "sol2", "sol3"),
    ("ending0", "ending1", "ending2", "ending3"),
)
_LABELS = (
    *("label", "answer", "answerKey", "answer_key", "answer_idx", "answer_index", "answer_id", "correct"),
    *("correct_answer", "gold", "target", "solution"),
)
CONTEXTS = ("context", "passage", "support", "article")


def first_of(known: Sequence[str], columns: Collection[str]) -> str | None:
    """The first of the known names that there is."""
    return next((name for name in known if name in columns), None)


def _separate(columns: Collection[str]) -> tuple[str, ...]:
    """The columns that hold a choice each; empty where there are not two."""
    found = [tuple(name for name in names if name in columns) for names in _SEPARATE]
    return next((names for names in found if len(names) > 1), ())


def _is_choice(columns: Collection[str], row: Row) -> bool:
    asked, label = first_of(_QUESTIONS, columns), first_of(_LABELS, columns)
    listed = first_of(_CHOICES, columns)
    if (listed, label) == ("answers", "answer") and not _separate(columns):
        return False  # other right answers, as TriviaQA has them
    return bool(asked and label) and (bool(_separate(columns)) or (listed is not None and _listed(row[listed]) != ()))


@dataclass(frozen=True)
class Found:
    """Choices of a row, and what they are called there, where a row says it."""

    texts: tuple[str, ...]
    names: tuple[str, ...] = ()


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Choices as texts; one that is missing is empty."""
    return tuple("" if value is None else str(value) for value in values)


def _listed(value: Any) -> "Found | tuple[()]":
    """A list of texts; or texts and labels, as ARC has them; or a mapping of labels to texts."""
    value = parsed(value)
    if isinstance(value, Mapping):
        texts, names = as_list(value.get("text")), as_list(value.get("label"))
        if texts is not None:
            return Found(_texts(texts), _texts(names or ()))
        return Found(_texts(value.values()), _texts(value))
    items = as_list(value)
    if items is None:
        return ()
    if items and all(isinstance(each, Mapping) and ("text" in each or "label" in each) for each in items):
        return Found(_texts(each.get("text") for each in items), _texts(each.get("label") for each in items))
    return Found(_texts(items))


def _found(row: Row, place: str) -> Found:
    if separate := _separate(row):
        return _in_columns(row, separate, place)
    column = first_of(_CHOICES, row)
    found = _listed(row[column]) if column else ()
    if not found:
        have = f"{column} is {row[column]!r:.60}, no list" if column else f"choices {missing(row, 'choices')}"
        raise ValueError(f"{place}: {have}; give a list of the answers' texts")
    return _without_last_blanks(found)


def _in_columns(row: Row, filled: Sequence[str], place: str) -> Found:
    """The choices of columns of their own; the last ones may be blank, for rows need not have equally many.

    Raises ValueError for a blank before others: letters and numbers count all columns.
    """
    names = next(names for names in _SEPARATE if filled[0] in names and filled[1] in names)
    found = _without_last_blanks(Found(_texts(row.get(name) for name in names), names))
    blank = next((name for name, text in zip(names, found.texts, strict=False) if not text.strip()), None)
    if blank is not None:
        raise ValueError(
            f"{place}: {blank} is blank, and {found.names[-1]} is not; write its text, or take the row out"
        )
    return found


def _without_last_blanks(found: Found) -> Found:
    count = max((place for place, text in enumerate(found.texts, 1) if text.strip()), default=0)
    return Found(found.texts[:count], found.names[:count])


def _label(row: Row, place: str) -> Any:
    column = first_of(_LABELS, row)
    if column is None or row[column] in (None, ""):
        raise ValueError(f"{place}: {column or 'label'} {missing(row, column or 'label')}")
    return row[column]


Reader = Callable[[Any, Found], int | None]
"""The index of the choice that a label means; None where it means none."""


def _by_name(value: Any, found: Found) -> int | None:
    return found.names.index(str(value)) if str(value) in found.names else None


def _by_letter(value: Any, found: Found) -> int | None:
    letter = str(value).strip().strip("().").upper() if isinstance(value, str) else ""
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(found.texts) else None


def _by_text(value: Any, found: Found) -> int | None:
    texts = [_compared(text) for text in found.texts]
    text = _compared(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    return texts.index(text) if text in texts else None


def _compared(text: str) -> str:
    """A text without blanks around it, a letter and its accent as one character."""
    return unicodedata.normalize("NFC", text.strip())


def _by_place(first: int) -> Reader:
    def read(value: Any, found: Found) -> int | None:
        text = str(value).strip().removesuffix(".0")
        place = int(text) - first if text.isascii() and text.isdigit() and not isinstance(value, bool) else -1
        return place if 0 <= place < len(found.texts) else None

    return read


in_place = _by_place(0)
READERS: Mapping[Labels, Reader] = {
    "name": _by_name,
    "letter": _by_letter,
    "text": _by_text,
    "index": in_place,
    "number": _by_place(1),
}
SAID: Mapping[Labels, str] = {
    "name": "as a choice's own name",
    "letter": "as a letter",
    "text": "as an answer's text",
    "index": "as an index from 0",
    "number": "as a number from 1",
}
_KEPT = 5000  # rows that decide how labels are meant


@dataclass(frozen=True)
class _Labelled:
    """A row's label and choices, and where the row stands."""

    place: str
    value: Any
    found: Found

    def read(self, way: Labels) -> int | None:
        return READERS[way](self.value, self.found)


def _reader(reading: Reading) -> Reader:
    """How the labels of a task are meant: as it says, else the way in which all rows have one, else most of them.

    Raises ValueError where all rows have one in two ways that are not the same.
    """
    if reading.task.labels is not None:
        return READERS[reading.task.labels]
    placed = [each for table in reading.tables for each in table.rows][:_KEPT]
    rows = []
    for place, row in placed:
        try:
            rows.append(_Labelled(place, _label(row, ""), _found(row, "")))
        except ValueError:
            continue  # is told of when its example is made
    if names := next(filter(None, (reading.names(each) for each in _LABELS)), ()):
        return lambda value, found: in_place(value, found) if value != -1 and names else None
    fit = {way: sum(row.read(way) is not None for row in rows) for way in READERS}
    way = max(READERS, key=lambda each: fit[each])
    # A row's own names are what its label is about; and numbers begin at 0 where they can, as on the hub.
    others = [each for each in READERS if each != way and way != "name" and fit[each] == len(rows)]
    if "index" in (way, *others):
        others = [each for each in others if each != "number"]
    _refuse_ambiguous(rows, way, others)
    return READERS[way]


def _refuse_ambiguous(rows: Sequence[_Labelled], way: Labels, others: Sequence[Labels]) -> None:
    """`others`: further ways in which all rows have a label."""
    for other in others:
        for row in rows:
            mine, theirs = row.read(way), row.read(other)
            if mine is not None and theirs is not None and mine != theirs:
                texts = row.found.texts
                raise ValueError(
                    f"{row.place}: label {row.value!r} means {texts[mine]!r} {SAID[way]} and {texts[theirs]!r} "
                    f"{SAID[other]}, and all rows can be read either way; give the task `labels: {way}` or "
                    f"`labels: {other}`"
                )


def _choice_maker(reading: Reading) -> Maker:
    read, task = _reader(reading), reading.task

    def make(row: Row, place: str) -> Example:
        found, value = _found(row, place), _label(row, place)
        label = read(value, found)
        if value == -1:
            raise ValueError(
                f"{place}: label is -1: hidden; test on a split that has labels (splits: {{test: validation}}), or "
                "take the row out"
            )
        if label is None:
            raise ValueError(
                f"{place}: label {value!r} is none of the answers {list(found.texts)}; write an index from 0, a letter "
                "or the text of one, all rows alike"
            )
        prompt, asked = _asked(row, place, reading)
        joint = " " if task.prompt is None else joint_of(prompt)
        return worded(Choice(prompt, found.texts, label, place, asked, joint), task.formulation)

    return make


def _asked(row: Row, place: str, reading: Reading) -> tuple[str, str]:
    """The prompt up to the answer, and the question that answers are listed under."""
    if reading.task.prompt is not None:
        text = rendered(reading.task.prompt, row, place, "prompt")
        return text, text
    column = first_of(_QUESTIONS, row) or "question"
    refuse_unused(reading, row, ("premise",), column, place)
    question = text_of(row, column, place)
    context = text_of(row, first_of(CONTEXTS, row) or "context", place, optional=True)
    if "endings" in row or "ending0" in row:
        return question, question
    return question_prompt(question, context), f"{context}\n{question}" if context else question


_COLUMNS = (*_QUESTIONS, *_CHOICES, *_LABELS, *CONTEXTS, *(name for names in _SEPARATE for name in names))
CHOICE = Format(_COLUMNS, _is_choice, _choice_maker)
