"""Measures of free text: what was generated for each example beside its right answers, a share for each."""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from gallop_ray.tasks.answers import SAME_NUMBER, last_number
from gallop_ray.tasks.examples import Example

Examples = Sequence[Example]
Outputs = Sequence[str]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_FENCE = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)
_NO_JSON = object()


def right_answers(example: Example) -> list[str]:
    """All texts that answer an example."""
    return [example.answer, *example.references]


def _best(outputs: Outputs, examples: Examples, score: Callable[[str, str], float]) -> list[float]:
    """The best score of each output beside one of its right answers."""
    pairs = zip(outputs, examples, strict=True)
    return [max(float(score(output, right)) for right in right_answers(one)) for output, one in pairs]


def exact_match(outputs: Outputs, examples: Examples) -> list[float]:
    """1 where the output is a right answer, but for white space around it."""
    return _best(outputs, examples, lambda output, right: output.strip() == right.strip())


def contains(outputs: Outputs, examples: Examples) -> list[float]:
    """1 where a right answer stands in the output, whatever its case."""
    return _best(outputs, examples, lambda output, right: right.strip().casefold() in output.casefold())


def token_f1(outputs: Outputs, examples: Examples) -> list[float]:
    """The harmonic mean of the shares of common words, as SQuAD has it (arXiv 1606.05250, its evaluation script).

    Words are in lower case, without punctuation and without articles.
    """
    return _best(outputs, examples, _f1)


def _f1(output: str, right: str) -> float:
    said, asked = _words(output), _words(right)
    if not said or not asked:
        return float(said == asked)
    common = sum((Counter(said) & Counter(asked)).values())
    return 2 * common / (len(said) + len(asked))


def _words(text: str) -> list[str]:
    plain = "".join(each for each in text.lower() if each not in string.punctuation)
    return _ARTICLES.sub(" ", plain).split()


def rouge1(outputs: Outputs, examples: Examples) -> list[float]:
    """F of common words (ROUGE-1, by the package rouge-score with stemming)."""
    return _best(outputs, examples, lambda output, right: _rouge("rouge1", right, output))


def rouge_l(outputs: Outputs, examples: Examples) -> list[float]:
    """F of the longest common subsequence of words (ROUGE-L, by the package rouge-score with stemming)."""
    return _best(outputs, examples, lambda output, right: _rouge("rougeL", right, output))


def _rouge(name: str, right: str, output: str) -> float:
    return float(_scorer(name).score(right, output)[name].fmeasure)


@cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # of an optional package, which takes a second

    return RougeScorer([name], use_stemmer=True)


def bleu(outputs: Outputs, examples: Examples) -> list[float]:
    """Sentence BLEU by sacrebleu with its defaults (tokens 13a, exponential smoothing), over 100.

    The order of n-grams ends with the output's length: one of three words is judged by its trigrams.
    """
    from sacrebleu import sentence_bleu

    pairs = zip(outputs, examples, strict=True)
    return [min(1.0, sentence_bleu(output, right_answers(one)).score / 100) for output, one in pairs]


def chrf(outputs: Outputs, examples: Examples) -> list[float]:
    """Sentence chrF by sacrebleu with its defaults (characters up to 6-grams, beta 2), over 100."""
    from sacrebleu import sentence_chrf

    pairs = zip(outputs, examples, strict=True)
    return [min(1.0, sentence_chrf(output, right_answers(one)).score / 100) for output, one in pairs]


def json_valid(outputs: Outputs, examples: Examples) -> list[float]:
    """1 where the whole output is JSON; one Markdown fence may stand around it."""
    return [float(_parsed(output) is not _NO_JSON) for output in outputs]


def json_equal(outputs: Outputs, examples: Examples) -> list[float]:
    """1 where the output is JSON of the same value as a right answer: the order of keys does not count.

    Raises ValueError where a right answer is no JSON.
    """
    rights = [[_right_json(text, one) for text in right_answers(one)] for one in examples]
    said = map(_parsed, outputs)
    return [float(any(_same(mine, right) for right in each)) for mine, each in zip(said, rights, strict=True)]


def _right_json(text: str, example: Example) -> Any:
    found = _parsed(text)
    if found is _NO_JSON:
        place = f"{example.place}: " if example.place else ""
        raise ValueError(f"{place}the answer {text[:80]!r} is no JSON, which measure json_equal needs")
    return found


def _parsed(text: str) -> Any:
    plain = text.strip()
    fenced = _FENCE.fullmatch(plain)
    try:
        return json.loads(fenced[1] if fenced else plain, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NO_JSON


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1, and 1 is 1.0."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def numeric(outputs: Outputs, examples: Examples) -> list[float]:
    """1 where the last number of the output is that of a right answer, within 0.001."""
    return _best(outputs, examples, _same_number)


def _same_number(output: str, right: str) -> float:
    said, asked = last_number(output), last_number(right)
    return float(said is not None and asked is not None and abs(said - asked) <= SAME_NUMBER)
