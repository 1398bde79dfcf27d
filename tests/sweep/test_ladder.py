"""Configurations that climb rungs, with kills at any moment: each ends exactly once, the best get the steps."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from safetensors.numpy import save_file

from gallop_ray.analysis.ranking import best
from gallop_ray.analysis.status import StatusReader
from gallop_ray.analysis.timing import leg_times
from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.search.study import Studies
from gallop_ray.spec.rungs import Rung
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.commands import reopen, retry
from gallop_ray.sweep.ladder import Ladder

STEPS = 90
pytestmark = pytest.mark.slow


def make(tmp: Path, configurations: int = 12, seeds: int = 2, **changes: Any) -> Sweep:
    return Sweep.model_validate(
        {
            "name": "climbing",
            "output": str(tmp),
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max"]},
            "methods": [{"type": "gallop"}, {"type": "vanilla"}],
            "seeds": seeds,
            "search": {"sampler": "random", "space": {"training.learning_rate": {"log": [1e-5, 1e-1]}}},
            "pruning": {"type": "asha"},
            "budget": {"configurations": configurations},
            **changes,
        }
    )


class Worker:
    """What trials and workers write, without training: the loss falls with the learning rate.

    diverges: whether a configuration does so between its last rung of steps and its end; value: what a seed's run is
    worth, by its learning rate.
    """

    def __init__(
        self,
        sweep: Sweep,
        diverges: Callable[[float], bool] = lambda rate: False,
        value: Callable[[float, int], float] = lambda rate, seed: rate + 0.001 * seed,
    ) -> None:
        self.diverges, self.value = diverges, value
        self.sweep, self.folder = sweep, SweepFolder(Path(sweep.output) / sweep.name)
        self.folder.create(sweep.model_dump(mode="json"))
        self.trained: Counter[str] = Counter()

    def train(self, key: str, rung: Rung, dies_at: int | None = None) -> None:
        """Train a configuration up to a rung; dies_at: the step at which its worker is killed, before that."""
        configuration = self.folder.configuration(key)
        if rung.at is not None:
            self._pause(configuration.run(0), rung, dies_at)
            if dies_at is None:
                configuration.write_status("waiting", [])
            return
        for seed in range(rung.seeds):
            run = configuration.run(seed)
            if run.result() is None:
                self._go(run, STEPS, dies_at)
                if dies_at is not None:
                    return
                if self.diverges(self._rate(key)):
                    bad = {"configuration": key, "seed": seed, "status": "diverged", "reason": "nan"}
                    run.finish({**bad, "failure": "diverged"})
                    self.folder.append_result(run)
                    configuration.write_status("diverged", [], None, "nan")
                    return
                value = self.value(self._rate(key), seed)
                said = {"configuration": key, "seed": seed, "status": "finished", "reason": None, "steps": STEPS}
                run.finish({**said, "val_mean_accuracy": value, "id_accuracy": value, "seconds": {"total": 9.0}})
                self.folder.append_result(run)
        over = rung.seeds == len(self.sweep.seeds)
        configuration.write_status("finished" if over else "waiting", list(range(rung.seeds)), self._rate(key))

    def _pause(self, run: RunFolder, rung: Rung, dies_at: int | None) -> None:
        step = rung.step(STEPS)
        assert step is not None
        self._go(run, step, dies_at)
        if dies_at is None:
            loss = 1 - self._rate(run.configuration)
            run.pause({"rung": rung.at, "step": step, "steps": STEPS, "loss": loss, "seconds": {"total": 1.0}})

    def _go(self, run: RunFolder, step: int, dies_at: int | None) -> None:
        before = self._step(run)
        if not run.resume("slot-0"):
            run.start({}, "slot-0")
        last = step if dies_at is None else min(step, max(before, dies_at))
        for each in range(before + 1, last + 1):
            run.event("step", step=each, steps=STEPS, loss=1.0)
        if dies_at is None:
            self.trained[run.configuration] += step - before
            save_file({"step": np.array(step)}, run.checkpoint)

    def _step(self, run: RunFolder) -> int:
        judged = run.rungs().rungs
        return max((each.step for each in judged), default=0)

    def _rate(self, key: str) -> float:
        return float(self.folder.configuration(key).configuration().training["learning_rate"])


def climb(sweep: Sweep, slots: int = 1, kills: int = 0, seed: int = 0, **does: Any) -> Worker:
    """Run a sweep to its end; so many times the driver, and now and then a worker with it, is killed on the way.

    does: what is said of a worker.
    """
    worker, dice = Worker(sweep, **does), random.Random(seed)
    ladder, active = start(sweep, worker, slots), list[str]()
    for _ in range(10_000):
        while len(active) < slots and (key := ladder.take()) is not None:
            active.append(key)
        if not active:
            return worker
        key = active.pop(dice.randrange(len(active)))
        died = kills > 0 and dice.random() < 0.4
        rung = Rung(*ladder.rung(key))
        worker.train(key, rung, dies_at=dice.choice([None, 3, 40]) if died else None)
        if died:  # before the ladder is told, and with everything else that was active
            kills -= 1
            ladder, active = start(sweep, worker, slots), []
        else:
            assert ladder.told(key)
    raise AssertionError("the sweep never ends")


def start(sweep: Sweep, worker: Worker, slots: int) -> Ladder:
    return Ladder(sweep, worker.folder, Studies(sweep, worker.folder), lambda: slots)


def books(worker: Worker) -> dict[str, str]:
    """The end of each configuration, which agrees with its runs, results.jsonl, the study and the status."""
    sweep, folder = worker.sweep, worker.folder
    ends = {each.key: each.status().status for each in folder.configurations()}
    assert set(ends.values()) <= {"finished", "pruned"}
    listed = Counter((line.configuration, line.seed) for line in folder.listed())
    assert set(listed.values()) == {1}, "no run ends twice"
    assert listed.keys() == {(r.configuration, r.seed) for r in folder.results()}
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    storage = optuna.storages.JournalStorage(backend)
    for method in sweep.methods:
        trials = [t for t in optuna.load_study(study_name=method.name, storage=storage).trials if t.user_attrs]
        told = {t.user_attrs["configuration"]: t.state.name for t in trials}
        assert len(told) == len(trials)
        mine = {key: end for key, end in ends.items() if key.startswith(method.name)}
        assert told == {key: "COMPLETE" if end == "finished" else "PRUNED" for key, end in mine.items()}
    for configuration in folder.configurations():
        stopped = [each for each in configuration.results() if each.status == "pruned"]
        assert not stopped or configuration.status().status == "pruned"
        assert not any(run.checkpoint.exists() for run in configuration.runs() if run.result() is None)
        for run in configuration.runs():
            steps = [event.step for event in run.events() if event.event == "step"]
            assert steps == list(range(1, len(steps) + 1)), "each step once, in order"
    status = StatusReader(folder, sweep).look()
    assert (status.state, status.failed, status.waiting, status.half_done) == ("finished", (), (), ())
    assert status.runs.total == status.runs.finished + status.runs.pruned
    return ends


def test_the_best_third_of_each_rung_continues(tmp_path: Path) -> None:
    worker = climb(make(tmp_path, configurations=27))
    ends = books(worker)
    rungs = Counter(len(each.run(0).rungs().rungs) for each in worker.folder.configurations())
    assert rungs[0] == 1, "vanilla trains nothing and runs to its end"
    assert rungs[1] + rungs[2] == 27
    assert 9 <= rungs[2] <= 14, "asynchronous: some are promoted early that are not among the best later"
    finished = [key for key, end in ends.items() if end == "finished" and key.startswith("gallop")]
    rates = {key: worker._rate(key) for key in ends if key.startswith("gallop")}
    assert max(rates, key=rates.__getitem__) in finished
    assert sum(worker.trained.values()) < 0.4 * 27 * 2 * STEPS
    (found,) = [each for each in best(worker.folder.results(), worker.sweep.objective) if each.method == "gallop"]
    assert found.configuration == max(rates, key=rates.__getitem__)
    stopped = [r for r in worker.folder.results() if r.status == "pruned"]
    assert {r.steps for r in stopped} == {10, 30}
    assert all(f"stopped early at step {r.steps}: validation loss" in (r.reason or "") for r in stopped)
    for run in (worker.folder.run(each.configuration, 0) for each in stopped):
        ended = [event for event in run.events() if event.event == "run_ended"]
        assert leg_times(run)[-1].last_event < ended[0].time, "it did not train while it waited for its end"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("slots", [1, 3])
def test_kills_lose_nothing_and_double_nothing(tmp_path: Path, slots: int, seed: int) -> None:
    worker = climb(make(tmp_path, configurations=9), slots, kills=8, seed=seed)
    ends = books(worker)
    assert len(ends) == 10
    assert "finished" in {end for key, end in ends.items() if key.startswith("gallop")}


def test_of_few_configurations_one_finishes(tmp_path: Path) -> None:
    ends = books(climb(make(tmp_path, configurations=2, seeds=1)))
    assert Counter(end for key, end in ends.items() if key.startswith("gallop")) == {"finished": 1, "pruned": 1}


THREE_SEEDS: dict[str, Any] = {"seeds": 3, "methods": [{"type": "gallop"}]}


@pytest.mark.parametrize(("configurations", "continued"), [(27, 9), (12, 4)])
def test_three_get_a_second_seed_and_the_best_of_them_the_third(
    tmp_path: Path, configurations: int, continued: int
) -> None:
    worker = climb(make(tmp_path, configurations, **THREE_SEEDS))
    assert "finished" in books(worker).values()
    assert sum(worker.trained.values()) == configurations * 10 + continued * 20 + 3 * (60 + STEPS) + STEPS
    done = {each.key: len(each.status().seeds_done) for each in worker.folder.configurations()}
    seeds = Counter(done.values())
    assert (seeds[3], seeds[2]) == (1, 2)
    ranked = sorted(done, key=worker._rate, reverse=True)
    assert [done[key] for key in ranked[:3]] == [3, 2, 2]
    reasons = [worker.folder.configuration(key).status().reason for key in ranked[1:3]]
    assert all("of 3, and 1 of them continued" in (each or "") for each in reasons)


@pytest.mark.parametrize(("configurations", "continued"), [(8, 2), (5, 1)])
def test_of_few_the_first_rung_lets_few_go_on(tmp_path: Path, configurations: int, continued: int) -> None:
    worker = climb(make(tmp_path, configurations, **THREE_SEEDS))
    books(worker)
    assert sum(steps > 10 for steps in worker.trained.values()) == continued


def test_one_whose_third_seed_is_bad_is_not_the_best_unopposed(tmp_path: Path) -> None:
    plain = climb(make(tmp_path / "plain", configurations=27, **THREE_SEEDS))
    keys = {each.key for each in plain.folder.configurations()}
    highest, second = sorted(map(plain._rate, keys), reverse=True)[:2]
    sweep = make(tmp_path / "bad", configurations=27, **THREE_SEEDS)
    worker = climb(sweep, value=lambda rate, seed: 0.0 if rate == highest and seed == 2 else rate)
    assert "finished" in books(worker).values()
    done = {worker._rate(each.key): len(each.status().seeds_done) for each in worker.folder.configurations()}
    assert done[highest] == done[second] == 3
    (found,) = best(worker.folder.results(), sweep.objective)
    assert worker._rate(found.configuration) == second


def furthest_first(worker: Worker, ladder: Ladder, stop_before: int = 99) -> list[str]:
    """Run on two slots, that of the most seeds being the quicker; what is active before one goes to so many seeds."""
    active: list[str] = []
    while True:
        while len(active) < 2 and (key := ladder.take()) is not None:
            active.append(key)
        rungs = {key: Rung(*ladder.rung(key)) for key in active}
        active.sort(key=lambda key: (rungs[key].at is None, -rungs[key].seeds))
        if not active or rungs[active[0]].seeds == stop_before:
            return active
        key = active.pop(0)
        worker.train(key, rungs[key])
        assert ladder.told(key)


def overtaken(tmp_path: Path, third: float) -> Worker:
    """With two seeds the first to have them is worse than the second; third: what the second's third seed is worth."""
    pruning = {"type": "asha", "reduction": 2, "rungs": [10]}
    worker, order = Worker(make(tmp_path, 3, **THREE_SEEDS, pruning=pruning)), list[float]()

    def value(rate: float, seed: int) -> float:
        if rate not in order:
            order.append(rate)
        return [0.75, 0.7, 1.0, 1.0, 1.0][seed] if rate == order[0] else [0.75, 0.8, third][seed]

    worker.value = value
    return worker


