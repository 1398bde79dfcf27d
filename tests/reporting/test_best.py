"""The best configuration, and that what is printed can be used."""

import re
from pathlib import Path

import pytest
import yaml

from gallop_ray.cli import main
from gallop_ray.spec.load import load_sweep
from tests.sweep.written import Written, small_sweep


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """gallop is better at 0.2 than at 0.1, and random is worse than both."""
    written = Written(small_sweep(tmp_path))
    for method, rate, accuracies in (
        ("gallop", 0.1, (0.4, 0.6)),
        ("gallop", 0.2, (0.6, 0.8)),
        ("random", 0.1, (0, 0.1)),
    ):
        for seed, accuracy in enumerate(accuracies):
            run = written.begin(method, rate, seed)
            run.adapter.write_bytes(b"")
            written.end(run, accuracy)
    return written


def test_the_best_with_its_settings_and_the_adapter_of_its_best_seed(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["best", str(written.folder.path)]) == 0
    text = capsys.readouterr().out
    assert "val_mean_accuracy: 70.0 ± 14.1 %" in text
    assert "ood_accuracy: not measured" in text
    (adapter,) = re.findall("adapter: (.*)", text)
    assert adapter.endswith("seed-1/adapter.safetensors")
    assert f"gallop-ray export {Path(adapter).parent} --to" in text
    assert "\nNot enough seeds by ID accuracy on test sets: gallop is ahead" in text
    settings = yaml.safe_load(text[text.index("methods:") : text.index("adapter:")])
    file = tmp_path / "again.yaml"
    again = {"name": "again", "model": {"name": "pocket"}, "data": {"train": "x", "ood": ["y"]}, **settings}
    file.write_text(yaml.safe_dump(again))
    loaded = load_sweep(file)
    assert loaded.methods == written.sweep.methods[:1]
    assert loaded.training.learning_rate == 0.2
    assert ("steps" in settings["training"]) != ("epochs" in settings["training"])


def test_all_methods_and_an_adapter_that_is_gone(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    for run in written.folder.runs():
        if run.configuration.startswith("random"):
            run.adapter.unlink()
    assert main(["best", str(written.folder.path), "--all"]) == 0
    text = capsys.readouterr().out
    assert re.findall(r"^(\w+)-\w{8}, mean", text, re.MULTILINE) == ["gallop", "random"]
    assert "adapter: none is left" in text


def test_before_anything_has_finished_there_is_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = Written(small_sweep(tmp_path, name="fresh"))
    assert main(["best", str(fresh.folder.path)]) == 2
    assert "no configuration of" in capsys.readouterr().err
