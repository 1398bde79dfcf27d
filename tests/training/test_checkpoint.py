"""A checkpoint is read as it was written, or costs the run its progress by name."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gallop_ray.disk.damage import Damaged
from gallop_ray.sparse.mask import Mask
from gallop_ray.training.checkpoint import Checkpoint, last_checkpoint


def kept(path: Path) -> Checkpoint:
    state = {"values": [torch.arange(3.0), torch.ones(2)], "exp_avg": [torch.zeros(3), torch.ones(2)]}
    mask = Mask({"a": torch.tensor([0, 2, 4])})
    checkpoint = Checkpoint(
        8,
        0.5,
        state,
        {"step": torch.tensor(8.0)},
        {"cpu": torch.ones(1, 4).byte()},
        mask,
        {},
        kept={"rows.a": torch.ones(2)},
    )
    checkpoint.save(path)
    return checkpoint


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    checkpoint, found = kept(path), last_checkpoint(path)
    assert found is not None
    assert (found.step, found.loss) == (8, 0.5)
    assert torch.equal(found.kept["rows.a"], torch.ones(2))
    assert all(
        torch.equal(a, b)
        for key in checkpoint.state
        for a, b in zip(checkpoint.state[key], found.state[key], strict=True)
    )


def test_one_of_an_earlier_version_without_checksums_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    kept(path)
    save_file(load_file(path), path)
    assert Checkpoint.load(path).step == 8


@pytest.mark.parametrize(
    "spoil", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"\7"]
)
def test_a_damaged_one_is_named_and_the_run_begins_from_its_start(
    tmp_path: Path, spoil, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    kept(path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(Damaged):
        Checkpoint.load(path)
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(path) is None
    assert f"{path} is damaged" in caplog.text
    assert "the run begins from its start" in caplog.text


def test_a_file_without_its_loss_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    kept(path)
    tensors = load_file(path)
    del tensors["loss"]
    save_file(tensors, path)
    assert last_checkpoint(path) is None