def test_what_is_stopped_takes_no_place_of_a_best_that_gets_more_seeds(tmp_path: Path) -> None:
    worker = overtaken(tmp_path, third=0.5)
    furthest_first(worker, start(worker.sweep, worker, 2))
    finished = [each for each in worker.folder.configurations() if each.status().status == "finished"]
    assert [len(each.status().seeds_done) for each in finished] == [3]
    reopen(finished[0])
    more = Worker(worker.sweep.model_copy(update={"seeds": tuple(range(5))}), value=worker.value)
    furthest_first(more, start(more.sweep, more, 2))
    books(more)
    assert finished[0].status().status == "finished"
    assert len(finished[0].status().seeds_done) == 5


def test_a_seed_begun_before_a_kill_is_run_to_its_end(tmp_path: Path) -> None:
    worker = overtaken(tmp_path, third=1.0)
    ladder = start(worker.sweep, worker, 2)
    third, other = furthest_first(worker, ladder, stop_before=3)
    for seeds in (1, 2):
        assert ladder.rung(other) == (seeds, None)
        worker.train(other, Rung(seeds))
        assert ladder.told(other)
        assert ladder.take() == other
    worker.train(third, Rung(*ladder.rung(third)), dies_at=40)
    save_file({"step": np.array(40)}, worker.folder.run(third, 2).checkpoint)
    furthest_first(worker, start(worker.sweep, worker, 2))
    assert books(worker)[third] == "finished"


