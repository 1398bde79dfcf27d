"""Paused runs in memory: taken without reading while they are what lies on disk, else read from there."""

from dataclasses import replace
from pathlib import Path

import torch

from gallop_ray.sparse.mask import Mask
from gallop_ray.training.checkpoint import Checkpoint, Interim
from gallop_ray.training.held import Held


def paused(step: int, name: str) -> Checkpoint:
    interim = Interim(name, torch.tensor([[0.5, 0.25]]), 1.5, {"training": 2.0, "total": 3.0}, 10, 7.0, "store")
    state = {"values": [torch.arange(3.0), torch.ones(2)]}
    random = {"cpu": torch.ones(1, 4).byte()}
    return Checkpoint(step, 0.5, state, {}, random, Mask({"a": torch.tensor([0, 2])}), {}, interim=interim)


def test_what_is_held_is_taken_once_and_what_does_not_fit_is_read(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    held, first, second = Held(40), paused(3, "first"), paused(4, "second")
    held.put(paths[0], first)
    assert held.paths == paths[:1]
    held.put(paths[1], second)
    assert held.paths == paths[1:], "there is space for one"
    assert held.take(paths[1]) is second
    assert held.paths == []
    for path, one in zip(paths, (first, second), strict=True):
        found = held.take(path)
        assert found is not None
        assert found.interim is not None
        assert one.interim is not None
        assert torch.equal(found.interim.unlogged, one.interim.unlogged)
        assert replace(found.interim, unlogged=one.interim.unlogged) == one.interim
        assert torch.equal(torch.cat(found.state["values"]), torch.cat(one.state["values"]))


def test_one_that_another_process_has_continued_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    here, there = Held(1e9), Held(1e9)
    here.put(path, paused(3, "first"))
    there.put(path, paused(3, "of another attempt"))
    found = here.take(path)
    assert found is not None
    assert found.interim is not None
    assert found.interim.id == "of another attempt"


def test_without_its_file_a_run_begins_from_its_start(tmp_path: Path) -> None:
    held, path = Held(1e9), tmp_path / "checkpoint.safetensors"
    held.put(path, paused(3, "first"))
    path.unlink()
    assert held.take(path) is None
