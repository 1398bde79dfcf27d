"""Merged adapters equal the formulas on dense deltas; what is no delta of the same base is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel

from gallop_ray.cli import main
from gallop_ray.exports.merge import merged_delta, overlap
from gallop_ray.sparse.adapter import apply_adapter, load_adapter
from tests.exports.trained import Trained, weights


def sparse(seed: int, entries: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randperm(60, generator=generator)[:entries].sort().values.int()
    return indices, torch.randn(entries, generator=generator)


def dense(part: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    whole = np.zeros(60)
    whole[part[0].numpy()] = part[1].double().numpy()
    return whole


def trimmed(whole: np.ndarray, keep: float) -> np.ndarray:
    smallest = np.argsort(-np.abs(whole))[round(keep * np.count_nonzero(whole)) :]
    found = whole.copy()
    found[smallest] = 0
    return found


def by_ties(parts: list[np.ndarray]) -> np.ndarray:
    """Entry by entry: the mean of those that have the sign of the sum."""
    found = np.zeros(60)
    for at in range(60):
        values = [p[at] for p in parts if p[at]]
        side = [v for v in values if np.sign(v) == (1 if sum(values) >= 0 else -1)]
        found[at] = np.mean(side) if side else 0
    return found


@pytest.mark.parametrize("keep", [1.0, 0.4])
@pytest.mark.parametrize("how", ["sum", "ties"])
def test_a_merge_equals_its_formula(how: str, keep: float) -> None:
    parts = [sparse(1, 30), sparse(2, 30), sparse(3, 12)]
    wholes = [trimmed(dense(p), keep if how == "ties" else 1) for p in parts]
    expected = by_ties(wholes) if how == "ties" else sum(wholes)
    found = merged_delta([{"w": p} for p in parts], how, keep if how == "ties" else 1.0)["w"]
    np.testing.assert_allclose(dense(found), expected, atol=1e-6)
    assert found[0].dtype == torch.int32
    assert bool((found[0][1:] > found[0][:-1]).all())


def test_ties_takes_the_largest_of_the_whole_adapter_and_not_of_each_matrix() -> None:
    """With a fifth of 1 or of 3 entries rounded down, none of 200 would be left."""
    generator = torch.Generator().manual_seed(0)
    sizes = {f"{i:03}": 1 if i < 50 else 3 for i in range(100)}
    deltas = [
        {name: (torch.arange(k).int(), torch.randn(k, generator=generator).abs()) for name, k in sizes.items()}
        for _ in range(2)
    ]
    deltas[1] = {name: (i + 10, d) for name, (i, d) in deltas[1].items()}  # nothing in common
    found = merged_delta(deltas, "ties", 0.2)
    for delta, first in zip(deltas, (0, 10), strict=True):
        every = torch.cat([d for _, d in delta.values()]).sort(descending=True).values
        kept = torch.cat([d[(i >= first) & (i < first + 10)] for i, d in found.values()])
        assert torch.equal(kept.sort(descending=True).values, every[: round(0.2 * 200)])


def test_of_equal_entries_exactly_the_share_is_kept_the_first_by_name() -> None:
    entries = torch.arange(4).int()
    part = {name: (entries, torch.ones(4)) for name in ("b", "a")}
    found = merged_delta([part, {"c": (entries, torch.ones(4))}], "ties", 0.5)
    assert {name: i.tolist() for name, (i, _) in found.items()} == {"a": [0, 1, 2, 3], "c": [0, 1]}


def test_dare_keeps_the_sum_on_average_and_a_share_of_the_entries() -> None:
    parts = [sparse(1, 40), sparse(2, 40)]
    torch.manual_seed(0)
    draws = [dense(merged_delta([{"w": p} for p in parts], "dare", 0.25)["w"]) for _ in range(4000)]
    np.testing.assert_allclose(np.mean(draws, axis=0), dense(parts[0]) + dense(parts[1]), atol=0.25)
    alone = merged_delta([{"w": parts[0]}, {"v": parts[1]}], "dare", 0.25)
    assert set(np.round(dense(alone["w"])[alone["w"][0]] / dense(parts[0])[alone["w"][0]], 5)) == {4.0}


def test_what_cancels_out_is_left_out() -> None:
    part = sparse(1, 30)
    assert merged_delta([{"w": part}, {"w": (part[0], -part[1])}], "sum", 1.0) == {}


def test_overlap_counts_entries_and_signs() -> None:
    first = {"w": (torch.tensor([1, 4, 7]), torch.tensor([1.0, -1.0, 2.0])), "v": (torch.tensor([0]), torch.ones(1))}
    second = {"w": (torch.tensor([4, 7]), torch.tensor([1.0, 5.0]))}
    said = "4 and 2 entries, 2 in common (100.0% of the smaller), 50.0% of them with the same sign"
    assert overlap(first, second) == said


def test_two_runs_become_one_adapter_and_one_model(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(trained.run(method).path) for method in ("gallop", "random")]
    assert main(["merge", *runs, "--output", str(tmp_path / "both")]) == 0
    told = capsys.readouterr()
    assert told.out.strip() == str(tmp_path / "both")
    assert "in common" in told.err
    base, model = trained.load(), trained.load()
    apply_adapter(model, tmp_path / "both" / "adapter.safetensors")
    for name, weight in weights(model).items():
        deltas = [load_adapter(Path(run) / "adapter.safetensors")[0].get(name) for run in runs]
        expected = weights(base)[name].double().view(-1)
        for indices, delta in filter(None, deltas):
            expected[indices.long()] += delta.double()
        torch.testing.assert_close(weight.double().view(-1), expected, atol=1e-6, rtol=0)
    assert main(["merge", *runs, "--to", "merged", "--output", str(tmp_path / "model")]) == 0
    assert all(map(torch.equal, weights(trained.load(folder=tmp_path / "model")).values(), weights(model).values()))
    again = [
        "merge",
        str(tmp_path / "both"),
        runs[0],
        "--how",
        "ties",
        "--keep",
        "0.5",
        "--output",
        str(tmp_path / "c"),
    ]
    assert main(again) == 0, "a merge may be merged"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["merge", *arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_merged_is_refused(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = {method: str(trained.run(method).path) for method in ("gallop", "random", "lora")}
    output = ["--output", str(tmp_path / "out")]
    assert "two runs" in refused([run["gallop"], *output], capsys)
    assert "named twice" in refused([run["gallop"], run["gallop"], *output], capsys)
    assert "no sparse adapter" in refused([run["gallop"], run["lora"], *output], capsys)
    assert "--keep" in refused([run["gallop"], run["random"], "--keep", "0.5", *output], capsys)
    other = str(trained.run("gallop", "bfloat16").path)
    assert "another base model" in refused([run["gallop"], other, *output], capsys)
    assert not (tmp_path / "out").exists()


def test_a_lora_export_is_the_best_of_its_rank_and_states_its_error(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, errors = trained.run("gallop"), {}
    for rank in (2, 40):
        folder = tmp_path / str(rank)
        assert main(["export", str(run.path), "--to", "lora", "--rank", str(rank), "--output", str(folder)]) == 0
        said = capsys.readouterr().err
        base = weights(trained.load())
        merged = weights(PeftModel.from_pretrained(trained.load(), folder).merge_and_unload())
        missing = change = 0.0
        for name, (indices, delta) in load_adapter(run.adapter)[0].items():
            whole = torch.zeros(base[name].shape, dtype=torch.float64)
            whole.view(-1)[indices.long()] = delta.double()
            u, s, vh = torch.linalg.svd(whole, full_matrices=False)
            best = (u[:, :rank] * s[:rank]) @ vh[:rank]
            torch.testing.assert_close(merged[name].double() - base[name].double(), best, atol=1e-6, rtol=0)
            missing, change = missing + float((whole - best).square().sum()), change + float(whole.square().sum())
        errors[rank] = (missing / change) ** 0.5
        assert f"leaves out {errors[rank]:.1%} of the change" in said
    assert errors[2] > 0.1
    assert errors[40] < 1e-6
    assert main(["export", str(run.path), "--to", "peft", "--rank", "4"]) == 2
