"""Examples that are nearly the same."""

import pytest

from gallop_ray.tasks.duplicates import near_duplicates
from gallop_ray.tasks.examples import free, shuffled

WORDS = ["river", "stone", "lamp", "cloud", "engine", "paper", "harbour", "violin", "copper", "garden", "winter"]
WORDS += ["signal", "bread", "mirror", "forest"]


def text(i, words=30):
    return " ".join((shuffled(WORDS, f"{i}") + shuffled(WORDS, f"{i} more"))[:words])


def test_one_other_word_is_found_and_the_same_text_is_not():
    known = [free(text(i), "", "x") for i in range(300)]
    changed = [free(f"{text(i)} indeed", "", "x", f"test:{i}") for i in range(5)]
    others = [free(text(i), "", "x") for i in (*range(1000, 1100), 7, 8)]
    near = near_duplicates([*changed, *others], known)
    assert (near.count, near.looked_at, near.against) == (5, 107, 300)
    assert (near.first[0].place, near.first[1].instruction) == ("test:0", text(0))
    assert near_duplicates(others, known) is None


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ("What is a café?", "WHAT is a Café?"),
        ("What is a caf\u00e9?", "What is a cafe\u0301?"),
        ("\uff21\uff22\uff23 \uff11\uff12", "abc 12"),
        ("Straße 5", "STRASSE 5"),
    ],
)
def test_the_same_in_another_case_or_normal_form_is_found(known, asked):
    near = near_duplicates([free(asked, "", "x"), free("else?", "", "x")], [free(known, "", "x")])
    assert (near.count, near.first[1].instruction) == (1, known)


def test_the_same_text_is_left_to_those_who_count_it():
    same = [free("What is a café?", "", "x")]
    assert near_duplicates(same, [free("WHAT IS A CAFÉ?", "", "x"), *same]) is None


def test_texts_of_few_words_are_alike_by_chance():
    known = [free(f"max {i} 7 2 9", "", "x") for i in range(10)]
    assert near_duplicates([free("max 1 7 2 8", "", "x")], known) is None
