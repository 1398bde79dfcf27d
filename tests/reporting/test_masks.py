"""The report on masks, from small masks whose density and overlap are counted by hand."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from gallop_ray.records.folders import SweepFolder
from gallop_ray.records.run_folder import RunFolder
from gallop_ray.reporting.mask_plot import masks_figure
from gallop_ray.reporting.masks import density_by_place, jaccard, write_mask_report
from gallop_ray.spec.search import ObjectiveSpec

Q0, Q1, UP1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"
SIZES = {Q0: 10, Q1: 10, UP1: 20}
OBJECTIVE = ObjectiveSpec()


def save_mask(path: Path, chosen: dict[str, list[int]]) -> Path:
    tensors = {f"{name}.weight.indices": np.array(flat, np.int32) for name, flat in chosen.items()}
    save_file(tensors | {f"{n}.weight.delta": np.ones(len(flat), np.float32) for n, flat in chosen.items()}, path)
    return path


def write_run(
    folder: SweepFolder, key: str, seed: int, chosen: dict[str, list[int]], value: float = 0.5, **mask: Any
) -> RunFolder:
    method = key.partition("-")[0]
    folder.configuration(key).create({"method": {"name": method}})
    run = folder.run(key, seed)
    run.start({}, "slot-0")
    if chosen:
        save_mask(run.adapter, chosen)
        counts = {name: [len(chosen.get(name, [])), numel] for name, numel in SIZES.items()}
        run.write("mask", {"chosen": sum(map(len, chosen.values())), "matrices": counts, **mask})
    else:
        run.write("mask", {})
    identity = {"configuration": key, "seed": seed, "method": method, "reason": None}
    run.finish({**identity, "status": "finished", "val_mean_accuracy": value})
    return run


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """gallop twice, of which b is better; random; and lora, which has no mask."""
    folder = SweepFolder(tmp_path)
    write_run(folder, "gallop-a", 0, {Q0: [1]}, value=0.1)
    write_run(folder, "gallop-a", 1, {Q0: [2]}, value=0.1)
    magnitudes = {"edges": [1e-4, 1e-3, 1e-2], "chosen": [3, 1], "all": [10, 30]}
    write_run(folder, "gallop-b", 0, {Q0: [0, 1, 2], UP1: [5]}, value=0.9, magnitudes=magnitudes)
    write_run(folder, "gallop-b", 1, {Q0: [1, 2], Q1: [0], UP1: [5]}, value=0.9)
    write_run(folder, "random-c", 0, {Q0: [2, 9], UP1: [4, 6]})
    write_run(folder, "random-c", 1, {Q1: [0, 1]})
    write_run(folder, "lora-d", 0, {})
    return folder


def test_density_is_counted_by_layer_and_module_type() -> None:
    matrices = {Q1: (5, 10), Q0: (1, 10), UP1: (20, 20), "lm_head": (1, 4)}
    experts = {f"model.layers.10.mlp.experts.{e}.up_proj": (e, 3) for e in (1, 2)}
    assert density_by_place({**matrices, **experts}) == {
        "layers": [0, 1, 10, "other"],
        "modules": ["q_proj", "up_proj", "lm_head"],
        "density": [[0.1, None, None], [0.5, 1.0, None], [None, 0.5, None], [None, None, 0.25]],
    }


def test_the_jaccard_index_counts_shared_entries_of_all_matrices(tmp_path: Path) -> None:
    one = save_mask(tmp_path / "one", {Q0: [0, 1, 2], UP1: [5]})
    other = save_mask(tmp_path / "other", {Q0: [1, 2], Q1: [0], UP1: [5]})
    apart = save_mask(tmp_path / "apart", {Q1: [1, 2, 5]})
    assert jaccard(one, other) == jaccard(other, one) == 3 / 5
    assert jaccard(one, apart) == 0
    assert jaccard(one, one) == 1


def test_the_report_has_every_mask_and_every_pair_once(folder: SweepFolder) -> None:
    write_mask_report(folder, OBJECTIVE)
    report = json.loads((folder.path / "masks.json").read_text())
    keys = ["gallop-a", "gallop-a", "gallop-b", "gallop-b", "random-c", "random-c"]
    assert [(run["configuration"], run["seed"]) for run in report["runs"]] == list(zip(keys, [0, 1] * 3, strict=True))
    assert report["runs"][2] == {
        "configuration": "gallop-b",
        "seed": 0,
        "method": "gallop",
        "chosen": 4,
        "layers": [0, 1],
        "modules": ["q_proj", "up_proj"],
        "density": [[0.3, None], [0.0, 0.05]],
        "magnitudes": {"edges": [1e-4, 1e-3, 1e-2], "chosen": [3, 1], "all": [10, 30]},
    }
    assert "magnitudes" not in report["runs"][3]
    assert report["overlap"]["seeds"] == [
        {"configuration": "gallop-a", "seeds": [0, 1], "jaccard": 0.0},
        {"configuration": "gallop-b", "seeds": [0, 1], "jaccard": 3 / 5},
        {"configuration": "random-c", "seeds": [0, 1], "jaccard": 0.0},
    ]
    pair = {"methods": ["gallop", "random"], "configurations": ["gallop-b", "random-c"]}
    assert report["overlap"]["methods"] == [
        {**pair, "seed": 0, "jaccard": 1 / 7},
        {**pair, "seed": 1, "jaccard": 1 / 5},
    ]
    assert (folder.path / "masks.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_the_mean_over_seeds_of_each_methods_best(folder: SweepFolder) -> None:
    write_mask_report(folder, OBJECTIVE)
    runs = json.loads((folder.path / "masks.json").read_text())["runs"]
    figure = masks_figure(runs[2:])
    gallop, random = (axes for axes in figure.axes if axes.images)
    assert gallop.get_title() == "gallop\ngallop-b, 2 seeds"
    assert random.get_title() == "random\nrandom-c, 2 seeds"
    np.testing.assert_allclose(gallop.images[0].get_array().filled(np.nan), [[25, np.nan], [5, 5]])
    np.testing.assert_allclose(random.images[0].get_array().filled(np.nan), [[10, np.nan], [10, 5]])
    assert {axes.images[0].get_cmap().name for axes in (gallop, random)} == {"cividis"}
    assert [label.get_text() for label in gallop.get_xticklabels()] == ["q_proj", "up_proj"]
    assert [label.get_text() for label in gallop.get_yticklabels()] == ["0", "1"]
    (histogram,) = (axes for axes in figure.axes if axes.get_xlabel() == "magnitude of the base weight")
    shares = {steps.get_label(): steps.get_data().values.tolist() for steps in histogram.patches}
    assert shares == {"all": [25, 75], "chosen": [75, 25]}


@pytest.mark.slow
def test_a_report_that_tells_of_these_runs_is_left_alone(folder: SweepFolder) -> None:
    write_mask_report(folder, OBJECTIVE)
    before = [(folder.path / name).stat().st_mtime_ns for name in ("masks.json", "masks.png")]
    write_mask_report(folder, OBJECTIVE)
    assert [(folder.path / name).stat().st_mtime_ns for name in ("masks.json", "masks.png")] == before
    write_run(folder, "random-c", 2, {Q1: [7]})
    write_mask_report(folder, OBJECTIVE)
    assert len(json.loads((folder.path / "masks.json").read_text())["runs"]) == 7
    assert (folder.path / "masks.png").stat().st_mtime_ns > before[1]


def test_an_adapter_that_was_removed_is_left_out_of_the_overlap(folder: SweepFolder) -> None:
    folder.run("gallop-b", 0).adapter.unlink()
    write_mask_report(folder, OBJECTIVE)
    report = json.loads((folder.path / "masks.json").read_text())
    assert len(report["runs"]) == 6
    assert [pair["configuration"] for pair in report["overlap"]["seeds"]] == ["gallop-a", "random-c"]
    assert [pair["seed"] for pair in report["overlap"]["methods"]] == [1]


def test_a_sweep_without_masks_gets_no_report(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    write_run(folder, "lora-d", 0, {})
    write_mask_report(folder, OBJECTIVE)
    assert not list(tmp_path.glob("masks.*"))


def test_matplotlib_is_not_imported_before_there_is_something_to_draw() -> None:
    code = "import sys, gallop_ray.reporting.masks; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
