"""What `gallop-ray plan` says of the shipped sweeps, without network, weights or data."""

import json
import re
from pathlib import Path

import pytest

from gallop_ray.preflight.plan import print_plan
from gallop_ray.spec.load import load_sweep
from gallop_ray.spec.schema import Sweep
from gallop_ray.testing.model import of_pocket_vocabulary

SWEEPS = Path(__file__).parents[2] / "sweeps"


def planned(capsys: pytest.CaptureFixture[str], name: str, *overrides: str) -> str:
    print_plan(load_sweep(SWEEPS / name, overrides))
    return capsys.readouterr().out


def row(text: str, heading: str, *begins: str) -> list[str]:
    """The cells of a row under a heading, by how it begins."""
    lines = text[text.index(heading) :].splitlines()
    return next(line.split() for line in lines if line.split()[: len(begins)] == list(begins))


def test_llama_plan_shows_runs_sizes_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "llama3_8b_commonsense.yaml")
    assert text.startswith("Runs")
    assert "schedule:" not in text
    assert row(text, "Runs", "gallop")[1:4] == ["12", "3", "43"], "seven fresh seeds of the best"
    assert row(text, "Runs", "total")[1:4] == ["48", "3", "172"]
    assert "epochs x examples: unknown until the data is read" in text
    for method, option in (("gallop", "lora_rank"), ("lora", "rank")):
        for rank, percent in (("8", "0.2345"), ("16", "0.4679"), ("32", "0.9314"), ("64", "1.8456")):
            assert row(text, "Trained parameters", method, option, rank)[-1] == percent
    assert "8 in a slot, ZeRO stage 3, bfloat16" in text
    full, lora = row(text, "Memory", "full"), row(text, "Memory", "lora", "rank", "8")
    assert full[1:3] == lora[3:5] == ["2.01", "GB"], "an eighth of the weights"
    assert float(full[-2]) > 16 * 8.03 / 8, "at least weights, gradients, masters and moments"
    assert 2 < float(lora[-2]) < 10


def test_every_field_is_printed_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(load_sweep(SWEEPS / "quickstart.yaml"), fields=True)
    text = capsys.readouterr().out
    assert text.startswith("Runs")
    assert "\nname: quickstart\n" in text
    assert "schedule: linear" in text, "defaults are written out"


def test_runs_that_wait_at_rungs_take_memory_and_disk(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "quickstart.yaml", "pruning.type=asha", "resources.held_gb=2.5")
    trained = int(row(text, "Trained parameters", "full")[1].replace(",", ""))
    assert row(text, "Trained parameters", "full")[2:4] == ["1", "100.0000"], "nothing is beside what trains"
    assert "Paused runs: up to 2.5 GB of the host's memory per slot (resources.held_gb); on disk up to " in text
    assert f"{16 * trained / 1e6:.3g} MB each, for at most 12 of them {12 * 16 * trained / 1e6:.0f} MB." in text
    assert "Paused runs" not in planned(capsys, "quickstart.yaml")


