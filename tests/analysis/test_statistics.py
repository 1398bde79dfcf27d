"""Statistics of sweep folders: which runs they go by, and simulated sweeps whose truth is known."""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gallop_ray.analysis.missing import missing_text
from gallop_ray.analysis.statistics import SweepStatistics, sweep_statistics
from gallop_ray.records.folders import SweepFolder
from gallop_ray.reporting.table import markdown_table
from gallop_ray.spec.metrics import task_weights
from gallop_ray.spec.schema import Sweep
from tests.sweep.written import Written, small_sweep

SEEDS, SWEEPS, EXAMPLES = 5, 200, 100
OF_SEED, OF_METHOD = 0.02, 0.05


class Simulated:
    """A sweep folder that is written again and again; without fsync, of which there would be thousands."""

    def __init__(self, tmp: Path) -> None:
        objective = {"metric": "val_id_accuracy"}
        self.sweep: Sweep = small_sweep(tmp, seeds=SEEDS, objective=objective)
        self.folder = SweepFolder(tmp / "small")
        self.folder.create(self.sweep.model_dump(mode="json"))

    def write(self, method: str, seed: int, right: np.ndarray, key: str = "0", **fields: object) -> None:
        """A finished run that has these examples of the test set right."""
        run = self.folder.run(f"{method}-{key}", seed)
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path.parent / "configuration.json").touch()
        accuracy = float(right.mean())
        identity = {"configuration": run.configuration, "method": method, "seed": seed, "stage": "search"}
        measured = {"id_accuracy": accuracy, "val_id_accuracy": accuracy, "ood_accuracy": None}
        result = {**identity, "status": "finished", "reason": None, **measured, **fields}
        (run.path / "result.json").write_text(json.dumps(result))
        digits = "".join(map(str, right.astype(int)))
        (run.path / "correct.json").write_text(json.dumps({"range": {"test": {"likelihood": digits}}}))

    def statistics(self) -> SweepStatistics:
        return sweep_statistics(self.folder, self.sweep)


@pytest.fixture
def simulated(tmp_path: Path) -> Simulated:
    return Simulated(tmp_path)


def standard_error() -> float:
    """Of the difference of two methods' means, from what `sweeps` draws by."""
    by_seed = 2 * OF_SEED**2 / SEEDS
    by_method = 2 * (2 * OF_METHOD) ** 2 / 12 / EXAMPLES
    by_answer = 2 * 0.24 / EXAMPLES / SEEDS
    return math.sqrt(by_seed + by_method + by_answer)


def outcomes(simulated: Simulated, difference: float, first_seed: int) -> Iterable[tuple[str, str]]:
    """Each simulated sweep's verdict: what a seed does to both methods, what it does to each, examples of different
    difficulty, which suit the one or the other, and answers that fall by chance."""
    for sweep in range(SWEEPS):
        generator = np.random.default_rng(first_seed + sweep)
        common = 0.03 * generator.normal(size=SEEDS)
        difficulty = generator.uniform(0.35, 0.65, EXAMPLES)
        for method, better in (("gallop", difference / 2), ("random", -difference / 2)):
            suits = difficulty + generator.uniform(-OF_METHOD, OF_METHOD, EXAMPLES)
            for seed in range(SEEDS):
                share = suits + better + common[seed] + OF_SEED * generator.normal()
                simulated.write(method, seed, generator.random(EXAMPLES) < share)
        verdict = simulated.statistics().verdict
        assert verdict is not None
        yield verdict.outcome, verdict.leader


@pytest.mark.slow
def test_equal_methods_are_not_called_different(simulated: Simulated) -> None:
    called = [outcome for outcome, _ in outcomes(simulated, 0.0, first_seed=0)]
    assert called.count("best") <= 0.05 * SWEEPS


@pytest.mark.slow
def test_a_difference_of_five_standard_errors_is_found(simulated: Simulated) -> None:
    called = list(outcomes(simulated, 5 * standard_error(), first_seed=10_000))
    assert called.count(("best", "gallop")) >= 0.9 * SWEEPS
    assert ("best", "random") not in called


def right(share: float) -> np.ndarray:
    return np.arange(EXAMPLES) < share * EXAMPLES


