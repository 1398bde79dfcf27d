"""What MLflow is told of a sweep, apart from how it is sent."""

import json
from pathlib import Path

import pytest

from gallop_ray.mlflow_mirror.fields import sweep_points
from gallop_ray.spec.search import ObjectiveSpec
from tests.reporting.reported import write_sweep


@pytest.mark.parametrize("metric", ["val_mean_accuracy", "val_forget_ratio"])
def test_the_best_is_ahead_of_the_second_whichever_way_its_objective_goes(tmp_path: Path, metric: str) -> None:
    folder, sweep = write_sweep(tmp_path)
    for file in (run.path / "result.json" for run in folder.runs()):
        result = json.loads(file.read_text())
        file.write_text(json.dumps({**result, "val_forget_ratio": result["forget_ratio"]}))
    points = sweep_points(folder, sweep.model_copy(update={"objective": ObjectiveSpec(metric=metric)}), time=0.0)
    assert {point.name: point.value for point in points}["best/ahead"] > 0
