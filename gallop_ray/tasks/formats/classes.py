"""Classes of texts: which there are, and which of them a value means, decided once for all rows."""

import unicodedata
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from gallop_ray.spec.tasks import Labels
from gallop_ray.tasks.examples import Example
from gallop_ray.tasks.formats.choice import CONTEXTS, READERS, SAID, Found, first_of, in_place
from gallop_ray.tasks.formats.contract import Format, Maker, Reading, missing, refuse_unused, text_of
from gallop_ray.tasks.formats.templates import rendered
from gallop_ray.tasks.formats.wording import Choice, joint_of, worded
from gallop_ray.tasks.sources.table import Row

_TEXTS = ("text", "sentence", "content", "review", "utterance", "tweet", "headline", "title", "comment", "message")
LABELS = ("label_text", "label", "labels", "category", "class", "intent", "sentiment", "emotion", "topic", "target")
_ASKED = ("question", "premise", "hypothesis", "sentence2", *CONTEXTS)
"""What a label may be about beside the text."""
_MOST_CLASSES = 200
_HIDDEN = -1

ClassReader = Callable[[Any], int | None]
"""The index of the option that a value means; None where it means none."""


def _is_classes(columns: Collection[str], row: Row) -> bool:
    return first_of(_TEXTS, columns) is not None and first_of(LABELS, columns) is not None


def _class_maker(reading: Reading) -> Maker:
    task, options = reading.task, _classes(reading)
    columns = [name for table in reading.tables for name in table.columns]
    labels = first_of(LABELS, columns) or "label"
    names = reading.names(labels)
    if task.options is None and not names:
        read: ClassReader = partial(_by_word, found=Found(options, options))
    else:
        read = class_reader(options, reading.values(labels), task.labels, names)

    def make(row: Row, place: str) -> Example:
        column = first_of(LABELS, row) or "label"
        label = read(_value(row, column, options, place))
        if label is None:
            raise ValueError(f"{place}: {column} {row[column]!r} is not among the options {', '.join(options)}")
        joint = " "
        if task.prompt is not None:
            prompt = asked = rendered(task.prompt, row, place, "prompt")
            joint = joint_of(prompt)
        else:
            text = first_of(_TEXTS, row) or "text"
            refuse_unused(reading, row, [name for name in _ASKED if name != text], text, place)
            asked = text_of(row, text, place)
            prompt = f"{asked}\nLabel:"
        return worded(Choice(prompt, options, label, place, asked, joint), task.formulation)

    return make


def _hidden(value: Any, options: Sequence[str]) -> bool:
    return bool(value == _HIDDEN) and str(_HIDDEN) not in options


def _value(row: Row, column: str, options: Sequence[str], place: str) -> Any:
    value = row.get(column)
    if value in (None, ""):
        raise ValueError(f"{place}: {column} {missing(row, column)}")
    if not isinstance(value, Hashable):
        raise ValueError(f"{place}: {column} is a {type(value).__name__}; a row has one label, so write each alone")
    if _hidden(value, options):
        raise ValueError(
            f"{place}: {column} is -1: hidden; test on a split that has labels (splits: {{test: validation}}), take "
            "the row out, or give `options` with -1"
        )
    return value


def class_reader(
    options: Sequence[str], values: Iterable[Any], labels: Labels | None = None, names: Sequence[str] = ()
) -> ClassReader:
    """How the values of all rows are meant: as the options' own words, or as their numbers from 0.

    names: what a dataset calls the classes that its numbers stand for. Raises ValueError where all values can be meant
    in both ways, and these are not the same.
    """
    found = Found(tuple(options), tuple(options))
    if labels is not None:
        return lambda value: READERS[labels](value, found)
    if names:
        return _by_names(found, names, list(values))
    if not any(in_place(option, found) is not None for option in options):
        return lambda value: _either(value, found)
    shown = [value for value in values if value not in (None, "") and not _hidden(value, options)]
    different = list({str(value): value for value in shown}.values())
    by_word = [_by_word(value, found) for value in different]
    by_place = [in_place(value, found) for value in different]
    if None in by_word:
        mixed = by_place.count(None) > by_word.count(None)
        return lambda value: _by_word(value, found) if mixed else in_place(value, found)
    if None not in by_place:
        _refuse_ambiguous(options, different, by_word, by_place)
    return lambda value: _by_word(value, found)


def _refuse_ambiguous(
    options: Sequence[str], values: Sequence[Any], words: Sequence[int | None], places: Sequence[int | None]
) -> None:
    for value, word, place in zip(values, words, places, strict=True):
        if word is not None and place is not None and word != place:
            raise ValueError(
                f"the label {value!r} means {options[word]!r} {SAID['text']} and {options[place]!r} {SAID['index']}, "
                "and all rows can be read either way; give the task `labels: text` or `labels: index`"
            )


def _by_names(found: Found, names: Sequence[str], values: Sequence[Any]) -> ClassReader:
    """Numbers stand for a dataset's own names, which the options are, maybe in another order; else for their places."""
    places = [value for value in values if isinstance(value, int) and 0 <= value < len(names)]
    own = all(names[place] in found.texts for place in places)

    def read(value: Any) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool):
            named = own and 0 <= value < len(names)
            return found.texts.index(names[value]) if named else in_place(value, found)
        return _either(value, found)

    return read


def _by_word(value: Any, found: Found) -> int | None:
    words = (str(value), str(value).lower()) if isinstance(value, bool) else (str(value),)
    indices = _indices(found.texts)
    return next((indices[word] for each in words if (word := _composed(each)) in indices), None)


@lru_cache(maxsize=64)
def _indices(texts: tuple[str, ...]) -> dict[str, int]:
    return {_composed(text): place for place, text in reversed(list(enumerate(texts)))}


def _either(value: Any, found: Found) -> int | None:
    word = _by_word(value, found)
    return in_place(value, found) if word is None else word


def _classes(reading: Reading) -> tuple[str, ...]:
    """The options of all rows: as the task names them, or the dataset; else all that there are, sorted."""
    if reading.task.options is not None:
        return reading.task.options
    columns = [name for table in reading.tables for name in table.columns]
    column = first_of(LABELS, columns) or "label"
    if names := reading.names(column):
        return names
    read = [value for value in reading.values(column) if isinstance(value, Hashable)]
    values = {_composed(value) for value in read if value not in (None, "", _HIDDEN)}
    if len(values) > _MOST_CLASSES:
        raise ValueError(
            f"{len(values)} different values in {column}, too many for classes; give format: prompt with `columns`, or "
            "`options`"
        )
    return tuple(str(value) for value in sorted(values, key=_in_order))


def _composed(value: Any) -> Any:
    """A letter and its accent as one character, as most texts have them: the same word is one class."""
    return unicodedata.normalize("NFC", value) if isinstance(value, str) else value


def _in_order(value: Any) -> tuple[bool, float, str]:
    """Numbers before texts, by their size."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


CLASSES = Format((*_TEXTS, *LABELS), _is_classes, _class_maker)