def test_a_running_sweep_with_a_failed_run(simulated: Simulated) -> None:
    assert simulated.statistics() == SweepStatistics("id_accuracy", [], (), (), None, None)
    for seed, share in enumerate((0.6, 0.7)):
        simulated.write("gallop", seed, right(share))
    simulated.write("random", 0, right(0.9), status="diverged")
    (simulated.folder.run("lora-0", 0)).path.mkdir(parents=True)
    found = simulated.statistics()
    assert [(each.method, each.seeds) for each in found.configurations] == [("gallop", (0, 1)), ("random", ())]
    assert [each.method for each in found.best] == ["gallop"]
    assert found.best[0].spreads["id_accuracy"].mean == pytest.approx(0.65)
    assert (found.comparisons, found.stability, found.verdict) == ((), None, None)
    simulated.write("random", 1, right(0.1), key="1")
    simulated.sweep = simulated.sweep.model_copy(
        update={"methods": (*simulated.sweep.methods, simulated.sweep.methods[0].model_copy(update={"name": "late"}))}
    )
    verdict = simulated.statistics().verdict
    assert verdict is not None
    assert verdict.text.endswith("Not finished yet: late.")
    assert (verdict.outcome, verdict.leader, verdict.others) == ("not enough seeds", "gallop", ("random",))
    assert "fewer than two seeds in common" in verdict.text


def test_nothing_is_best_by_seeds_that_others_do_not_have(simulated: Simulated) -> None:
    """gallop's mean is higher for two seeds that random did not finish; where both did random is better."""
    for seed, share in enumerate((0.99, 0.98, 0.30, 0.31, 0.32)):
        simulated.write("gallop", seed, right(share))
    for seed, share in ((2, 0.50), (3, 0.52), (4, 0.51)):
        simulated.write("random", seed, right(share))
    verdict = simulated.statistics().verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.leader, verdict.others) == ("not enough seeds", "gallop", ("random",))


def test_methods_that_do_not_differ_have_no_leader(simulated: Simulated) -> None:
    for seed in range(2):
        for method in ("gallop", "random"):
            simulated.write(method, seed, right(0.5))
    verdict = simulated.statistics().verdict
    assert verdict is not None
    assert "gallop and random are not told apart by 2 seeds" in verdict.text
    assert "ahead" not in verdict.text


def test_validation_chooses_and_fresh_seeds_decide(simulated: Simulated) -> None:
    """By the search gallop-1 is better than gallop-0, and than random; on fresh seeds random is better."""
    for seed in range(3):
        simulated.write("gallop", seed, right(0.99), key="0", val_id_accuracy=0.5)
        simulated.write("gallop", seed, right(0.8 + seed / 100), key="1", val_id_accuracy=0.6)
        simulated.write("random", seed, right(0.3 + seed / 50), val_id_accuracy=0.4)
    searched = simulated.statistics()
    assert [each.configuration for each in searched.best] == ["gallop-1", "random-0"]
    assert searched.verdict is not None
    assert (searched.verdict.outcome, searched.verdict.leader) == ("best", "gallop")
    for seed in range(1000, 1003):
        for method, key, share in (("gallop", "1", 0.2), ("random", "0", 0.9)):
            jitter = (seed - 1001) / 100 * (1 if method == "gallop" else -1)
            simulated.write(method, seed, right(share + jitter), key, stage="confirmation")
    confirmed = simulated.statistics()
    assert [(each.configuration, each.stage, each.seeds) for each in confirmed.best] == [
        ("random-0", "confirmation", (1000, 1001, 1002)),
        ("gallop-1", "confirmation", (1000, 1001, 1002)),
    ]
    assert [(each.configuration, each.stage) for each in confirmed.configurations] == [
        ("gallop-0", "search"),
        ("gallop-1", "search"),
        ("random-0", "search"),
        ("gallop-1", "confirmation"),
        ("random-0", "confirmation"),
    ]
    assert {each.seeds for each in confirmed.comparisons} == {3}
    assert confirmed.verdict is not None
    assert (confirmed.verdict.outcome, confirmed.verdict.leader) == ("best", "random")
    assert confirmed.stability == 1


def test_until_each_method_has_a_fresh_seed_the_search_decides(simulated: Simulated) -> None:
    """A confirmation under way, or stopped, hides no method."""
    for seed in range(3):
        simulated.write("gallop", seed, right(0.6 + seed / 100))
        simulated.write("random", seed, right(0.3 + seed / 50))
    simulated.write("gallop", 1000, right(0.1), stage="confirmation")
    found = simulated.statistics()
    assert [(each.method, each.stage, each.seeds) for each in found.best] == [
        ("gallop", "search", (0, 1, 2)),
        ("random", "search", (0, 1, 2)),
    ]
    assert found.verdict is not None
    assert found.verdict.text.endswith("Fresh seeds decide once each method has one; without any yet: random.")
    table = markdown_table(simulated.folder.results(), None, simulated.sweep.objective)
    assert [row.split(" | ")[0] for row in table.splitlines()[2:]] == ["| gallop", "| random"]
    simulated.write("random", 1000, right(0.5), stage="confirmation")
    found = simulated.statistics()
    assert [(each.method, each.stage) for each in found.best] == [
        ("random", "confirmation"),
        ("gallop", "confirmation"),
    ]
    assert found.verdict is not None
    assert "Fresh seeds" not in found.verdict.text


