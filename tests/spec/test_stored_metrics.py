"""What readers of records know of a sweep's own metrics, whose code they may lack."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.own_metrics import keep_metrics, use_metrics
from gallop_ray.spec import metrics
from gallop_ray.spec.metrics import find, made_of, task_weights, unit_of
from gallop_ray.spec.schema import Sweep

CODE = """
from gallop_ray.spec.metrics import Metric

mean = Metric("own_mean", "mean", lambda tuned, base: 0.5, bounds=(0, 1), weights=lambda base: (0.7, 0.3))
lost = Metric("own_lost", "lost", lambda tuned, base: 0.5, larger_is_better=False, weights=lambda base: (0, -1 / base))
loss = Metric("own_nats", "nats", lambda tuned, base: 2.5, larger_is_better=False, of="loss", bounds=(0, float("inf")))
"""
NAMES = ("own_facts:mean", "own_facts:lost", "own_facts:loss")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SweepFolder]:
    """Of a sweep with three metrics of its own, read by a process that has not seen their code."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_facts.py").write_text(CODE)
    monkeypatch.setattr(metrics, "_declared", {})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "code")])
    sweep = Sweep.model_validate(
        {
            "name": "own",
            "model": {"name": "pocket"},
            "data": {"root": "generated", "train": "range", "ood": ["max", "min"]},
            "methods": [{"type": "gallop"}],
            "evaluation": {"metrics": NAMES},
        }
    )
    keep_metrics(SweepFolder(tmp_path), sweep)
    metrics._declared.clear()
    yield SweepFolder(tmp_path)
    sys.modules.pop("own_facts", None)


def weights(name: str, base: float) -> dict[str, float]:
    return task_weights(name, "range", ["max", "min"], base)


def test_a_reader_knows_units_ranges_and_weights_without_the_code(folder: SweepFolder) -> None:
    sys.modules.pop("own_facts")
    use_metrics(folder)
    assert "own_facts" not in sys.modules, "to look at records runs nothing of theirs"
    assert weights("val_own_mean", 0.4) == pytest.approx({"range": 0.7, "max": 0.15, "min": 0.15})
    assert weights("own_lost", 0.4) == {}, "they depend on the base model, which facts do not say"
    assert (made_of("own_nats"), unit_of("own_nats")) == ("loss", "nats")
    found = {name: find(name) for name in ("own_mean", "own_nats")}
    assert [each and each.bounds for each in found.values()] == [(0, 1), None]
    assert math.isfinite(json.loads((folder.path / "metrics.json").read_text())["own_mean"]["weights"][0])


def test_facts_of_other_versions_are_read(folder: SweepFolder) -> None:
    (folder.path / "metrics.json").write_text('{"own_mean": {"label": "old"}, "own_new": {"label": "new", "later": 1}}')
    use_metrics(folder)
    assert [each.label for each in map(find, ("own_mean", "own_new")) if each] == ["old", "new"]


@pytest.mark.parametrize("text", ["{", "[]", '{"own_mean": 3}', '{"own_mean": {}}'])
def test_damaged_facts_count_as_missing_and_are_named(
    folder: SweepFolder, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.path / "metrics.json").write_text(text)
    use_metrics(folder)
    assert find("own_mean") is None
    assert "metrics.json" in caplog.text


def test_a_trial_compares_by_the_code_itself(folder: SweepFolder) -> None:
    use_metrics(folder, NAMES)
    assert weights("own_lost", 0.4) == pytest.approx({"max": -1.25, "min": -1.25})
    assert weights("own_mean", 0.4) == pytest.approx({"range": 0.7, "max": 0.15, "min": 0.15})


def test_a_trial_without_the_code_has_the_facts(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    sys.modules.pop("own_facts")
    (folder.path / "code" / "own_facts.py").unlink()
    use_metrics(folder, NAMES)
    assert weights("own_mean", 0.4) == pytest.approx({"range": 0.7, "max": 0.15, "min": 0.15})
