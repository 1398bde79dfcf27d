"""Methods at equal ID, by hand."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from gallop_ray.analysis.equal_id import EqualId, equal_id
from gallop_ray.records.folders import SweepFolder
from gallop_ray.reporting.report.equal_id import equal_id_sheet
from gallop_ray.reporting.report.material import ReportData
from gallop_ray.spec.other_methods import VanillaSpec
from gallop_ray.spec.search import ObjectiveSpec
from tests.sweep.written import small_sweep

SEEDS, EXAMPLES = (0, 1, 2), 200
TUNED = {
    "gallop": {"low": (0.50, 0.60), "middle": (0.70, 0.55), "worse": (0.65, 0.40), "high": (0.90, 0.45)},
    "random": {"low": (0.50, 0.55), "high": (0.80, 0.35)},
}
"""ID and OOD accuracy of each configuration, at each seed 0.01 apart from the next in both."""


class Study:
    """A sweep folder with these results and no base model, unless `base` writes it."""

    def __init__(self, tmp: Path, tuned: dict[str, dict[str, tuple[float, float]]], kind: str = "accuracy") -> None:
        self.kind = kind
        self.sweep = small_sweep(tmp, seeds=list(SEEDS), objective={"metric": "val_id_accuracy"})
        self.folder = SweepFolder(tmp / "small")
        self.folder.create(self.sweep.model_dump(mode="json"))
        for method, configurations in tuned.items():
            for name, means in configurations.items():
                for seed in SEEDS:
                    self._write(method, name, seed, *(mean + (seed - 1) / 100 for mean in means))

    def _write(self, method: str, name: str, seed: int, learnt: float, kept: float) -> None:
        run = self.folder.run(f"{method}-{name}", seed)
        run.path.mkdir(parents=True)
        (run.path.parent / "configuration.json").touch()
        identity = {"configuration": run.configuration, "method": method, "seed": seed, "stage": "search"}
        measured = {f"id_{self.kind}": learnt, f"val_id_{self.kind}": learnt, f"ood_{self.kind}": kept}
        (run.path / "result.json").write_text(json.dumps({**identity, "status": "finished", **measured}))
        right = "".join(str(int(each)) for each in np.arange(EXAMPLES) < round(kept * EXAMPLES))
        (run.path / "correct.json").write_text(json.dumps({"max": {"test": {"likelihood": right}}}))

    def base(self, learnt: float, kept: float) -> None:
        """Write what was measured of the base model."""
        tasks = {"range": learnt, "max": kept}
        found = {task: {split: {"likelihood": v} for split in ("validation", "test")} for task, v in tasks.items()}
        self.folder.write_base(found, {}, {}, None)

    def found(self) -> EqualId:
        """The comparison, which there is."""
        found = equal_id(self.folder, self.sweep, self.folder.results())
        assert found is not None
        return found


def test_methods_are_compared_where_all_have_learnt_as_much(tmp_path: Path) -> None:
    """random reaches 0.80; gallop has 0.50 there, half way from 0.55 at 0.70 to 0.45 at 0.90."""
    study = Study(tmp_path, TUNED)
    found = study.found()
    gallop, random = found.fronts
    assert [each and each.configuration for each in gallop.configurations] == [
        "gallop-low",
        "gallop-middle",
        "gallop-high",
    ]
    assert found.id_value == pytest.approx(0.80)
    assert (found.kept(gallop), found.kept(random)) == pytest.approx((0.50, 0.35))
    # From the lowest ID of all: 0.2 wide from 0.60 to 0.55, then 0.1 from 0.55 to 0.50.
    assert found.area(gallop) == pytest.approx((0.2 * 0.575 + 0.1 * 0.525) / 0.3)
    assert found.area(random) == pytest.approx(0.45)
    (pair,) = found.comparisons
    assert (pair.first_method, pair.second_method, pair.seeds) == ("gallop", "random", 3)
    assert pair.difference == pytest.approx(0.15)
    assert pair.low < 0.15 < pair.high, "single examples count, too"


def test_the_base_model_is_where_every_method_begins(tmp_path: Path) -> None:
    study = Study(tmp_path, {**TUNED, "random": {"high": (0.80, 0.35)}})
    study.base(0.20, 0.62)
    found = study.found()
    gallop, random = found.fronts
    assert (random.points[0], random.configurations[0]) == (pytest.approx((0.20, 0.62)), None)
    assert random.at(0.50) == pytest.approx((0.62 + 0.35) / 2)
    assert (found.since, found.area(random)) == pytest.approx((0.20, (0.62 + 0.35) / 2))
    assert len(gallop.points) == 4


def test_the_untrained_model_as_a_method_does_not_pull_all_to_its_id(tmp_path: Path) -> None:
    study = Study(tmp_path, {**TUNED, "vanilla": {"only": (0.20, 0.62)}})
    study.sweep = study.sweep.model_copy(update={"methods": (*study.sweep.methods, VanillaSpec())})
    assert [front.method for front in study.found().fronts] == ["gallop", "random"]
    assert study.found().id_value == pytest.approx(0.80)


def test_a_method_that_learns_nothing_is_compared_where_it_is(tmp_path: Path) -> None:
    study = Study(tmp_path, {**TUNED, "random": {"high": (0.30, 0.35)}})
    study.base(0.32, 0.62)
    found = study.found()
    assert found.id_value == pytest.approx(0.32)
    assert {found.kept(front) for front in found.fronts} == {0.62}
    assert found.comparisons == ()


def test_losses_are_compared_likewise_and_the_smaller_is_better(tmp_path: Path) -> None:
    """random reaches a loss of 1.0; gallop has 2.5 there, half way from 2.0 at 1.2 to 3.0 at 0.8."""
    tuned = {"gallop": {"low": (1.2, 2.0), "high": (0.8, 3.0)}, "random": {"low": (1.4, 2.2), "high": (1.0, 3.4)}}
    study = Study(tmp_path, tuned, "loss")
    study.sweep = study.sweep.model_copy(update={"objective": ObjectiveSpec(metric="val_id_loss")})
    found = study.found()
    gallop, random = found.fronts
    assert (gallop.method, found.metrics, found.id_value) == ("gallop", ("id_loss", "ood_loss"), pytest.approx(1.0))
    assert (found.kept(gallop), found.kept(random)) == pytest.approx((2.5, 3.4))
    (pair,) = found.comparisons
    assert pair.difference == pytest.approx(-0.9)
    # From 1.4: constant to 1.2, as better configurations also reach less; then half of the way to 3.0.
    assert found.area(gallop) == pytest.approx((0.2 * 2.0 + 0.2 * 2.25) / 0.4)


def test_one_setting_of_each_method_is_no_front(tmp_path: Path) -> None:
    study = Study(tmp_path, {"gallop": {"low": (0.5, 0.6)}, "random": {"low": (0.5, 0.5)}})
    assert equal_id(study.folder, study.sweep, study.folder.results()) is None


def test_the_report_has_it(tmp_path: Path) -> None:
    study = Study(tmp_path, TUNED)
    material = ReportData(
        study.folder, study.sweep, study.folder.results(), pd.DataFrame(), *cast("Any", (None, None)), base={}
    )
    sheet = equal_id_sheet(material)
    assert sheet is not None
    assert "where ID accuracy is 80.0 %" in sheet.caption
    rows = [[cell.text for cell in row] for row in sheet.rows]
    assert [row[:2] for row in rows] == [["gallop", "50.0"], ["random", "35.0"]]
    assert rows[1][2] == "+15.0"
    assert [row[-1] for row in rows] == ["3", "2"]