def test_a_method_without_a_result_is_not_said_to_be_unfinished(tmp_path: Path) -> None:
    methods = [{"type": "gallop"}, {"type": "random"}, {"type": "lora"}]
    made = Written(small_sweep(tmp_path, methods=methods, seeds=[0]))
    for method, rate, status in (
        ("gallop", 0.1, "finished"),
        ("gallop", 0.2, "finished"),
        ("random", 1e-4, "finished"),
        ("lora", 1e-4, "diverged"),
    ):
        made.end(made.begin(method, rate, 0), 0.5 if status == "finished" else None, status)
    verdict = sweep_statistics(made.folder, made.sweep).verdict
    assert verdict is not None
    assert verdict.text.endswith("Without a result: lora (diverged).")
    said = missing_text(made.folder, made.sweep, ["gallop"])
    assert said == "Without a result: random (not measured), lora (diverged)."


def test_the_mean_and_the_forget_ratio_are_judged_by_the_same_examples(tmp_path: Path) -> None:
    """Each metric's difference is the weighted sum of the answers' differences."""
    sweep = Simulated(tmp_path)
    sweep.sweep = small_sweep(tmp_path, seeds=3)
    base = {"likelihood": 0.8}
    (sweep.folder.path / "base.json").write_text(json.dumps({t: {"test": base} for t in ("range", "max")}))
    generator = np.random.default_rng(0)
    for method, shares in (("gallop", (0.9, 0.6)), ("random", (0.3, 0.5))):
        for seed in range(3):
            answers = [generator.random(EXAMPLES) < share for share in shares]
            task, other = (float(each.mean()) for each in answers)
            metrics = {"ood_accuracy": other, "forget_ratio": (0.8 - other) / 0.8, "val_mean_accuracy": task}
            sweep.write(method, seed, answers[0], **metrics)
            digits = ["".join(map(str, each.astype(int))) for each in answers]
            tests = {t: {"test": {"likelihood": each}} for t, each in zip(("range", "max"), digits, strict=True)}
            (sweep.folder.run(f"{method}-0", seed).path / "correct.json").write_text(json.dumps(tests))
    found = {each.metric: each for each in sweep.statistics().comparisons}
    assert list(found) == ["mean_accuracy", "id_accuracy", "ood_accuracy", "forget_ratio"]
    task, other = found["id_accuracy"], found["ood_accuracy"]
    assert found["mean_accuracy"].difference == pytest.approx((task.difference + other.difference) / 2)
    assert found["mean_accuracy"].example_error == pytest.approx(
        math.hypot(task.example_error, other.example_error) / 2
    )
    assert found["forget_ratio"].difference == pytest.approx(-other.difference / 0.8)
    assert found["forget_ratio"].seed_error == pytest.approx(other.seed_error / 0.8)
    assert found["forget_ratio"].example_error == pytest.approx(other.example_error / 0.8)


@pytest.mark.parametrize("metric", ["val_answer_loss", "val_margin"])
def test_without_other_tasks_the_examples_weigh_as_the_metric_does(metric: str) -> None:
    assert task_weights(metric, "range", [], None) == {"range": 1.0}
    assert task_weights(metric, "range", ["max"], 0.5) == {"range": 0.5, "max": 0.5}


def test_the_examples_of_answer_loss_are_those_of_the_id_loss_where_that_is_all(tmp_path: Path) -> None:
    sweep = Simulated(tmp_path)
    data, objective = {"root": "generated", "train": "range", "ood": []}, {"metric": "val_answer_loss"}
    sweep.sweep = small_sweep(tmp_path, seeds=3, data=data, objective=objective)
    generator = np.random.default_rng(0)
    for method in ("gallop", "random"):
        hard = generator.exponential(size=EXAMPLES)
        for seed in range(3):
            losses = (hard + 0.1 * generator.exponential(size=EXAMPLES)).tolist()
            mean = float(np.mean(losses))
            sweep.write(method, seed, right(0.5), id_loss=mean, val_answer_loss=mean)
            correct = {"range": {"test": {"likelihood": "10", "loss": losses}}}
            (sweep.folder.run(f"{method}-0", seed).path / "correct.json").write_text(json.dumps(correct))
    found = {each.metric: each for each in sweep.statistics().comparisons}
    assert found["answer_loss"].example_error > 0
    assert found["answer_loss"].example_error == pytest.approx(found["id_loss"].example_error)
