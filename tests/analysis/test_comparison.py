"""Spreads, comparisons and corrections beside scipy and beside slow references."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from gallop_ray.analysis.comparison import Comparison, Side, compare, corrected, holm, standard_errors
from gallop_ray.analysis.spread import bootstrap_interval, spread, widening
from gallop_ray.analysis.statistics import rank_stability
from gallop_ray.analysis.verdict import decide, detectable, seeds_needed

OURS, THEIRS = [0.71, 0.74, 0.69, 0.77, 0.73], [0.70, 0.70, 0.68, 0.72, 0.74]


def pair(ours: Sequence[float], theirs: Sequence[float], **examples: np.ndarray) -> Comparison:
    """Compared as the only pair; `a` and `b` are (seeds, examples) of one task."""
    sides = [
        Side(name, name, dict(enumerate(values)), {s: {"t": row} for s, row in enumerate(examples.get(name, ()))})
        for name, values in (("a", ours), ("b", theirs))
    ]
    found = compare("id_accuracy", *sides)
    assert found is not None
    return corrected([found])[0]


def test_a_spread_is_hand_computed_and_names_the_worst_seed() -> None:
    found = spread("id_accuracy", {3: 0.5, 1: 0.2, 2: None, 4: 0.8})
    assert (found.n, found.worst, found.worst_seed) == (3, 0.2, 1)
    assert (found.mean, found.std) == pytest.approx((0.5, 0.3))
    assert found.standard_error == pytest.approx(0.3 / math.sqrt(3))
    assert spread("forget_ratio", {0: 0.1, 1: 0.4}).worst_seed == 1
    assert spread("density", {0: 0.1, 1: 0.4}).worst is None
    one = spread("id_accuracy", {0: 0.5})
    assert (one.n, one.mean, one.std, one.standard_error, one.low) == (1, 0.5, None, None, None)
    assert spread("id_accuracy", {}).mean is None


@pytest.mark.parametrize("n", [3, 5, 12])
def test_the_interval_is_scipys_percentile_bootstrap_widened(n: int) -> None:
    values = list(np.random.default_rng(n).exponential(size=n))
    low, high = bootstrap_interval(values)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(1))
    mean, wider = np.mean(values), widening(n)
    limits = theirs.confidence_interval
    tolerance = 0.05 * (limits.high - limits.low)
    assert (low - mean) / wider == pytest.approx(limits.low - mean, abs=tolerance)
    assert (high - mean) / wider == pytest.approx(limits.high - mean, abs=tolerance)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values[:2]) == (None, None)


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_of_few_seeds_covers_the_mean_as_often_as_it_says(n: int) -> None:
    draws = np.random.default_rng(0).normal(size=(1500, n))
    limits = [bootstrap_interval(list(draw)) for draw in draws]
    covered = np.mean([low <= 0 <= high for low, high in limits])
    centred = [(low - mean, high - mean, mean) for (low, high), mean in zip(limits, draws.mean(1), strict=True)]
    plain = np.mean([low / widening(n) <= -mean <= high / widening(n) for low, high, mean in centred])
    assert 0.93 <= covered <= 0.975
    assert plain < 0.9


def test_a_comparison_over_seeds_is_scipys_paired_t_test() -> None:
    found, theirs = pair(OURS, THEIRS), stats.ttest_rel(OURS, THEIRS)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    differences = np.subtract(OURS, THEIRS)
    hedges = math.gamma(2) / (math.sqrt(2) * math.gamma(1.5))
    assert found.effect_size == pytest.approx(hedges * differences.mean() / differences.std(ddof=1))
    assert found.smallest_p == 0


def test_only_common_seeds_count_and_one_is_too_few() -> None:
    first = Side("a", "a", {0: 0.1, 1: 0.2, 2: 0.6, 9: 0.9}, {})
    found = compare("id_accuracy", first, Side("b", "b", {1: 0.1, 2: 0.3, 3: 0.0}, {}))
    assert found is not None
    assert (found.seeds, found.difference) == (2, pytest.approx(0.2))
    assert compare("id_accuracy", first, Side("b", "b", {9: 0.1}, {})) is None


def test_differences_that_are_the_same_on_all_seeds() -> None:
    nothing = pair(OURS, OURS)
    assert (nothing.p, nothing.different, nothing.effect_size, nothing.low, nothing.high) == (1, False, None, 0, 0)
    alone = pair([0.6, 0.6], [0.5, 0.5])
    assert (alone.p, alone.different) == (None, False), "nothing says what chance could do"
    right = np.tile(np.arange(100) < 60, (3, 1)).astype(float)
    clear = pair([0.6] * 3, [0.1] * 3, a=right, b=np.tile(np.arange(100) < 10, (3, 1)).astype(float))
    assert (clear.p, clear.different) == (0, True), "the examples say that it is more than chance"
    faint = pair([0.6] * 3, [0.59] * 3, a=right, b=np.tile(np.arange(100) < 59, (3, 1)).astype(float))
    assert (faint.p, faint.different) == (0, False), "one example of a hundred is chance"


def test_the_errors_are_those_of_crossed_seeds_and_examples() -> None:
    """Tables of two tasks with known variance components: the squared error is that of their sums, on average."""
    generator, seeds, examples, trials = np.random.default_rng(0), 5, 40, 1500
    of_seed, of_example, of_both = 0.03, 0.2, 0.3
    sums, errors = [], []
    for _ in range(trials):
        shared = of_seed * generator.normal(size=(seeds, 1))
        tables = {
            task: 0.5
            * (
                shared
                + of_example * generator.normal(size=examples)
                + of_both * generator.normal(size=(seeds, examples))
            )
            for task in ("t", "u")
        }
        differences = sum(table.mean(1) for table in tables.values())
        sums.append(differences.mean())
        errors.append(np.square(standard_errors(differences, tables)))
    by_seeds, by_examples = np.mean(errors, axis=0)
    assert by_seeds + by_examples == pytest.approx(np.var(sums), rel=0.12)
    assert by_examples == pytest.approx(2 * 0.25 * of_example**2 / examples, rel=0.05)


def test_the_same_examples_in_several_rounds_count_once() -> None:
    """Three rounds that answer alike say as much of a task as one of them."""
    generator = np.random.default_rng(0)
    tables = [(generator.random((5, 80)) < share).astype(float) for share in (0.6, 0.5)]
    values = [dict(enumerate(table.mean(1))) for table in tables]

    def compared(names: Sequence[str]) -> Comparison:
        sides = [
            Side(name, name, means, {s: {task: row / len(names) for task in names} for s, row in enumerate(table)})
            for name, means, table in zip("ab", values, tables, strict=True)
        ]
        found = compare("id_accuracy", *sides)
        assert found is not None
        return found

    assert compared(["t"]).example_error > 0
    assert compared(["a/t", "b/t", "c/t"]).example_error == pytest.approx(compared(["t"]).example_error)
    assert compared(["a/t", "b/u"]).example_error < compared(["t"]).example_error, "other tasks, other examples"


def test_an_interval_is_never_narrower_than_the_seeds_own() -> None:
    """Examples that alone would allow much less than such a lucky agreement of the seeds."""
    generator = np.random.default_rng(3)
    tables = [(generator.random((5, 50)) < share).astype(float) for share in (0.6, 0.5)]
    ours, theirs = (table.mean(1) for table in tables)
    found, plain = pair(ours, theirs, a=tables[0], b=tables[1]), stats.ttest_rel(ours, theirs)
    assert found.low <= plain.confidence_interval(0.95).low
    lucky = pair([0.6] * 5, [0.5, 0.5, 0.5, 0.5, 0.5001], a=tables[0], b=tables[1])
    assert lucky.p is not None
    assert lucky.p < 1e-6
    assert lucky.high - lucky.low > 0.1


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_stability_of_ranks_is_the_mean_of_scipys_tau() -> None:
    rankings = [[0.3, 0.2, 0.1], [0.3, 0.1, 0.2], [0.1, 0.2, 0.2]]
    methods = [{seed: ranking[i] for seed, ranking in enumerate(rankings)} | {7: 0.0} for i in range(2)]
    methods.append({seed: ranking[2] for seed, ranking in enumerate(rankings)})
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([stats.kendalltau(rankings[i], rankings[j]).statistic for i, j in pairs])
    assert rank_stability(methods) == pytest.approx(expected)
    assert rank_stability(methods[:1]) is None
    assert rank_stability([{0: 0.1}, {0: 0.2}]) is None
    assert rank_stability([{0: 0.1, 1: 0.1}, {0: 0.1, 1: 0.1}]) is None


def test_that_many_seeds_find_the_difference_four_times_in_five() -> None:
    ours, theirs = [0.52, 0.55, 0.50], [0.50, 0.50, 0.51]
    needed = seeds_needed(pair(ours, theirs))
    assert needed is not None
    differences = np.subtract(ours, theirs)
    mean, std = differences.mean(), differences.std(ddof=1)

    def found(n: int) -> float:
        draws = np.random.default_rng(0).normal(mean, std, size=(20_000, n))
        return float((stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean())

    assert found(needed) > 0.79
    assert found(needed - 1) < 0.81
    assert seeds_needed(pair(OURS, OURS)) is None
    assert seeds_needed(pair([0.5, 0.9, 0.1], [0.4999, 0.1, 0.9])) is None, "beyond a thousand"


def test_verdicts() -> None:
    generator = np.random.default_rng(0)
    apart = pair([0.8, 0.82, 0.81], [0.5, 0.51, 0.49])
    best = decide("id_accuracy", ["a", "b"], [apart])
    assert (best.outcome, best.leader, best.others, best.seeds_needed) == ("best", "a", ("b",), None)
    close = decide("id_accuracy", ["a", "b"], [pair([0.6, 0.601, 0.602, 0.6], [0.601, 0.6, 0.602, 0.599])])
    assert (close.outcome, close.others) == ("tied with", ("b",))
    assert "less than 2 points" in close.text
    values = generator.normal(0.5, 0.05, size=(2, 3))
    open_ = decide("id_accuracy", ["a", "b"], [pair(*values)])
    assert open_.outcome == "not enough seeds"
    assert open_.text.startswith("Not enough seeds")
    two = pair([0.8, 0.81], [0.5, 0.5101])
    assert two.p is not None
    assert two.p < 0.001
    assert decide("id_accuracy", ["a", "b"], [two]).outcome == "not enough seeds", "two seeds decide nothing"
    assert decide("id_accuracy", ["a", "b"], []).outcome == "not enough seeds"


def test_what_a_sweep_would_have_found_is_found_four_times_in_five() -> None:
    observed = pair([0.60, 0.64, 0.57, 0.63, 0.61], [0.59, 0.60, 0.62, 0.58, 0.63])
    difference = detectable(observed)
    assert difference is not None
    spread = observed.seed_error * math.sqrt(observed.seeds)
    draws = np.random.default_rng(0).normal(difference, spread, size=(20_000, observed.seeds))
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)
    assert detectable(pair(OURS, OURS)) is None


def three(*comparisons: Comparison) -> list[Comparison]:
    """Comparisons of a with b, a with c and b with c, by p as they would be with 5 seeds."""
    names = (("a", "b"), ("a", "c"), ("b", "c"))
    named = [
        replace(each, first_method=first, second_method=second)
        for each, (first, second) in zip(comparisons, names, strict=True)
    ]
    return corrected(named)


def test_the_best_is_ahead_of_each_other_without_a_correction_and_else_pairs_are_corrected() -> None:
    """p about 0.03: not different where three pairs are corrected, but a claim about the best of all needs none."""
    faint = pair([0.62, 0.66, 0.61, 0.63, 0.68], [0.59, 0.60, 0.60, 0.58, 0.66])
    none = pair([0.70, 0.60, 0.62, 0.58, 0.63], [0.60, 0.69, 0.61, 0.59, 0.62])
    assert faint.p == pytest.approx(0.022, abs=0.002)
    ahead = three(faint, faint, none)
    assert [each.different for each in ahead] == [False, False, False]
    assert [each.separated for each in ahead] == [True, True, False]
    assert decide("id_accuracy", ["a", "b", "c"], ahead).outcome == "best"
    half = decide("id_accuracy", ["a", "b", "c"], three(faint, none, none))
    assert (half.outcome, half.others) == ("not enough seeds", ("b", "c")), "b, too: in pairs p is corrected"
    assert "a minus c" in half.text, "what stands in the way of being best"
    assert "5 seeds with this spread find a difference of" in half.text


def test_verdicts_on_losses_are_in_nats_and_the_smaller_is_better() -> None:
    apart = replace(pair([1.5, 1.52, 1.51], [1.8, 1.81, 1.79]), metric="id_loss")
    best = decide("id_loss", ["a", "b"], [apart])
    assert best.outcome == "best"
    assert "a minus b: -0.290 nats (95 % interval" in best.text
    assert decide("id_loss", ["b", "a"], [apart]).outcome == "not enough seeds", "the larger loss is not ahead"
