"""A delta that was trained before as a part of the base model: `model.delta`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gallop_ray.cli import main
from gallop_ray.disk.tensors import metadata_of
from gallop_ray.sparse.base_state import base_hash
from gallop_ray.spec.checks import verify
from gallop_ray.spec.problems import SweepFileError
from gallop_ray.training.models import load_model
from tests.exports.trained import GENERATED, METHODS, Trained, sweep, train, weights
from tests.training import tiny


@pytest.fixture(scope="module")
def again(trained: Trained, ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Runs whose base model holds what the run of `gallop` had trained."""
    found = Trained(trained.base, tmp_path_factory.mktemp("again"))
    methods = {name: METHODS[name] for name in ("random", "lora")}
    ranks(1)(train, found.base, found.output, "float32", methods, GENERATED, str(trained.run("gallop").path))
    return found


@pytest.mark.parametrize("place", ["folder", "file"])
def test_the_base_is_the_model_as_it_was_trained_bit_for_bit(trained: Trained, place: str) -> None:
    run = trained.run("gallop")
    delta = str(run.path if place == "folder" else run.adapter)
    model, _ = load_model(sweep(trained.base, "float32", delta=delta).model)
    expected = load_file(run.path / "seen.safetensors")
    expected.pop("logits")
    assert tiny.same(weights(model), expected)


def test_an_adapter_on_top_is_of_that_base_and_merges_with_it(trained: Trained, again: Trained, tmp_path: Path) -> None:
    model, _ = load_model(sweep(trained.base, "float32", delta=str(trained.run("gallop").path)).model)
    for method in ("random", "lora"):
        run = again.run(method)
        assert metadata_of(run.adapter)["base_hash"] == base_hash(model)
        assert main(["export", str(run.path), "--to", "merged", "--output", str(tmp_path / method)]) == 0
        if method == "random":  # of LoRA the merged weights are not what a forward pass computes with
            expected = load_file(run.path / "seen.safetensors")
            expected.pop("logits")
            assert tiny.same(weights(trained.load(folder=tmp_path / method)), expected)


@pytest.mark.parametrize(("method", "to"), [("random", "peft"), ("lora", "peft"), ("random", "lora")])
def test_no_folder_for_peft_which_would_load_the_base_without_it(
    again: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, to: str
) -> None:
    output = tmp_path / "out"
    assert main(["export", str(again.run(method).path), "--to", to, "--output", str(output)]) == 2
    assert "base model that holds a delta (model.delta)" in capsys.readouterr().err
    assert not output.exists()


def test_what_is_no_delta_or_of_another_base_is_refused(trained: Trained, again: Trained, tmp_path: Path) -> None:
    for place, said in ((str(trained.run("lora").path), "is no delta of a mask"), ("nowhere", "is not there")):
        with pytest.raises(SweepFileError, match=said):
            verify(sweep(trained.base, "float32", delta=place))
    with pytest.raises(ValueError, match=r"^model.delta: .* was trained on a base model with hash"):
        load_model(sweep(trained.base, "float32", delta=str(again.run("random").path)).model)
    with pytest.raises(ValueError, match=r"^model.delta: .* was trained on a base model with hash"):
        load_model(sweep(trained.base, "bfloat16", delta=str(trained.run("gallop").path)).model)