def test_a_lost_first_seed_of_what_has_finished_is_run_again(tmp_path: Path) -> None:
    sweep = make(tmp_path, configurations=12, seeds=3)
    worker = climb(sweep)
    before = books(worker)
    lost = min((key for key, end in before.items() if end != "pruned" and "gallop" in key), key=worker._rate)
    (worker.folder.run(lost, 0).path / "result.json").unlink()  # as a start does where the adapter is damaged
    worker.folder.rebuild_results()
    reopen(worker.folder.configuration(lost))
    ladder = start(sweep, worker, 1)
    while (key := ladder.take()) is not None:
        worker.train(key, Rung(*ladder.rung(key)))
        assert ladder.told(key)
    assert {each.key: each.status().status for each in worker.folder.configurations()} == before


def told(sweep: Sweep, folder: SweepFolder) -> dict[str, dict[int, float]]:
    """What gallop's study knows of each configuration that is not over, by optimizer step."""
    study = Studies(sweep, folder)._studies["gallop"]._study
    return {t.user_attrs["configuration"]: t.intermediate_values for t in study.trials if not t.state.is_finished()}


def test_a_lost_study_knows_again_what_was_measured_at_rungs(tmp_path: Path) -> None:
    sweep = make(tmp_path, configurations=12)
    worker = Worker(sweep)
    ladder = start(sweep, worker, 1)
    for _ in range(6):
        key = ladder.take()
        assert key is not None
        worker.train(key, Rung(*ladder.rung(key)))
        assert ladder.told(key)
    before = told(sweep, worker.folder)
    assert all(before.values())
    (worker.folder.path / "study.journal").unlink()
    start(sweep, worker, 1)
    assert told(sweep, worker.folder) == before


