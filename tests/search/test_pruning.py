"""When a configuration stops before its last seed."""

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gallop_ray.analysis.paired import p_worse
from gallop_ray.search.pruning import Contestant, reason_at_rung, reason_to_prune, refused_rule
from gallop_ray.search.rungs import AtRung
from gallop_ray.spec.references import references
from gallop_ray.spec.schema import Sweep
from tests.sweep.written import small_sweep

EXAMPLES = 40


def answers(*rates: float, seed: int = 0) -> dict[str, Any]:
    """Validation answers to tasks t0 (trained on), t1, ..., right at these rates."""
    draw = random.Random(seed)
    digits = ["".join("01"[draw.random() < rate] for _ in range(EXAMPLES)) for rate in rates]
    return {f"t{i}": {"validation": {"likelihood": d}} for i, d in enumerate(digits)}


def numbers(correct: Mapping[str, Any], task: str) -> np.ndarray:
    return np.array([int(digit) for digit in correct[task]["validation"]["likelihood"]])


def a_sweep(**pruning: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "race",
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "t0", "ood": ["t1"]},
            "methods": [{"type": "random"}],
            "seeds": 3,
            "pruning": {"after_configurations": 2, **pruning},
        }
    )


def contestant(key: str, values: Sequence[float], correct: Sequence[Mapping[str, Any]] = ()) -> Contestant:
    every = [*correct, *[answers(0.5, 0.5)] * (len(values) - len(correct))]
    return Contestant(key, dict(enumerate(values)), lambda seed: every[seed])


def test_one_task_and_seed_is_scipys_paired_test() -> None:
    mine, other = answers(0.4, 0.5, seed=1), answers(0.6, 0.5, seed=2)
    p = p_worse({0: mine}, {0: other}, "val_id_accuracy", ["t0"])
    expected = stats.ttest_rel(numbers(mine, "t0"), numbers(other, "t0"), alternative="less").pvalue
    assert p == pytest.approx(expected)


def test_seeds_that_disagree_count_as_chance() -> None:
    """Over examples the difference is clear, over the seeds it is not."""
    good, bad = answers(1.0, 1.0), answers(0.0, 0.0)
    mine = {0: bad, 1: good, 2: bad}
    other = {0: good, 1: bad, 2: good}
    p = p_worse(mine, other, "val_mean_accuracy", ["t0"])
    expected = stats.ttest_1samp([-1.0, 1.0, -1.0], 0, alternative="less").pvalue
    assert p == pytest.approx(expected)
    assert p > 0.05


def test_tasks_are_strata_with_welchs_degrees_of_freedom() -> None:
    mine, other = answers(0.3, 0.9, seed=3), answers(0.8, 0.1, seed=4)
    p = p_worse({5: mine}, {5: other}, "val_mean_accuracy", ["t0"])
    # The half-weighted sum of two paired differences is Welch's test of the one against minus the other.
    one, two = (numbers(mine, t) - numbers(other, t) for t in ("t0", "t1"))
    assert p == pytest.approx(stats.ttest_ind(one, -two, equal_var=False, alternative="less").pvalue)
    assert p_worse({5: mine}, {5: other}, "val_ood_accuracy", ["t0"]) > 0.99
    assert p_worse({5: mine}, {5: other}, "val_id_accuracy", ["t0"]) < 0.01


def test_the_same_examples_in_several_rounds_count_once() -> None:
    """Rounds that answer an OOD task alike say no more than one of them."""
    mine, other = answers(0.4, 0.5, seed=1), answers(0.6, 0.5, seed=2)
    alone = p_worse({0: mine}, {0: other}, "val_id_accuracy", ["t0"])
    rounds = ("t1", "t2", "t3")
    of_three = [{f"{t}/{name}": each["t0"] for t in rounds for name in (*rounds, "x")} for each in (mine, other)]
    together = p_worse({0: of_three[0]}, {0: of_three[1]}, "val_ood_accuracy", rounds)
    # Each of t1, t2, t3 in two rounds and x in three, all with the same answers: four columns of one example each.
    assert alone is not None
    assert together is not None
    assert together > stats.norm.sf(-2 * stats.norm.ppf(alone)), "four tasks at most, not nine"


