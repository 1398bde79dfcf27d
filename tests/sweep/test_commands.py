"""Pausing, stopping, retrying and extending, as far as they need no Ray."""

import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import optuna
import pytest

from gallop_ray.cli import main
from gallop_ray.errors import UserError
from gallop_ray.records import control
from gallop_ray.records.control import StoppedNow, Terminated
from gallop_ray.records.files import parse_lines
from gallop_ray.records.folders import SweepFolder
from gallop_ray.reporting.summary import print_summary
from gallop_ray.search.study import Studies
from gallop_ray.spec.schema import Sweep
from gallop_ray.sweep.admission import Admission
from gallop_ray.sweep.driver import _remember
from gallop_ray.sweep.stop import raise_on_termination
from tests.sweep.written import Written, small_sweep


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return Written(small_sweep(tmp_path))


def complete(written: Written, status: str = "finished") -> list[str]:
    """Run all that the studies ask for; each configuration's last seed ends with `status`."""
    studies, keys = Studies(written.sweep, written.folder), []
    while key := studies.next():
        keys.append(key)
        asked = written.folder.configuration(key).configuration()
        for seed in written.sweep.seeds:
            if not written.folder.run(key, seed).result():
                run = written.begin(asked.method["name"], asked.training["learning_rate"], seed)
                assert run.configuration == key
                written.end(run, 0.1 * (1 + seed), status if seed == written.sweep.seeds[-1] else "finished")
        studies.tell(key)
    return keys


def states(folder: SweepFolder) -> list[tuple[str, float | None]]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder.path / "study.journal"))
    study = optuna.load_study(study_name="gallop", storage=optuna.storages.JournalStorage(backend))
    return [(trial.state.name, trial.value) for trial in study.trials if "configuration" in trial.user_attrs]


def test_what_failed_is_run_again_and_the_study_learns_of_it(written: Written) -> None:
    keys = complete(written, "failed")
    assert Studies(written.sweep, written.folder).exhausted
    kept = written.folder.run(keys[0], 0).result()
    assert main(["retry", str(written.folder.path), "--failed"]) == 0
    assert len(parse_lines((written.folder.path / "results.jsonl").read_bytes()).records) == len(keys)
    assert sorted(complete(written)) == sorted(keys)
    assert written.folder.run(keys[0], 0).result() == kept
    assert written.folder.run(keys[0], 1).attempt() == 2
    assert Studies(written.sweep, written.folder).exhausted
    mean = pytest.approx(0.15)
    assert states(written.folder) == [("FAIL", None)] * 2 + [("COMPLETE", mean)] * 2