def test_a_lost_study_is_rebuilt_where_rungs_are_no_longer_asked_for(tmp_path: Path) -> None:
    worker = climb(make(tmp_path, configurations=6))
    (worker.folder.path / "study.journal").unlink()
    plain = make(tmp_path, configurations=6, pruning={"type": "none"})
    states = Counter(t.state.name for t in Studies(plain, worker.folder)._studies["gallop"]._study.trials)
    assert (states["PRUNED"] > 0, states["RUNNING"]) == (True, 0)


def test_who_leads_and_diverges_takes_nobody_s_place(tmp_path: Path) -> None:
    calm = climb(make(tmp_path / "calm", configurations=9, seeds=1))
    highest = max(calm._rate(each.key) for each in calm.folder.configurations() if each.method == "gallop")
    sweep = make(tmp_path / "wild", configurations=9, seeds=1)
    worker = climb(sweep, diverges=lambda rate: rate == highest)
    ends = Counter(each.status().status for each in worker.folder.configurations() if each.method == "gallop")
    assert ends["diverged"] == 1
    assert ends["finished"] >= 1
    assert [each.method for each in best(worker.folder.results(), sweep.objective)].count("gallop") == 1


RULES = [{"type": "asha"}, {"type": "race", "rungs": [10]}]


@pytest.mark.parametrize("pruning", RULES, ids=["asha", "race"])
def test_an_end_that_is_not_in_the_status_is_found_in_the_records(tmp_path: Path, pruning: dict[str, Any]) -> None:
    sweep = make(tmp_path, configurations=3, pruning=pruning)
    worker = climb(sweep)
    ended = next(each for each in worker.folder.configurations() if each.status().status == "finished")
    ended.write_status("waiting", [0, 1], 0.5)
    ladder = start(sweep, worker, 1)
    assert ladder.take() is None
    books(worker)
    assert ended.status().status == "finished"