def test_without_a_difference_or_a_common_seed_nothing_is_worse() -> None:
    same = answers(0.5, 0.5)
    assert p_worse({0: same}, {0: same}, "val_mean_accuracy", ["t0"]) == 1.0
    assert p_worse({0: same}, {1: same}, "val_mean_accuracy", ["t0"]) is None
    assert p_worse({0: answers(0.0, 0.0)}, {0: answers(1.0, 1.0)}, "val_mean_accuracy", ["t0"]) == 0.0


def test_equal_configurations_are_called_worse_as_often_as_said() -> None:
    """Two runs that are right by the same coin: the p below 0.05 come no more often than 5 % (and some sampling)."""
    low = 0
    for trial in range(400):
        each = [answers(0.6, 0.4, seed=2 * trial + i) for i in (0, 1)]
        low += p_worse({0: each[0]}, {0: each[1]}, "val_mean_accuracy", ["t0"]) < 0.05
    assert low <= stats.binom.ppf(0.999, 400, 0.05)


def test_a_race_keeps_the_best_third_that_came_as_far() -> None:
    sweep = a_sweep(type="race", significance=1e-9)
    others = [contestant(f"c{i}", [0.1 * i] * (1 + i % 2)) for i in range(8)]  # best are c7 and c6
    assert reason_to_prune(sweep, contestant("x", [0.65]), others) is None, "second of nine, three continue"
    reason = reason_to_prune(sweep, contestant("x", [0.35]), others)
    assert reason == "val_mean_accuracy 0.3500 after 1 seeds is number 5 of 9; 3 continue"
    # After two seeds only those with two seeds are looked at: c1, c3, c5, c7; of five, two go on.
    assert reason_to_prune(sweep, contestant("x", [0.6, 0.6]), others) is None
    assert "number 3 of 5; 2 continue" in str(reason_to_prune(sweep, contestant("x", [0.4, 0.4]), others))


def test_a_race_waits_for_enough_others_unless_the_test_is_clear() -> None:
    sweep, bad, good = a_sweep(type="race"), answers(0.1, 0.1, seed=1), answers(0.9, 0.9, seed=2)
    assert reason_to_prune(sweep, contestant("x", [0.1]), []) is None
    assert reason_to_prune(sweep, contestant("x", [0.1], [good]), [contestant("y", [0.9], [good])]) is None
    reason = reason_to_prune(sweep, contestant("x", [0.1], [bad]), [contestant("y", [0.9], [good])])
    assert str(reason).startswith("worse than y on the same validation examples at 1 seeds (paired t-test, p = ")


def test_the_forget_ratio_is_better_when_smaller() -> None:
    sweep = a_sweep(type="race", significance=1e-9).model_copy(
        update={"objective": a_sweep().objective.model_copy(update={"metric": "val_forget_ratio"})}
    )
    others = [contestant(f"c{i}", [0.1 * i]) for i in range(5)]
    assert reason_to_prune(sweep, contestant("x", [0.05]), others) is None
    assert reason_to_prune(sweep, contestant("x", [0.45]), others)


def test_what_is_as_good_by_the_objective_is_not_stopped_for_its_answers() -> None:
    """No configuration forgets anything: their forget ratio is 0, whatever they have gained."""
    objective = a_sweep().objective.model_copy(update={"metric": "val_forget_ratio"})
    sweep = a_sweep(type="race").model_copy(update={"objective": objective})
    mine, best = (contestant(key, [0.0] * 2, [answers(0.5, rate)] * 2) for key, rate in (("x", 0.6), ("y", 1.0)))
    assert reason_to_prune(sweep, mine, [best]) is None
    worse = contestant("x", [0.4] * 2, [answers(0.5, 0.1)] * 2)
    assert "worse than y" in str(reason_to_prune(sweep, worse, [best]))


