"""Examples of another task, mixed into training: how many, which, and what does not see them."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from gallop_ray.preflight.plan import print_plan
from gallop_ray.preflight.task_checks import data
from gallop_ray.spec.schema import Sweep
from gallop_ray.tasks.encode import Encoded
from gallop_ray.tasks.replay import load_replay
from gallop_ray.training.batches import batches
from gallop_ray.training.resident import load_base_model
from tests.sweep import command
from tests.training import tiny

LIMITS = {"train": 60, "validation": 8, "test": 8}


def sweep(model: str = "tiny", **data: Any) -> Sweep:
    limited = {"root": "generated", "train": "range", "ood": ["max"], "limits": LIMITS, **data}
    training = {"batch_size": 20, "micro_batch_size": 10, "epochs": 2, "max_length": 32}
    fields = {"name": "tiny", "model": {"name": model}, "methods": [{"type": "gallop"}], "deepspeed": {"zero_stage": 0}}
    return Sweep.model_validate({**fields, "data": limited, "training": training})


@dataclass
class Loaded:
    """What a slot's worker holds of the data."""

    train: list[Encoded]
    epoch: list[Encoded]
    train_hash: str
    tokens: list[str]
    rounds: list[int]


def loaded(asked: Sweep) -> Loaded:
    """On a rank."""
    found = load_base_model(asked, lambda spec: tiny.of_pocket_vocabulary())
    rounds = [len(each.epoch) for each in found.rounds.values()]
    epoch = found.epoch if found.train else []
    return Loaded(found.train, epoch, found.train_hash, list(found.identity["tokens of"]), rounds)


def test_a_share_of_every_epoch_is_of_the_other_task(ranks: Any) -> None:
    """20 beside 60 are a quarter; the examples trained on, and so the scores, are as without them."""
    asked = (sweep(), sweep(replay={"task": "first", "share": 0.25}), sweep(train="first"))
    (plain,), (mixed,), (first,) = (ranks(1)(loaded, each) for each in asked)
    assert mixed.epoch[:60] == plain.epoch == plain.train == mixed.train
    assert mixed.train_hash == plain.train_hash
    assert mixed.epoch[60:] == first.train[:20]
    drawn = [one for batch in islice(batches(mixed.epoch, 20, seed=3), 4) for one in batch]
    assert sorted(one.input_ids for one in drawn) == sorted(one.input_ids for one in mixed.epoch), "4 batches an epoch"
    assert (plain.tokens, mixed.tokens) == (["range"], ["range", "data.replay"])


def test_each_round_has_its_share(ranks: Any) -> None:
    (found,) = ranks(1)(loaded, sweep(train=["range", "min"], replay={"task": "first", "share": 0.5}))
    assert found.rounds == [120, 120]


def test_steps_are_counted_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(sweep("pocket", replay={"task": "first", "share": 0.25}))
    runs = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["gallop"])
    assert runs.split()[-1] == str(2 * 80 // 20)


def test_there_have_to_be_enough(tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(f'{{"text": "{number} is a number"}}\n' for number in range(12)))
    task = {"few": {"source": str(few)}}
    asked = sweep(tasks=task, replay={"task": "few", "share": 0.5})
    with pytest.raises(ValueError, match=r"takes 60 examples of few, a share of 0.5 beside 60 .* there are 10;"):
        load_replay(asked, 60)
    (problem,) = [each for each in data(asked) if "data.replay" in each.text]
    assert problem.level == "problem"
    enough = sweep(tasks=task, replay={"task": "few", "share": 0.1})
    found = load_replay(enough, 60)
    assert found is not None
    assert [one.kind for one in found.train] == ["plain"] * 7
    assert any("data.replay: 7 examples of few beside 60" in each.text for each in data(enough))


@pytest.mark.parametrize(
    ("replay", "said"),
    [
        ({"task": "range", "share": 0.5}, "is the task trained on, and must be another"),
        ({"task": "first", "share": 1}, "less than 1"),
        ({"task": "first", "share": 0}, "greater than 0"),
    ],
)
def test_what_is_no_other_task_or_no_share_is_refused(replay: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sweep(replay=replay)


@pytest.mark.slow
def test_a_sweep_with_them_is_not_continued_without_them(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "methods": [{"type": "gallop", "density": 0.05}],
        "seeds": 1,
        "search": {"space": {}},
        "budget": {"configurations": 1},
        "resources": {"workers_per_slot": 1, "cpus_per_worker": 0.5, "slots": 1},
    }
    path = command.write_sweep(tmp_path, **changes)
    done = command.run("run", path, "--set", "data.replay={task: second, share: 0.25}")
    assert done.returncode == 0, done.stdout
    assert "25 % of it second" in (tmp_path / "runs/tiny/report/report.html").read_text()
    refused = command.run("run", path)
    assert refused.returncode == 2
    assert "data.replay" in refused.stdout
