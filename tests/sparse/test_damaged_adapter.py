"""A damaged adapter is refused with its name and the reason, and the model stays as it was."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gallop_ray.disk.damage import Damaged
from gallop_ray.sparse.adapter import apply_adapter, save_adapter
from gallop_ray.sparse.base_state import base_hash
from tests.training import tiny

FIRST, LAST = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
Tensors = dict[str, Tensor]


def saved(path: Path) -> Path:
    indices = {name: torch.tensor([1, 5, 9], dtype=torch.int32) for name in (FIRST, LAST)}
    deltas = {name: torch.tensor([0.5, -1.0, 2.0]) for name in indices}
    save_adapter(path, indices, deltas, {"base_hash": base_hash(tiny.model())})
    return path


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({f"{LAST}.{name}": change(tensors[f"{LAST}.{name}"]).contiguous()})


CHANGES: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "nan": (replaced("delta", lambda d: d * torch.nan), "its delta is not finite"),
    "inf": (replaced("delta", lambda d: d * torch.inf), "its delta is not finite"),
    "negative": (replaced("indices", lambda i: i - 5), "negative, repeated or not sorted"),
    "repeated": (replaced("indices", lambda i: i.clamp(min=5)), "negative, repeated or not sorted"),
    "unsorted": (replaced("indices", lambda i: i.flip(0)), "negative, repeated or not sorted"),
    "outside": (replaced("indices", lambda i: i + 10**6), r"index 1000009 is outside of its \d+ entries"),
    "one delta": (replaced("delta", lambda d: d[:1]), "do not match"),
    "short": (replaced("delta", lambda d: d[:2]), "do not match"),
    "flat": (replaced("indices", lambda i: i.view(1, -1)), "do not match"),
    "float indices": (replaced("indices", lambda i: i.float()), "neither int32 or int64"),
    "half delta": (replaced("delta", lambda d: d.bfloat16()), "nor float32"),
    "no indices": (lambda tensors: tensors.pop(f"{LAST}.indices"), "lacks its indices or its delta"),
    "no delta": (lambda tensors: tensors.pop(f"{LAST}.delta"), "lacks its indices or its delta"),
    "a stranger": (
        lambda tensors: tensors.update({"no.weight.delta": torch.ones(1), "no.weight.indices": torch.tensor([0])}),
        "the model has no weight no.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_no_checksum_sees_is_refused_and_changes_nothing(tmp_path: Path, change: str) -> None:
    path, model = saved(tmp_path / "adapter.safetensors"), tiny.model()
    tensors, (spoil, reason) = load_file(path), CHANGES[change]
    spoil(tensors)
    save_file(tensors, path, {"format": "gallop_ray delta 1", "base_hash": base_hash(model)})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.*{reason}"):
        apply_adapter(model, path)
    assert tiny.same(tiny.whole_weights(model), tiny.whole_weights(tiny.model()))


def test_a_matrix_that_is_missing_altogether_is_seen(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "adapter.safetensors"), tiny.model()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(LAST)}
    save_file(tensors, path, metadata)
    with pytest.raises(Damaged, match="not all of its tensors are there"):
        apply_adapter(model, path)
    assert tiny.same(tiny.whole_weights(model), tiny.whole_weights(tiny.model()))


def test_a_file_that_was_cut_short_or_changed_is_damaged(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "adapter.safetensors"), tiny.model()
    whole = path.read_bytes()
    for data in (b"", whole[:4], whole[: len(whole) // 2], whole[:-1], whole[:-2] + b"\x40\x80", b"no tensors" * 9):
        path.write_bytes(data)
        with pytest.raises(Damaged, match=r"adapter\.safetensors is damaged"):
            apply_adapter(model, path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Damaged, match="is a folder"):
        apply_adapter(model, path)
    assert tiny.same(tiny.whole_weights(model), tiny.whole_weights(tiny.model()))


def test_a_changed_base_hash_and_none_are_told_apart_from_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path / "adapter.safetensors")
    data, named = path.read_bytes(), base_hash(tiny.model()).encode()
    path.write_bytes(data.replace(named, b"0" * len(named)))
    with pytest.raises(Damaged, match="its metadata is not what was written"):
        apply_adapter(tiny.model(), path)
    save_file(load_file(saved(path)), path, {"format": "gallop_ray delta 1"})
    with pytest.raises(ValueError, match="names no base model"):
        apply_adapter(tiny.model(), path)


def test_an_adapter_of_an_earlier_version_without_checksums_is_read(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "adapter.safetensors"), tiny.model()
    save_file(load_file(path), path, {"format": "gallop_ray delta 1", "base_hash": base_hash(model)})
    before = model.get_parameter(LAST).view(-1)[5].item()
    apply_adapter(model, path)
    assert model.get_parameter(LAST).view(-1)[5].item() == pytest.approx(before - 1)