def test_the_median_rule_and_no_rule() -> None:
    others = [contestant(f"c{i}", [0.1 * i]) for i in range(5)]
    assert reason_to_prune(a_sweep(type="median"), contestant("x", [0.25]), others) is None
    assert "the median of 5 others is 0.2000" in str(
        reason_to_prune(a_sweep(type="median"), contestant("x", [0.15]), others)
    )
    assert reason_to_prune(a_sweep(type="none"), contestant("x", [0.0]), others) is None
    assert reason_to_prune(a_sweep(type="median", after_seeds=2), contestant("x", [0.0]), others) is None


def test_a_rule_of_ones_own_sees_those_that_came_as_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rules.py").write_text(
        "def half(sweep, mine, others):\n"
        "    best = max(each.first(len(mine.values), sweep.objective) for each in others)\n"
        "    return 'below half of the best' if mine.first(len(mine.values), sweep.objective) < best / 2 else None\n"
        "def number(sweep, mine, others):\n    return 1\n"
        "def broken(sweep, mine, others):\n    return others[99]\n"
        "table = {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    others = [contestant("a", [0.8]), contestant("b", [0.1, 0.9])]
    sweep = a_sweep(type="own_rules:half")
    assert list(refused_rule(sweep)) == []
    assert list(references(sweep)) == ["own_rules:half"]
    assert reason_to_prune(sweep, contestant("x", [0.3]), others) == "below half of the best"
    assert reason_to_prune(sweep, contestant("x", [0.45]), others) is None
    for name, said in (("number", "gave 1"), ("broken", "raised IndexError")):
        with pytest.raises(ValueError, match=f"own_rules:{name} {said}"):
            reason_to_prune(a_sweep(type=f"own_rules:{name}"), contestant("x", [0.3]), others)
    for name, said in (("table", "is not a function"), ("nothing", "has no nothing")):
        ((path, message),) = refused_rule(a_sweep(type=f"own_rules:{name}"))
        assert path == ("pruning", "type")
        assert said in message
    sys.modules.pop("own_rules")
    with pytest.raises(ValueError, match="did you mean `median`"):
        a_sweep(type="medain")


def test_numbers_are_raced_as_right_answers_are() -> None:
    """What is measured of each example may be any number; the first way of a split is what counts."""

    def scored(seed: int, shift: float) -> dict[str, Any]:
        draw = random.Random(seed)
        values = [shift + 0.1 * draw.random() for _ in range(EXAMPLES)]
        return {"t0": {"validation": {"f1": values, "exact_match": "0" * EXAMPLES}}}

    mine, other = scored(1, 0.5), scored(2, 0.52)
    p = p_worse({0: mine}, {0: other}, "val_id_accuracy", ["t0"])
    f1 = [each["t0"]["validation"]["f1"] for each in (mine, other)]
    assert p == pytest.approx(stats.ttest_rel(*f1, alternative="less").pvalue)


@pytest.mark.parametrize("kind", ["median", "race"])
def test_taking_turns_on_a_slot_stops_nothing(tmp_path: Path, kind: str) -> None:
    good, worse = [0.1] * 64, [5 + 0.01 * n for n in range(64)]
    others = [AtRung(f"gallop-{n}", 10, 0.1, {"range": good, "max": good}) for n in range(8)]
    bad = AtRung("gallop-9", 10, 5.3, {"range": worse, "max": worse})
    for changes, stops in (
        ({"resources": {"interleave": 4}}, False),
        ({"pruning": {"type": kind, "rungs": [10]}}, True),
    ):
        sweep = small_sweep(tmp_path, **{"pruning": {"type": kind}, **changes})
        assert (reason_at_rung(sweep, "gallop", bad, others) is not None) == stops
