"""Measures of free text, beside what their sources say of the same texts."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gallop_ray.spec.measures import BUILT_IN, measure, reference
from gallop_ray.tasks.examples import Example, free, reasoned
from gallop_ray.tasks.measure_values import values_of


def values(name: str, outputs: list[str], *rights: str | Example) -> list[float]:
    examples = [one if isinstance(one, Example) else free("?", "", one) for one in rights]
    return values_of(measure(reference(name)), outputs, examples)


def test_exact_match_and_contains() -> None:
    outputs = [" Paris\n", "paris", "It is Paris.", ""]
    assert values("exact_match", outputs, *["Paris"] * 4) == [1, 0, 0, 0]
    assert values("contains", outputs, *["Paris"] * 4) == [1, 1, 1, 0]


def test_the_best_of_several_right_answers_counts() -> None:
    both = replace(free("?", "", "a dog"), references=("one cat", "two cats"))
    assert values("exact_match", ["two cats"], both) == [1]
    assert values("f1", ["two big cats"], both) == [pytest.approx(0.8)]
    assert values("rougeL", ["two cats"], both) == [1]


def test_token_f1_is_squads() -> None:
    """Articles, case and punctuation do not count; words that come twice count twice."""
    outputs = ["The cat, the CAT!", "", "a", "dogs"]
    assert values("f1", outputs, "cat cat dog", "", "the", "cats") == [pytest.approx(0.8), 1, 1, 0]


def test_rouge_bleu_and_chrf_are_those_of_their_packages() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu import sentence_bleu, sentence_chrf

    said, right = "on a mat sat the cats quietly", "the cat sat on the mat"
    rouge = RougeScorer(["rouge1", "rougeL"], use_stemmer=True).score(right, said)
    assert values("rouge1", [said], right) == [pytest.approx(rouge["rouge1"].fmeasure)]
    assert values("rougeL", [said], right) == [pytest.approx(rouge["rougeL"].fmeasure)]
    assert 0 < rouge["rougeL"].fmeasure < rouge["rouge1"].fmeasure < 1
    assert values("bleu", [said], right) == [pytest.approx(sentence_bleu(said, [right]).score / 100)]
    assert values("chrf", [said], right) == [pytest.approx(sentence_chrf(said, [right]).score / 100)]
    for name in ("rouge1", "rougeL", "bleu", "chrf"):
        assert values(name, [right, ""], right, right) == [pytest.approx(1.0), 0]


def test_json() -> None:
    right = '{"a": [1, true], "b": null}'
    outputs = [
        ' {"b": null, "a": [1.0, true]} ',
        '```json\n{"a": [1, true], "b": null}\n```',
        '{"a": [1, 1], "b": null}',
    ]
    outputs += ['{"a": 1', "NaN", "so: {}", '{"b": null, "a": [true, 1]}', '{"a": [1, true]}']
    assert values("json_valid", outputs, *[right] * 8) == [1, 1, 1, 0, 0, 0, 1, 1]
    assert values("json_equal", outputs, *[right] * 8) == [1, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"^rows.jsonl:3: the answer 'no json' is no JSON, which measure json_equal"):
        values("json_equal", ["{}"], replace(free("?", "", "no json"), place="rows.jsonl:3"))


def test_numeric_is_the_last_number() -> None:
    assert values("numeric", ["2 + 2 = 4.", "five", "4 or 5"], "it is 4", "5", "4") == [1, 0, 0]
    assert values("generated", ["2 + 2 = 4."], reasoned("?", "", "4", 4.0)) == [1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_measures.py").write_text(
        "import json\n"
        "def half(outputs, examples):\n    return [len(o) / 2 for o in outputs]\n"
        "def row(outputs, examples):\n"
        "    return [o == json.loads(e.row)['wanted'] for o, e in zip(outputs, examples)]\n"
        "def fewer(outputs, examples):\n    return [1]\n"
        "def nan(outputs, examples):\n    return [float('nan')] * len(outputs)\n"
        "def broken(outputs, examples):\n    return examples[99]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_measures", None)


@pytest.mark.usefixtures("own")
def test_a_measure_of_ones_own() -> None:
    wanted = replace(free("?", "", "x"), row=json.dumps({"wanted": "y"}))
    assert values("own_measures:half", ["", "a", "ab"], *"xyz") == [0, 0.5, 1]
    assert values("own_measures.py:row", ["x", "y"], wanted, wanted) == [0, 1]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("half", "gave 1.5; a measure gives a number from 0 to 1"),
        ("nan", "gave nan; a measure gives a number from 0 to 1"),
        ("fewer", "gave 1 numbers for 2 examples"),
        ("broken", "failed: IndexError"),
        ("missing", "has no missing"),
    ],
)
def test_what_no_measure_may_do_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        values(f"own_measures:{name}", ["abc", "ab"], "x", "y")
    assert "\n" not in str(refused.value)


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from gallop_ray.tasks import measure_values

    monkeypatch.setattr(measure_values, "find_spec", lambda name: None)
    for name in ("rouge1", "rougeL", "bleu", "chrf"):
        with pytest.raises(ValueError, match=rf"measure {name} needs a package: pip install 'gallop_ray\[measures\]'"):
            values(name, ["x"], "x")
    assert values("exact_match", ["x"], "x") == [1]


def test_names_of_measures() -> None:
    assert reference("own.py:score") == "own:score"
    for wrong in ("../own.py:score", "/tmp/own.py:score", "folder/own.py:score"):
        with pytest.raises(ValueError, match="must be a file beside the sweep file"):
            reference(wrong)
    with pytest.raises(ValueError, match="did you mean `rougeL`"):
        reference("rougel")
    assert all(each.function or each.by != "generation" or name == "generated" for name, each in BUILT_IN.items())
