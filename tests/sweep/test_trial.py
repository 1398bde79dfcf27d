"""What a trial writes of its configuration, beside another that took over from it."""

from pathlib import Path

from gallop_ray.sweep.trial import ConfigurationTrial, TrialContext
from tests.sweep.written import Written, small_sweep


def a_trial(written: Written, key: str) -> ConfigurationTrial:
    """A trial as Tune sets one up, without Tune's own part and without slots."""
    trial = ConfigurationTrial.__new__(ConfigurationTrial)
    trial.setup({"key": key}, TrialContext(written.sweep.model_dump_json(), written.folder.path, None, None))
    return trial


def test_a_trial_that_was_taken_for_dead_does_not_reopen_what_another_has_finished(tmp_path: Path) -> None:
    """Its node was lost, but its process lived: it comes back with the first seed when both have run elsewhere."""
    written = Written(small_sweep(tmp_path))
    first = written.begin("random", 1e-4, 0)
    late = a_trial(written, first.configuration)
    written.end(first)
    written.end(written.begin("random", 1e-4, 1))
    configuration = written.folder.configuration(first.configuration)
    assert configuration.status().status == "finished"
    assert late._conclude()
    assert configuration.status().status == "finished"


def test_a_configuration_is_running_until_its_last_seed(tmp_path: Path) -> None:
    written = Written(small_sweep(tmp_path))
    first = written.begin("random", 1e-4, 0)
    written.end(first)
    trial = a_trial(written, first.configuration)
    assert not trial._conclude()
    assert written.folder.configuration(first.configuration).status().status == "running"


def test_a_rule_of_the_users_that_breaks_prunes_nothing_and_is_told(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_rules.py").write_text("def rule(sweep, mine, others):\n    return others['nobody']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    written = Written(small_sweep(tmp_path, pruning={"type": "broken_rules:rule"}))
    first = written.begin("random", 1e-4, 0)
    written.end(first)
    trial = a_trial(written, first.configuration)
    assert not trial._conclude()
    assert trial._warning is not None
    assert "broken_rules:rule raised TypeError" in trial._warning
    assert f"{first.configuration} is not pruned" in trial._warning


def test_a_rival_that_has_failed_stops_nobody(tmp_path: Path) -> None:
    """It led, but can never be chosen."""
    written = Written(small_sweep(tmp_path, pruning={"type": "median", "after_configurations": 1}))
    mine, rival = written.begin("random", 1e-4, 0), written.begin("random", 2e-4, 0)
    written.end(mine, accuracy=0.2)
    written.end(rival, accuracy=0.9)
    assert a_trial(written, mine.configuration)._reason_to_prune()
    failed = written.begin("random", 2e-4, 1)
    failed.finish({"configuration": failed.configuration, "seed": 1, "status": "diverged", "reason": "nan"})
    assert a_trial(written, mine.configuration)._reason_to_prune() is None
