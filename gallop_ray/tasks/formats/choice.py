"""Multiple choice as the hub has it: a question, its choices and which is right. And classes of texts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gallop_ray.spec.tasks import Labels
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, missing, text_of
from gallop_ray.tasks.formats.lists import as_list, parsed
from gallop_ray.tasks.formats.templates import rendered
from gallop_ray.tasks.formats.wording import LETTERS, Choice, question_prompt, worded
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
_CONTEXTS = ("context", "passage", "support", "article")
_TEXTS = ("text", "sentence", "content", "review", "utterance", "tweet", "headline", "title", "comment", "message")
_CLASSES = ("label_text", "label", "labels", "category", "class", "intent", "sentiment", "emotion", "topic", "target")
_MOST_CLASSES = 200


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
    return bool(asked and label) and (bool(_separate(columns)) or (listed is not None and _listed(row[listed]) != ()))


@dataclass(frozen=True)
class _Found:
    """Choices of a row, and what they are called there, where a row says it."""

    texts: tuple[str, ...]
    names: tuple[str, ...] = ()


def _listed(value: Any) -> "_Found | tuple[()]":
    """A list of texts; or texts and labels, as ARC has them; or a mapping of labels to texts."""
    value = parsed(value)
    if isinstance(value, Mapping):
        texts, names = as_list(value.get("text")), as_list(value.get("label"))
        if texts is not None:
            return _Found(tuple(map(str, texts)), tuple(map(str, names or ())))
        return _Found(tuple(map(str, value.values())), tuple(map(str, value)))
    items = as_list(value)
    if items is None:
        return ()
    if items and all(isinstance(each, Mapping) and "text" in each for each in items):
        return _Found(tuple(str(each["text"]) for each in items), tuple(str(each.get("label", "")) for each in items))
    return _Found(tuple(map(str, items)))


def _found(row: Row, place: str) -> _Found:
    if separate := _separate(row):
        kept = [name for name in separate if row[name] not in (None, "")]
        return _Found(tuple(str(row[name]) for name in kept), tuple(kept))
    column = first_of(_CHOICES, row)
    found = _listed(row[column]) if column else ()
    if not found:
        have = f"{column} is {row[column]!r:.60}, no list" if column else f"choices {missing(row, 'choices')}"
        raise ValueError(f"{place}: {have}; give a list of the answers' texts")
    return found


def _label(row: Row, place: str) -> Any:
    column = first_of(_LABELS, row)
    if column is None or row[column] in (None, ""):
        raise ValueError(f"{place}: {column or 'label'} {missing(row, column or 'label')}")
    return row[column]


Reader = Callable[[Any, _Found], int | None]
"""The index of the choice that a label means; None where it means none."""


def _by_name(value: Any, found: _Found) -> int | None:
    return found.names.index(str(value)) if str(value) in found.names else None


def _by_letter(value: Any, found: _Found) -> int | None:
    letter = str(value).strip().strip("().").upper() if isinstance(value, str) else ""
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(found.texts) else None


def _by_text(value: Any, found: _Found) -> int | None:
    texts = [text.strip() for text in found.texts]
    return texts.index(value.strip()) if isinstance(value, str) and value.strip() in texts else None


def _by_place(first: int) -> Reader:
    def read(value: Any, found: _Found) -> int | None:
        text = str(value).strip().removesuffix(".0")
        place = int(text) - first if text.isascii() and text.isdigit() and not isinstance(value, bool) else -1
        return place if 0 <= place < len(found.texts) else None

    return read


_READERS: Mapping[Labels, Reader] = {
    "name": _by_name,
    "letter": _by_letter,
    "text": _by_text,
    "index": _by_place(0),
    "number": _by_place(1),
}
_SAID: Mapping[Labels, str] = {
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
    found: _Found

    def read(self, way: Labels) -> int | None:
        return _READERS[way](self.value, self.found)


def _reader(reading: Reading) -> Reader:
    """How the labels of a task are meant: as it says, else the way in which all rows have one, else most of them.

    Raises ValueError where all rows have one in two ways that are not the same.
    """
    if reading.task.labels is not None:
        return _READERS[reading.task.labels]
    placed = [each for table in reading.tables for each in table.rows][:_KEPT]
    rows = []
    for place, row in placed:
        try:
            rows.append(_Labelled(place, _label(row, ""), _found(row, "")))
        except ValueError:
            continue  # is told of when its example is made
    if names := next(filter(None, (reading.names(each) for each in _LABELS)), ()):
        return lambda value, found: _by_place(0)(value, found) if value != -1 and names else None
    fit = {way: sum(row.read(way) is not None for row in rows) for way in _READERS}
    way = max(_READERS, key=lambda each: fit[each])
    # A row's own names are what its label is about; and numbers begin at 0 where they can, as on the hub.
    others = [each for each in _READERS if each != way and way != "name" and fit[each] == len(rows)]
    if "index" in (way, *others):
        others = [each for each in others if each != "number"]
    _refuse_ambiguous(rows, way, others)
    return _READERS[way]


def _refuse_ambiguous(rows: Sequence[_Labelled], way: Labels, others: Sequence[Labels]) -> None:
    """`others`: further ways in which all rows have a label."""
    for other in others:
        for row in rows:
            mine, theirs = row.read(way), row.read(other)
            if mine is not None and theirs is not None and mine != theirs:
                texts = row.found.texts
                raise ValueError(
                    f"{row.place}: label {row.value!r} means {texts[mine]!r} {_SAID[way]} and {texts[theirs]!r} "
                    f"{_SAID[other]}, and all rows can be read either way; give the task `labels: {way}` or "
                    f"`labels: {other}`"
                )


def _choice_maker(reading: Reading) -> Maker:
    read, task = _reader(reading), reading.task

    def make(row: Row, place: str) -> Example:
        found, value = _found(row, place), _label(row, place)
        label = read(value, found)
        if label is None:
            raise ValueError(
                f"{place}: label {value!r} is none of the answers {list(found.texts)}; write an index from 0, a letter "
                "or the text of one, all rows alike"
            )
        prompt, asked = _asked(row, place, reading)
        return worded(Choice(prompt, found.texts, label, place, asked), task.formulation)

    return make


def _asked(row: Row, place: str, reading: Reading) -> tuple[str, str]:
    """The prompt up to the answer, and the question that answers are listed under."""
    if reading.task.prompt is not None:
        text = rendered(reading.task.prompt, row, place, "prompt")
        return text, text
    question = text_of(row, first_of(_QUESTIONS, row) or "question", place)
    context = text_of(row, first_of(_CONTEXTS, row) or "context", place, optional=True)
    if "endings" in row or "ending0" in row:
        return question, question
    return question_prompt(question, context), f"{context}\n{question}" if context else question


CHOICE = Format(("question", "choices", "label", "context"), _is_choice, _choice_maker)


def _is_classes(columns: Collection[str], row: Row) -> bool:
    return first_of(_TEXTS, columns) is not None and first_of(_CLASSES, columns) is not None


def _class_maker(reading: Reading) -> Maker:
    task, options = reading.task, _classes(reading)

    def make(row: Row, place: str) -> Example:
        column = first_of(_CLASSES, row) or "label"
        if column not in row or row[column] in (None, "", -1):
            raise ValueError(f"{place}: {column} {missing(row, column) if row.get(column) != -1 else 'is -1: hidden'}")
        label = class_index(row[column], options)
        if label is None:
            raise ValueError(f"{place}: {column} {row[column]!r} is not among the options {', '.join(options)}")
        if task.prompt is not None:
            prompt = asked = rendered(task.prompt, row, place, "prompt")
        else:
            asked = text_of(row, first_of(_TEXTS, row) or "text", place)
            prompt = f"{asked}\nLabel:"
        return worded(Choice(prompt, options, label, place, asked), task.formulation)

    return make


def class_index(value: Any, options: Sequence[str]) -> int | None:
    """Which of the options a value is: the one that is written like it, else the one of its number."""
    written = (str(value), str(value).lower()) if isinstance(value, bool) else (str(value),)
    named = next((options.index(text) for text in written if text in options), None)
    return _by_place(0)(value, _Found(tuple(options))) if named is None else named


def _classes(reading: Reading) -> tuple[str, ...]:
    """The options of all rows: as the task names them, or the dataset; else all that there are, sorted."""
    if reading.task.options is not None:
        return reading.task.options
    columns = [name for table in reading.tables for name in table.columns]
    column = first_of(_CLASSES, columns) or "label"
    if names := reading.names(column):
        return names
    values = {value for value in reading.values(column) if value not in (None, "", -1)}
    if len(values) > _MOST_CLASSES:
        raise ValueError(
            f"{len(values)} different values in {column}, too many for classes; give format: prompt with `columns`, or "
            "`options`"
        )
    return tuple(str(value) for value in sorted(values, key=_in_order))


def _in_order(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts, by their size."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


CLASSES = Format(("text", "label"), _is_classes, _class_maker)
