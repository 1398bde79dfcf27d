"""Examples of different splits that are nearly the same, found by MinHash (datasketch)."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from gallop_ray.tasks.examples import Example, shuffled

SIMILAR = 0.8
"""The share of word sequences in common (Jaccard) from which two texts are nearly the same."""
MOST = (20_000, 2_000)
"""How many training examples, and how many others, are looked at; of more a sample."""
_WORDS = 3
_FEWEST = 8  # words, below which texts are alike by chance
_PERMUTATIONS = 64


@dataclass(frozen=True)
class Near:
    """How many of the `looked_at` examples nearly are one of `against`, and the first two that are alike."""

    count: int
    looked_at: int
    against: int
    first: tuple[Example, Example]


def near_duplicates(examples: Sequence[Example], known: Sequence[Example]) -> Near | None:
    """The examples whose question is nearly, but not exactly, one of the known ones; None where there are none.

    Those are near that share most of their words, or that differ in case, width and Unicode's normal form alone.
    """
    from datasketch import MinHash, MinHashLSH  # imported here: it brings SciPy, which only this needs

    asked, there = _sample(examples, MOST[1]), _sample(known, MOST[0])
    index = MinHashLSH(threshold=SIMILAR, num_perm=_PERMUTATIONS)
    texts = [_plain(one) for one in there]
    pieces, same = list(map(_pieces, texts)), dict(zip(reversed(texts), reversed(there), strict=True))

    empty = MinHash(num_perm=_PERMUTATIONS)  # drawing the permutations takes longer than using them

    def sketch(words: frozenset[bytes]) -> MinHash:
        found = empty.copy()
        found.update_batch(list(words))
        return found

    for place, words in enumerate(pieces):
        if words:
            index.insert(place, sketch(words))
    found, exactly = [], {one.question for one in there}
    for one in asked:
        if one.question in exactly:
            continue
        text = _plain(one)
        words = _pieces(text)
        likely = index.query(sketch(words)) if words and text not in same else []
        alike = [there[place] for place in sorted(likely) if _shared(words, pieces[place]) >= SIMILAR]
        alike = [same[text]] if text in same else alike
        if alike:
            found.append((one, alike[0]))
    return Near(len(found), len(asked), len(there), found[0]) if found else None


def _sample(examples: Sequence[Example], most: int) -> Sequence[Example]:
    return examples if len(examples) <= most else shuffled(examples, "duplicates")[:most]


def _plain(one: Example) -> str:
    """A question as it reads: without regard to case, width and how accents are encoded."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", " ".join(one.question)).casefold())


def _pieces(text: str) -> frozenset[bytes]:
    """The sequences of words in a question; none for one of few words."""
    words = text.split()
    if len(words) < _FEWEST:
        return frozenset()
    return frozenset(" ".join(words[i : i + _WORDS]).encode() for i in range(len(words) - _WORDS + 1))


def _shared(one: frozenset[bytes], other: frozenset[bytes]) -> float:
    return len(one & other) / len(one | other)