def test_quickstart_is_counted_without_making_the_pocket_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALLOP_RAY_CACHE", str(tmp_path))
    text = planned(capsys, "quickstart.yaml", "training.steps=null", "training.epochs=2")
    assert row(text, "Runs", "gallop")[1:] == ["3", "3", "9", str(2 * 2000 // 32)]
    assert f"in all runs {36 * 125:,}" in text
    assert row(text, "Trained parameters", "gallop")[1:3] == ["46,202", "0.05"]
    assert row(text, "Exports", "gallop")[1:] == ["0.37", "MB", "0.37", "MB", "or", "more", "3.7", "MB"]
    assert row(text, "Exports", "lora")[1] == "none"
    assert row(text, "Exports", "lora")[-4:] == [*row(text, "Exports", "lora")[2:4], "3.7", "MB"]
    assert row(text, "Exports", "full")[1:3] == ["none", "none"]
    assert "gallop, random: a PEFT folder has room in every matrix for as many entries as the fullest one has" in text
    assert re.search(r"full +[\d.]+ MB", text[text.index("Memory") :])
    assert list(tmp_path.iterdir()) == []


def test_where_every_matrix_has_peft_s_number_of_entries_its_folder_is_as_small_as_the_delta(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = planned(capsys, "quickstart.yaml", "methods.0.scope=per_matrix", "methods.0.density={lora_rank: 2}")
    _, delta, _, folder, *_ = row(text, "Exports", "gallop")
    assert delta == folder
    assert "or more" not in text[text.index("gallop", text.index("Exports")) :].splitlines()[0]
    assert "\nrandom: a PEFT folder has room" in text, "of the global mask alone"


def test_what_peft_has_no_form_for_is_said_before_the_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(capsys, "quickstart.yaml", "methods.0.target_modules=[q_proj, embed_tokens]")
    assert row(text, "Exports", "gallop")[3] == "none"
    said = "linear layers only, and model.embed_tokens is of class Embedding; export --to merged"
    assert f"gallop: PEFT's form for sparse changes holds {said}" in text


def test_long_examples_are_counted_and_what_is_left_out_is_not_trained_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model, tokenizer = of_pocket_vocabulary()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    for split in ("train", "test"):
        asked = ["max 3 7 " * (20 if i % 2 else 1) + f"{i}\nAnswer format: 3/7" for i in range(24)]
        lines = [{"instruction": each, "output": "7", "answer": "7"} for each in asked]
        (tmp_path / f"own.{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = {"name": "long", "model": {"name": str(tmp_path / "model")}, "methods": [{"type": "full"}]}
    data = {"root": str(tmp_path), "train": "own", "validation_share": 0.25}
    training = {"batch_size": 1, "micro_batch_size": 1, "max_length": 64}
    said = {}
    for policy in ("cut", "drop"):
        fields = {**document, "data": data, "training": {**training, "too_long": policy}}
        print_plan(Sweep.model_validate(fields))
        said[policy] = capsys.readouterr().out
    train = int(row(said["cut"], "Runs", "full")[-1].replace(",", ""))
    match = re.search(r"own: (\d+) of 18 training examples are longer than max_length: \1 are cut", said["cut"])
    assert match
    assert train == 18
    assert int(row(said["drop"], "Runs", "full")[-1]) == 18 - int(match[1])
    assert (
        f"own: {match[1]} of 18 training examples are longer than max_length: {match[1]} are left out" in said["drop"]
    )


def test_examples_on_the_hub_are_bounded_by_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    text = planned(
        capsys, "llama3_8b_commonsense.yaml", "data.limits.train=640", "methods=[{type: full}]", *no_search()
    )
    assert row(text, "Runs", "full")[-1] == "10"


def test_searched_densities_have_a_row_for_each_end(capsys: pytest.CaptureFixture[str]) -> None:
    space = "search.space={gallop.density: {log: [1.0e-3, 5.0e-2]}}"
    text = planned(capsys, "quickstart.yaml", "methods=[{type: gallop}]", space, "budget.configurations=3")
    rows = [row(text, "Trained parameters", "gallop", "density", end) for end in ("0.001", "0.05")]
    assert [each[3] for each in rows] == ["924", "46,202"]
    alone = planned(capsys, "quickstart.yaml", "methods=[{type: gallop, density: 0.05}]", *no_search())
    assert row(text, "Memory", "gallop", "density", "0.05")[-4:] == row(alone, "Memory", "gallop")[-4:]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{type: gallop, density: 0.99}", "method gallop: density 0.99 asks for .*lower the density"),
        ("{type: lora, target_modules: [q_porj]}", "method lora: target module 'q_porj' matches nothing"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_is_printed(
    capsys: pytest.CaptureFixture[str], method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        planned(capsys, "quickstart.yaml", f"methods=[{method}]", *no_search())
    assert capsys.readouterr().out == ""


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"no task arc_esy on the hub.*Did you mean arc_easy\?"):
        planned(capsys, "llama3_8b_commonsense.yaml", "data.train=arc_esy", "methods=[{type: full}]", *no_search())


def no_search() -> list[str]:
    return ["search.space={}"]
