"""A package with a method, a metric, a sampler and a pruning rule of its own, as docs/howto/method.md shows them.

Nothing of gallop_ray is edited: the package is installed with entry points, and a sweep names what it offers.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gallop_ray
from gallop_ray.records.folders import SweepFolder
from tests.sweep import command
from tests.test_pages import blocks

PAGE = command.ROOT / "docs" / "howto" / "method.md"
ENTRY_POINTS = """\
[gallop_ray.methods]
shrink = my_masks:Shrink
[gallop_ray.metrics]
id_gain = my_metrics:gain
"""
SAMPLER = """\
from optuna.samplers import RandomSampler


class Mine(RandomSampler):
    pass
"""
CONTRACTS = """\
from gallop_ray.testing import check_method, check_metric, check_sampler

if __name__ == "__main__":
    check_method("shrink", {"density": 0.05})
    check_metric("id_gain")
    check_sampler("my_samplers:Mine")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that holds the page's code and its metadata, as pip would leave them."""
    site = tmp_path_factory.mktemp("site")
    shown = {"class Shrink": "my_masks.py", "Metric(name=": "my_metrics.py", "def half": "my_rules.py"}
    for block in blocks(PAGE, "python"):
        for mark, name in shown.items():
            if mark in block:
                (site / name).write_text(block)
    assert sorted(each.name for each in site.iterdir()) == sorted(shown.values())
    (site / "my_samplers.py").write_text(SAMPLER)
    metadata = site / "my_gallop-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-gallop\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    return site


def path_of(site: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{site}:{Path(gallop_ray.__file__).parents[1]}", "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_the_package_keeps_the_contracts(site: Path) -> None:
    (site / "contracts.py").write_text(CONTRACTS)
    env = {**os.environ, **path_of(site)}
    done = subprocess.run([sys.executable, site / "contracts.py"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_a_sweep_uses_what_the_package_offers(site: Path, tmp_path: Path) -> None:
    sweep = command.write_sweep(
        tmp_path,
        methods=[{"type": "shrink"}, {"type": "random"}],
        evaluation={"max_new_tokens": 4, "metrics": ["id_gain"]},
        objective={"metric": "val_id_gain"},
        search={"sampler": "my_samplers:Mine", "space": {"training.learning_rate": {"log": [1e-3, 1e-1]}}},
        pruning={"type": "my_rules:half"},
    )
    process = command.start("run", sweep, env=path_of(site))
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "gain of ID accuracy" in output
    results = SweepFolder(tmp_path / "runs" / "tiny").results()
    assert {each.status for each in results} == {"finished"}
    assert all(isinstance(each.value("val_id_gain"), float) for each in results)
    # A reader without the package shows the metric, too.
    assert "val_id_gain" in command.run("best", tmp_path / "runs" / "tiny").stdout