def test_a_retried_configuration_climbs_again(tmp_path: Path) -> None:
    sweep = make(tmp_path, configurations=3, pruning={"type": "race", "rungs": [10]})
    worker = climb(sweep, diverges=lambda rate: True)
    worker.diverges = lambda rate: False
    assert "queued for retry" in retry(str(worker.folder.path), failed=True, names=())
    ladder = start(sweep, worker, 1)
    while (key := ladder.take()) is not None:
        worker.train(key, Rung(*ladder.rung(key)))
        assert ladder.told(key)
    assert {each.status().status for each in worker.folder.configurations()} == {"finished"}


def test_a_sweep_with_more_seeds_climbs_on(tmp_path: Path) -> None:
    race = {"type": "race", "rungs": [10]}
    for configuration in climb(make(tmp_path, configurations=3, seeds=1, pruning=race)).folder.configurations():
        reopen(configuration)
    worker = climb(make(tmp_path, configurations=3, seeds=3, pruning=race))
    assert {len(each.status().seeds_done) for each in worker.folder.configurations()} == {3}


def test_several_in_turn_all_climb_together(tmp_path: Path) -> None:
    sweep = make(tmp_path, configurations=5, pruning={"type": "none"}, resources={"interleave": 3})
    worker = Worker(sweep)
    ladder, order = start(sweep, worker, 1), []
    while (key := ladder.take()) is not None:
        rung = Rung(*ladder.rung(key))
        order.append((key, rung.step(STEPS) or STEPS * rung.seeds))
        worker.train(key, rung)
        assert ladder.told(key)
    assert set(books(worker).values()) == {"finished"}
    trained = [(key, step) for key, step in order if key.startswith("gallop")]
    assert len({key for key, step in trained[:4] if step == 10}) >= 2, "others begin before the first one ends"
    held: list[int] = []
    open_ones: set[str] = set()
    for key, step in order:
        open_ones.add(key)
        held.append(len(open_ones))
        if step == STEPS * 2:
            open_ones.discard(key)
    assert max(held) == 3


def test_tpe_learns_from_what_waits(tmp_path: Path) -> None:
    """A configuration that waits at a rung counts for the sampler by its loss there: smaller is better."""
    space = {"training.learning_rate": {"log": [1e-5, 1e-1]}}
    sweep = make(tmp_path, 40, seeds=1, search={"sampler": "tpe", "space": space})
    worker = climb(sweep)
    books(worker)
    gallop = sorted(worker.folder.path.glob("gallop-*/configuration.json"), key=lambda path: path.stat().st_mtime_ns)
    rates = [worker._rate(path.parent.name) for path in gallop]
    assert len(rates) == 40
    assert np.median(rates[20:]) > 0.01, "by chance 0.001; so it is where what waits says nothing"


def promoted_after(sweep: Sweep) -> int:
    """How many configurations have come to the first rung when the first of them continues."""
    worker = Worker(sweep)
    ladder, come = start(sweep, worker, 1), 0
    while (key := ladder.take()) is not None:
        rung = Rung(*ladder.rung(key))
        if key.startswith("gallop"):
            if rung.step(STEPS) != STEPS // 9:
                return come
            come += 1
        worker.train(key, rung)
        ladder.told(key)
    raise AssertionError("nothing continues")


@pytest.mark.parametrize(
    ("configurations", "seeds", "hours", "expected"),
    [(40, 2, None, 27), (40, 3, None, 27), (40, 1, None, 9), (12, 2, None, 12), (40, 2, 24.0, 3)],
)
def test_the_first_continues_once_one_may_go_all_the_way(
    tmp_path: Path, configurations: int, seeds: int, hours: float | None, expected: int
) -> None:
    budget = {"configurations": configurations, "hours": hours}
    sweep = make(tmp_path, seeds=seeds, methods=[{"type": "gallop"}], budget=budget)
    assert promoted_after(sweep) == expected


def test_waiting_for_enough_costs_fewer_steps_and_finds_the_same(tmp_path: Path) -> None:
    spent: Counter[str] = Counter()
    found: dict[str, list[Any]] = {"at once": [], "enough": []}
    space = {"training.learning_rate": {"log": [1e-5, 1e-1]}}
    for seed, (name, hours) in itertools.product(range(8), (("at once", 24.0), ("enough", None))):
        changes: dict[str, Any] = {"methods": [{"type": "gallop"}], "budget": {"configurations": 40, "hours": hours}}
        changes["search"] = {"sampler": "random", "seed": seed, "space": space}
        worker = climb(make(tmp_path / f"{name}-{seed}", **changes), slots=2)
        spent[name] += sum(worker.trained.values())
        found[name].append(best(worker.folder.results(), worker.sweep.objective)[0].values)
    assert found["enough"] == found["at once"]
    assert spent["enough"] < 0.95 * spent["at once"]
