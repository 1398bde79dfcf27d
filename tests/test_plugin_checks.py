"""The contract of metrics and samplers finds what would spoil a sweep, and passes what is fine."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallop_ray.testing import check_metric, check_sampler

METRICS = """\
from gallop_ray.spec.metrics import Metric


def share(tuned, base):
    return None if tuned.id is None or not base.id else tuned.id / base.id


gain = Metric(name="id_gain", label="gain", value=share, needs_ood=False)
bounded = Metric(name="bounded_gain", label="gain", value=share, bounds=(0.0, 1.0))
divides = Metric(name="divided", label="gain", value=lambda tuned, base: tuned.id / base.id)
nothing = Metric(name="nan", label="gain", value=lambda tuned, base: float("nan"))
"""
SAMPLERS = """\
import random

from optuna.samplers import RandomSampler


class Mine(RandomSampler):
    pass


class Unseeded(RandomSampler):
    def __init__(self):
        super().__init__(seed=random.randrange(2**31))


class Outside(RandomSampler):
    def sample_independent(self, study, trial, name, distribution):
        return distribution.high * 2 if name == "rank" else super().sample_independent(study, trial, name, distribution)
"""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_metrics.py").write_text(METRICS)
    (tmp_path / "own_samplers.py").write_text(SAMPLERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("own_metrics", "own_samplers"):
        sys.modules.pop(name, None)


def test_what_is_fine_passes() -> None:
    check_metric("own_metrics:gain")
    check_sampler("own_samplers:Mine")
    check_sampler("TPESampler", {"n_startup_trials": 4})


@pytest.mark.parametrize(
    ("check", "name", "error", "said"),
    [
        (check_metric, "own_metrics:bounded", AssertionError, "outside of its bounds"),
        (check_metric, "own_metrics:divides", TypeError, "NoneType"),
        (check_metric, "own_metrics:nothing", AssertionError, "is nan"),
        (check_metric, "own_metrics:none", ValueError, "has no none"),
        (check_sampler, "own_samplers:Unseeded", AssertionError, "gives other points"),
        (check_sampler, "own_samplers:Outside", (AssertionError, ValueError), "rank|128"),
        (check_sampler, "json:JSONDecoder", ValueError, "is no optuna"),
    ],
)
def test_what_would_spoil_a_sweep_is_found(check, name: str, error, said: str) -> None:
    with pytest.raises(error, match=said):
        check(name)
