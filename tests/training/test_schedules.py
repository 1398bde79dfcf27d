"""Learning rates: warm-up, our schedules as transformers has them, and a function of one's own."""

from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from gallop_ray.spec.training import SCHEDULES, TrainingSpec
from gallop_ray.training.schedules import learning_rate


def rates(steps: int = 20, **training: object) -> list[float]:
    spec = TrainingSpec.model_validate({"learning_rate": 2.0, "warmup_ratio": 0, **training})
    return [learning_rate(spec, step, steps) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_transformers(name: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=2.0)
    scheduler = get_scheduler(name, optimizer, warmup, 20)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    # The warmup itself is ours: it wastes no step at a rate of 0.
    assert rates(schedule=name, warmup_ratio=warmup / 20)[warmup:] == pytest.approx(expected[warmup:])


def test_the_warmup_rises_to_the_learning_rate() -> None:
    assert rates(schedule="constant", warmup_ratio=0.2) == pytest.approx([0.4, 0.8, 1.2, 1.6, *[2.0] * 16])


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_schedules.py").write_text(
        "def half(step, steps):\n    return 0.5 if 2 * step < steps else 0.25\n\ndef bad(step, steps):\n    return -1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert rates(4, schedule="my_schedules:half") == [1.0, 1.0, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"training\.schedule: my_schedules:bad gives -1 at step 0 of 4"):
        rates(4, schedule="my_schedules:bad")
    with pytest.raises(ValueError, match="has no thalf"):
        rates(4, schedule="my_schedules:thalf")


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"must be 'linear', 'cosine'.* or module:function; did you mean `cosine`\?"):
        TrainingSpec(schedule="cosin")