def test_reasons_are_printed_as_they_are(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    complete(written, "failed")
    written.folder.write_base({}, {}, {}, None)
    assert not print_summary(written.folder, written.sweep)
    assert "seed 1 failed: [/tcp/pair.cc:5] it failed" in capsys.readouterr().out
    assert main(["status", str(written.folder.path)]) == 0
    assert "[/tcp/pair.cc:5] it failed" in " ".join(capsys.readouterr().out.split())


def test_a_retry_by_name_leaves_the_others(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    first, *others = complete(written, "diverged")
    assert main(["retry", str(written.folder.path), f"{first}/seed-1"]) == 0
    assert f"1 run queued for retry\n  {first} seed 1" in capsys.readouterr().out
    assert written.folder.run(first, 1).result() is None
    assert written.folder.configuration(first).status().status == "running"
    assert all(written.folder.configuration(key).status().status == "diverged" for key in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to retry"),
        (["gallop-1", "--failed"], "say what to retry"),
        (["gallop-none"], "has no configuration 'gallop-none'"),
    ],
)
def test_a_retry_of_nothing_is_refused(
    written: Written, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["retry", str(written.folder.path), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_what_finished_is_not_retried(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    (key, *_) = complete(written)
    assert main(["retry", str(written.folder.path), key]) == 2
    assert "has no run that failed or diverged" in capsys.readouterr().err


def test_more_seeds_reopen_what_had_finished_and_the_study_keeps_what_it_was_told(written: Written) -> None:
    keys = complete(written)
    grown = small_sweep(Path(written.sweep.output), seeds=[0, 1, 2])
    _remember(written.folder, grown)
    written.sweep = grown
    assert sorted(complete(written)) == sorted(keys)
    assert [len(written.folder.configuration(key).results()) for key in keys] == [3, 3, 3]
    assert states(written.folder) == [("COMPLETE", pytest.approx(0.15))] * 2
    assert Sweep.model_validate(written.folder.spec()).seeds == (0, 1, 2)


def test_more_configurations_and_another_method_are_added(written: Written, tmp_path: Path) -> None:
    keys = complete(written)
    methods = [{"type": "gallop"}, {"type": "random"}, {"type": "magnitude"}]
    written.sweep = small_sweep(tmp_path, methods=methods)
    _remember(written.folder, written.sweep)
    (added,) = complete(written)
    assert added.startswith("magnitude")
    assert added not in keys


def test_another_sweep_is_refused_and_changes_nothing(written: Written, tmp_path: Path) -> None:
    before = written.folder.spec()
    with pytest.raises(UserError, match=r"training\.steps: was nothing, is 3"):
        _remember(written.folder, small_sweep(tmp_path, training={"steps": 3}))
    assert written.folder.spec() == before


@pytest.mark.parametrize("command", ["pause", "stop"])
def test_only_what_runs_is_paused_or_stopped(
    command: str, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(written.folder.path)
    assert main([command, path]) == 2
    assert "is not running" in capsys.readouterr().err
    with control.alone(written.folder):
        control.begin(written.folder)
        assert main([command, path]) == 0
        assert control.asked(written.folder) == command
        if command == "pause":
            assert main(["resume", path]) == 0
            assert control.asked(written.folder) is None
        else:
            assert main(["resume", path]) == 2
            assert main(["pause", path]) == 2


def test_the_next_driver_is_not_told_what_the_last_was(written: Written) -> None:
    control.ask(written.folder, "stop")
    with control.alone(written.folder):
        control.begin(written.folder)
    assert control.asked(written.folder) is None


@pytest.mark.parametrize(("now", "error"), [(True, StoppedNow), (False, Terminated)])
def test_stop_now_and_sigterm_end_the_driver(now: bool, error: type[BaseException], written: Written) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error), raise_on_termination(written.folder):  # noqa: PT012
        if now:
            control.ask(written.folder, "stop now")
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_that_ray_makes_of_sigterm_is_still_sigterm(written: Written) -> None:
    with pytest.raises(Terminated), raise_on_termination(written.folder):  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None
    with pytest.raises(KeyboardInterrupt) as caught, raise_on_termination(written.folder):
        raise KeyboardInterrupt
    assert not isinstance(caught.value, Terminated | StoppedNow)


def test_no_run_starts_that_cannot_finish_or_after_a_stop(written: Written) -> None:
    slow, fast = written.begin("gallop", 0.1, 0), written.begin("random", 0.1, 0)
    written.end(slow, seconds=1000)
    written.end(fast, seconds=1)
    gate = Admission(written.folder, written.sweep.objective, deadline=time.time() + 500)
    assert not gate.may_start(written.folder.configuration(slow.configuration))
    assert gate.may_start(written.folder.configuration(fast.configuration))
    another = written.begin("gallop", 0.2, 0)
    assert not gate.may_start(written.folder.configuration(another.configuration)), "by its method's other runs"
    assert gate.may_start(written.folder.configuration(another.configuration), share=1 / 9), "up to a rung"
    control.ask(written.folder, "stop")
    assert not gate.may_start(written.folder.configuration(fast.configuration))


def test_a_confirmation_s_seed_does_not_become_one_of_the_search(tmp_path: Path) -> None:
    made = Written(small_sweep(tmp_path, confirmation={"seeds": [3, 4]}))
    for seed in (0, 1, 3, 4):
        made.end(run := made.begin("gallop", 0.1, seed))
        run.write("result", {**(run.read("result") or {}), "stage": "confirmation" if seed > 1 else "search"})
    for seeds, taken in (([0, 1, 2, 3], True), ([0, 1, 2], False)):
        sweep = small_sweep(tmp_path, seeds=seeds, confirmation={"seeds": [10, 11]})
        with pytest.raises(UserError, match="confirmation has run with 3") if taken else nullcontext():
            _remember(made.folder, sweep)
